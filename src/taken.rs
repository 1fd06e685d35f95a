//! Where and when something was taken that may hold something up: the feature `backtraces`.
//!
//! Without the feature a [`Mark`] takes no room, and making one does nothing. With it, a mark has a
//! backtrace if `RUST_LIB_BACKTRACE` asks for that, which takes microseconds; if it does not, a mark costs a
//! look at a flag. `RUST_BACKTRACE` alone does not: it is set for the sake of panics, and each read would
//! take ten times as long.

#[cfg(feature = "backtraces")]
use std::backtrace::Backtrace;
#[cfg(feature = "backtraces")]
use std::collections::BTreeMap;
#[cfg(feature = "backtraces")]
use std::fmt;
#[cfg(feature = "backtraces")]
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
#[cfg(feature = "backtraces")]
use std::time::{Duration, Instant};

/// Where and when something was taken: with the feature `backtraces`, and if `RUST_LIB_BACKTRACE` is set
/// to anything but 0. See
/// [`HeldSegment`](crate::HeldSegment) and [`UnfinishedAppend`](crate::UnfinishedAppend).
#[cfg(feature = "backtraces")]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TakenAt {
    /// When.
    pub at: Instant,
    /// The name of the thread, if it has one.
    pub thread: Option<String>,
    /// Where.
    pub backtrace: Arc<Backtrace>,
}

#[cfg(feature = "backtraces")]
impl fmt::Display for TakenAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = self.thread.as_deref().unwrap_or("without a name");
        let age = Duration::from_millis(self.at.elapsed().as_millis() as u64);
        write!(f, "taken {age:?} ago by the thread {thread:?}, at\n{}", self.backtrace)
    }
}

#[cfg(feature = "backtraces")]
static WANTED: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("RUST_LIB_BACKTRACE").is_some_and(|value| value != "0"));

#[cfg(feature = "backtraces")]
type All = Arc<Mutex<Taken>>;

#[cfg(feature = "backtraces")]
#[derive(Debug, Default)]
struct Taken {
    /// In the order in which they were taken.
    all: BTreeMap<u64, (u64, TakenAt)>,
    next: u64,
}

/// The marks of one thing.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    #[cfg(feature = "backtraces")]
    taken: All,
}

/// Something is taken, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    #[cfg(feature = "backtraces")]
    taken: Option<(All, u64)>,
}

#[cfg(not(feature = "backtraces"))]
impl Marks {
    /// Marks that something is taken, and what: any number.
    #[inline(always)]
    pub(crate) const fn mark(&self, _what: u64) -> Mark {
        Mark {}
    }
}

#[cfg(feature = "backtraces")]
impl Marks {
    /// Marks that something is taken, and what: any number.
    #[inline]
    pub(crate) fn mark(&self, what: u64) -> Mark {
        if !*WANTED {
            return Mark::default();
        }
        let backtrace = Backtrace::force_capture();
        let thread = std::thread::current().name().map(str::to_owned);
        let taken = TakenAt { at: Instant::now(), thread, backtrace: Arc::new(backtrace) };
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = all.next;
        all.next += 1;
        all.all.insert(number, (what, taken));
        Mark { taken: Some((self.taken.clone(), number)) }
    }

    /// Where the oldest of these was taken that still is.
    pub(crate) fn oldest(&self, what: u64) -> Option<TakenAt> {
        let all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        all.all.values().find(|(of, _)| *of == what).map(|(_, taken)| taken.clone())
    }
}

#[cfg(feature = "backtraces")]
impl Drop for Mark {
    fn drop(&mut self) {
        if let Some((all, number)) = self.taken.take() {
            all.lock().unwrap_or_else(PoisonError::into_inner).all.remove(&number);
        }
    }
}
