//! Closing a log that a thread of its own has the last handle on.
//!
//! A thread that merges, or truncates, wakes tasks meanwhile, and a task that is dropped then may have the last
//! handle. Closing waits for merges and truncations, and so would wait for itself. Under a [`CloseLater`] what is
//! to be closed is kept, and dropped when the thread is done.

use crate::log::writer::LogWriter;
use crate::sync::thread_local;
use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static LATER: RefCell<Option<Later>> = const { RefCell::new(None) };
}

struct Later {
    /// What this thread works for; only compared.
    of: *const LogWriter,
    kept: Option<Box<dyn Any>>,
}

/// As long as one exists, this thread does not close the log of a writer. To be made before a lock is taken that
/// closing takes, and dropped after it.
#[derive(Debug)]
#[must_use]
pub(crate) struct CloseLater {
    _of_this_thread: PhantomData<*const ()>,
}

impl CloseLater {
    pub(crate) fn begin(writer: &LogWriter) -> Self {
        let of = std::ptr::from_ref(writer);
        LATER.with(|later| *later.borrow_mut() = Some(Later { of, kept: None }));
        Self { _of_this_thread: PhantomData }
    }

    /// Whether this thread is not to close the log of this writer now.
    pub(crate) fn is_of(writer: &LogWriter) -> bool {
        let is_of = |later: &Later| std::ptr::eq(later.of, writer);
        LATER.try_with(|later| later.borrow().as_ref().is_some_and(is_of)).unwrap_or(false)
    }

    /// Keeps what closes it when it is dropped.
    pub(crate) fn keep(log: impl Any) {
        LATER.with(|later| {
            if let Some(later) = &mut *later.borrow_mut() {
                later.kept = Some(Box::new(log));
            }
        });
    }
}

impl Drop for CloseLater {
    fn drop(&mut self) {
        // It closes the log behind this line, when nothing is borrowed.
        let _later = LATER.with(|later| later.borrow_mut().take());
    }
}
