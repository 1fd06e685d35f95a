//! The logs in whose `append_with` closures this thread is.
//!
//! Inside the closure of an `append_with` a frame is claimed, and a sync of the same log would wait for
//! it forever. Other logs may be synced there.

use super::LogWriter;
use crate::error::SyncError;
use crate::sync::thread_local;
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::ptr;

thread_local! {
    /// The address of the log whose closure runs on this thread; null outside of closures.
    static INNERMOST: Cell<*const LogWriter> = const { Cell::new(ptr::null()) };
    /// The logs of the closures around that one. Never destroyed, since a thread may append while it
    /// ends; it owns nothing outside of closures.
    static OUTER: ManuallyDrop<RefCell<Vec<*const LogWriter>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// Marks this thread as inside an `append_with`, even while unwinding.
pub(super) struct Filling {
    /// The innermost log before.
    outer: *const LogWriter,
}

impl LogWriter {
    pub(super) fn enter_append(&self) -> Filling {
        let outer = INNERMOST.with(|innermost| innermost.replace(self));
        if !outer.is_null() {
            OUTER.with(|all| all.borrow_mut().push(outer));
        }
        Filling { outer }
    }

    /// An error inside a closure of this log: the caller would wait for a frame that this thread is
    /// filling.
    pub(crate) fn check_outside_append(&self) -> Result<(), SyncError> {
        let innermost = INNERMOST.with(Cell::get);
        let inside = ptr::eq(innermost, self)
            || !innermost.is_null()
                && OUTER.with(|all| all.borrow().contains(&ptr::from_ref(self)));
        if inside { Err(SyncError::InsideAppend) } else { Ok(()) }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        INNERMOST.with(|innermost| innermost.set(self.outer));
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
