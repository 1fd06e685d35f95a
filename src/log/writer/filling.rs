//! Which logs this thread is inside of a closure of.
//!
//! Inside the closure of an `append_with` a frame is claimed, and a sync of the same log would wait
//! for it for ever. Other logs may be synced there.

use super::LogWriter;
use crate::error::SyncError;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::ptr;

thread_local! {
    /// The log whose closure runs on this thread, by its address; null outside.
    static INNERMOST: Cell<*const LogWriter> = const { Cell::new(ptr::null()) };
    /// Those whose closures that one is inside of. Never destroyed, for a thread may append while it
    /// ends; it owns nothing outside of closures.
    static OUTER: ManuallyDrop<RefCell<Vec<*const LogWriter>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// Marks this thread as inside an `append_with`, also while unwinding out of it.
pub(super) struct Filling {
    /// What was innermost before.
    outer: *const LogWriter,
}

impl LogWriter {
    pub(super) fn enter_append(&self) -> Filling {
        let outer = INNERMOST.replace(self);
        if !outer.is_null() {
            OUTER.with(|all| all.borrow_mut().push(outer));
        }
        Filling { outer }
    }

    /// Refuses what would wait for a frame that this thread is filling.
    pub(super) fn check_outside_append(&self) -> Result<(), SyncError> {
        let innermost = INNERMOST.get();
        let inside = ptr::eq(innermost, self)
            || !innermost.is_null()
                && OUTER.with(|all| all.borrow().contains(&ptr::from_ref(self)));
        if inside { Err(SyncError::InsideAppend) } else { Ok(()) }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        INNERMOST.set(self.outer);
        if !self.outer.is_null() {
            OUTER.with(|all| {
                let mut all = all.borrow_mut();
                all.pop();
                if all.is_empty() {
                    *all = Vec::new();
                }
            });
        }
    }
}
