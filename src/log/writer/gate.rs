//! Who may change the files of a log, and when nobody may any more.
//!
//! Invariant: nothing in the directory is created, renamed or removed after the log has let another
//! writer in. Whoever is about to change something there enters the gate first, and stays inside for as
//! long as it takes; closing turns newcomers away, and waits for those inside. An operation that is
//! inside may begin others, which enter on their own: once the gate is closed these are refused, and
//! the operation ends with their error.
//!
//! Appends do not enter: they find the segment full, and enter to roll. Nor do the log's threads, which
//! have ended before the gate is closed.

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError, lock};

#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// The last one has left.
    empty: Condvar,
}

#[derive(Debug, Default)]
struct State {
    inside: usize,
    closed: bool,
}

/// The right to change files, until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'g>(&'g Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// `None`: the gate is closed.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.inside += 1;
        Some(Inside(self))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Closes the gate, and waits until nobody is inside.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        while state.inside > 0 {
            state = self.empty.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.inside -= 1;
        if state.inside == 0 {
            self.0.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_closed_gate_waits_for_those_inside_and_refuses_others() {
        let gate = Gate::default();
        let outer = gate.enter().expect("open");
        thread::scope(|scope| {
            let (closed, is_closed) = mpsc::channel();
            let closing = &gate;
            scope.spawn(move || {
                closing.close();
                closed.send(()).expect("received");
            });
            while !gate.is_closed() {
                thread::yield_now();
            }
            assert!(gate.enter().is_none());
            assert!(is_closed.recv_timeout(Duration::from_millis(20)).is_err(), "one is inside");
            drop(outer);
            is_closed.recv().expect("nobody is inside");
        });
        assert!(gate.enter().is_none());
        gate.close();
    }
}
