//! One slow read holds up the operation that needs it, and no other key of its shard.
//!
//! A page is made slow by taking it away: whoever reads it faults, and the handler of the signal waits
//! until the test gives the page back. So a test holds an operation at exactly the read that would have
//! waited for the device, for as long as it wants.
#![cfg(unix)]
#![allow(unsafe_code, reason = "takes a page of a mapping away, and handles the signal")]

mod common;

use common::{HANG, Random, rounds, store_by_hand, until, within};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tailcask::{Batch, Expected, Store, StoreOptions, Ttl, WriteError, WriteOptions};

const PAGE: usize = 4096;

/// The page that is slow, or 0.
static SLOW: AtomicUsize = AtomicUsize::new(0);
/// Threads that wait for it.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static GIVEN_BACK: AtomicBool = AtomicBool::new(false);

extern "C" fn wait_for_page(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler of this kind.
    let info = unsafe { &*info };
    // SAFETY: it is that of a fault, which has an address.
    let at = unsafe { info.si_addr() } as usize;
    if SLOW.load(SeqCst) != at - at % PAGE {
        // Another fault, which repeats itself after this, and ends the process.
        // SAFETY: sets the default handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    WAITING.fetch_add(1, SeqCst);
    while !GIVEN_BACK.load(SeqCst) {
        let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: may be called in a handler; the argument lives until it returns.
        unsafe { libc::nanosleep(&raw const moment, std::ptr::null_mut()) };
    }
}

/// A page that nobody can read as long as this exists, but wait for.
struct SlowPage {
    page: usize,
}

/// There is one slow page at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SlowPage {
    /// The page with the key of a value: `put` has made sure that no other key is on it.
    fn of_key(value: &[u8]) -> Self {
        let at = value.as_ptr() as usize - 8;
        let page = at - at % PAGE;
        WAITING.store(0, SeqCst);
        GIVEN_BACK.store(false, SeqCst);
        SLOW.store(page, SeqCst);
        // SAFETY: an empty set of signals is a valid value of every field.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = wait_for_page as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: the handler does only what a handler may do.
            let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            assert_eq!(done, 0);
        }
        protect(page, libc::PROT_NONE);
        Self { page }
    }

    fn wait_for_readers(&self, count: usize) {
        until("it is read", || WAITING.load(SeqCst) == count);
    }
}

impl Drop for SlowPage {
    fn drop(&mut self) {
        protect(self.page, libc::PROT_READ);
        GIVEN_BACK.store(true, SeqCst);
    }
}

fn protect(page: usize, how: i32) {
    // SAFETY: a page of a sealed segment that a value has pinned, or a merge keeps; nothing is written to
    // it, and reads of it that fault are repeated.
    let done = unsafe { libc::mprotect(page as *mut libc::c_void, PAGE, how) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// All keys are in one shard, and have tags of their own.
fn options() -> StoreOptions {
    store_by_hand().tag_bits(20).cache_budget(0)
}

const OLD: [u8; 3 * PAGE] = [b'o'; 3 * PAGE];
const NEW: &[u8] = b"new";

/// A store in which the page with the key `cold` has no other key, and is in a sealed segment; and in which
/// some hot keys are in the segment that is written to.
fn store(dir: &std::path::Path) -> Arc<Store> {
    let store = options().open(dir.join("store")).unwrap();
    store.put("before", OLD).unwrap();
    store.put("cold", OLD).unwrap();
    store.put("behind", OLD).unwrap();
    store.roll().unwrap();
    assert!(store.stats().cache.is_exceeded);
    for n in 0..8 {
        store.put(format!("hot {n}"), "0").unwrap();
    }
    Arc::new(store)
}

/// Everything with keys beside the cold one, in its shard, and a roll.
fn work_beside(store: &Arc<Store>) {
    let (store, (done, finished)) = (store.clone(), mpsc::channel());
    let work = thread::spawn(move || {
        for n in 0..8 {
            let key = format!("hot {n}");
            assert!(store.get(&key).unwrap().is_some());
            store.put(&key, "1").unwrap();
            assert!(store.get(format!("absent {n}")).unwrap().is_none());
            assert!(store.put_if_absent(format!("more {n}"), "1").unwrap());
            assert!(store.delete(format!("more {n}")).unwrap());
            store.compare_and_swap(&key, Some(b"1"), Some(b"2")).unwrap().unwrap();
            store.update(&key, |_| Some(b"3".to_vec())).unwrap();
            let mut batch = Batch::new();
            batch.put(&key, "0").delete(format!("absent {n}"));
            store.write(&batch).unwrap();
        }
        let keys: Vec<_> = (0..8).map(|n| format!("hot {n}")).collect();
        assert!(store.get_many(&keys).unwrap().iter().all(Option::is_some));
        store.roll().unwrap();
        done.send(()).unwrap();
    });
    // The page is given back when this panics, and then the other threads end.
    assert!(
        finished.recv_timeout(HANG / 10).is_ok(),
        "it waits for the slow page, or has panicked"
    );
    work.join().unwrap();
}

/// An operation on the cold key waits for its page, and operations on others do not wait for it.
fn beside(what: &str, operate: impl FnOnce(&Store) + Send + 'static) {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let page = SlowPage::of_key(&store.get("cold").unwrap().unwrap());
    let reader = {
        let store = store.clone();
        thread::spawn(move || operate(&store))
    };
    page.wait_for_readers(1);
    work_beside(&store);
    assert!(!reader.is_finished(), "{what}: it has not waited");
    drop(page);
    reader.join().unwrap();
    let is_new = matches!(store.get("cold").unwrap(), Some(value) if &*value == NEW);
    assert_eq!(is_new, what.starts_with("write"), "{what}");
    store.verify().unwrap();
}

#[test]
fn a_slow_get_holds_up_no_other_key() {
    within(|| {
        beside("get", |store| assert_eq!(&*store.get("cold").unwrap().unwrap(), OLD));
        beside("contains_key", |store| assert!(store.contains_key("cold").unwrap()));
        beside("value_len", |store| {
            assert_eq!(store.value_len("cold").unwrap(), Some(OLD.len()));
        });
    });
}

#[test]
fn a_slow_put_holds_up_no_other_key() {
    within(|| beside("write: put", |store| _ = store.put("cold", NEW).unwrap()));
}

#[test]
fn a_slow_conditional_write_holds_up_no_other_key() {
    within(|| {
        beside("delete", |store| assert!(store.delete("cold").unwrap()));
        beside("put_if_absent", |store| assert!(!store.put_if_absent("cold", NEW).unwrap()));
        beside("write: compare_and_swap", |store| {
            store.compare_and_swap("cold", Some(&OLD), Some(NEW)).unwrap().unwrap();
        });
        beside("compare_and_swap", |store| {
            let found = store.compare_and_swap("cold", None, Some(NEW)).unwrap();
            assert_eq!(found.unwrap_err().current.as_deref(), Some(&OLD[..]));
        });
        beside("write: update", |store| {
            let change = |old: Option<&[u8]>| {
                assert_eq!(old, Some(&OLD[..]));
                Some(NEW.to_vec())
            };
            store.update("cold", change).unwrap();
        });
        beside("touch", |store| {
            assert!(store.touch("cold", Duration::from_secs(3600)).unwrap());
        });
        beside("write: put that keeps a TTL", |store| {
            store.put_with("cold", NEW, &WriteOptions::new().keep_ttl()).unwrap();
        });
        beside("delete_damaged", |store| assert!(store.delete_damaged("cold").unwrap()));
    });
}

#[test]
fn slow_batches_and_lookups_of_many_hold_up_no_other_key() {
    within(|| {
        beside("write: batch", |store| {
            let mut batch = Batch::new();
            batch.put("cold", "first").put("cold", NEW).put("hot 1", "4");
            store.write(&batch).unwrap();
        });
        beside("write: batch that keeps a TTL", |store| {
            let mut batch = Batch::new();
            batch.put_with("cold", NEW, Ttl::Keep);
            store.write(&batch).unwrap();
        });
        for expected in [Expected::Absent, Expected::Present, Expected::Value(&OLD)] {
            let what = if expected == Expected::Absent { "conflict" } else { "write: batch" };
            beside(what, move |store| {
                let mut batch = Batch::new();
                batch.expect("cold", expected).put("cold", NEW);
                let is_written = !matches!(store.write(&batch), Err(WriteError::Conflict(_)));
                assert_eq!(is_written, expected != Expected::Absent);
            });
        }
        beside("question", |store| {
            let mut batch = Batch::new();
            store.write(batch.expect("cold", Expected::Value(&OLD))).unwrap();
        });
        for others in [0, 100] {
            beside("get_many", move |store| {
                let mut keys = vec!["cold".to_owned(), "hot 1".to_owned()];
                keys.extend((0..others).map(|n| format!("absent {n}")));
                assert_eq!(store.get_many(&keys).unwrap()[0].as_deref(), Some(&OLD[..]));
            });
        }
    });
}

/// Where a write needs a segment of its own, nobody rolls from when that is made until it is used.
#[test]
fn a_slow_large_write_holds_up_no_roll() {
    static LARGE: &[u8] = &[b'l'; 3 << 20];
    within(|| {
        beside("large put", |store| _ = store.put("cold", LARGE).unwrap());
        beside("large update", |store| _ = store.update("cold", |_| Some(LARGE.to_vec())).unwrap());
        beside("large batch", |store| {
            store.write(Batch::new().put("cold", "small").put("large", LARGE)).unwrap();
        });
    });
}

/// An operation has found where its key is, and waits for the page there, when a merge moves the key away
/// and retires the segment.
fn beside_a_merge(what: &str, operate: impl FnOnce(&Store) + Send + 'static) {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let cold = store.get("cold").unwrap().unwrap();
    let (id, place) = (cold.position().segment(), cold.as_ptr() as usize);
    drop(cold);
    let (started, merged) = mpsc::channel();
    let reading = store.clone();
    let meanwhile = move || {
        // SAFETY: the merge keeps its input mapped, and `of_key` takes an address from this only.
        let value = unsafe { std::slice::from_raw_parts(place as *const u8, 1) };
        let page = SlowPage::of_key(value);
        let reader = thread::spawn(move || operate(&reading));
        page.wait_for_readers(1);
        started.send((page, reader)).unwrap();
    };
    // It does not read the page again to count it as dead.
    store.merge_only_and_wait(id, meanwhile);
    let (page, reader) = merged.recv().unwrap();
    assert!(store.stats().segments.iter().all(|segment| segment.id != id), "it is merged");
    work_beside(&store);
    assert!(!reader.is_finished(), "{what}: it has not waited");
    drop(page);
    reader.join().unwrap();
    let found = store.get("cold").unwrap();
    let expected = if what.starts_with("write") { NEW } else { &OLD };
    assert_eq!(found.as_deref(), Some(expected), "{what}");
    drop(found);
    store.verify().unwrap();
    // What it has overwritten is dead, once, where it was last.
    let dead = store.stats().dead_bytes;
    store.merge().unwrap();
    assert_eq!(store.stats().dead_bytes, 0, "{what}, {dead} before");
    assert_eq!(store.len(), 11);
}

/// `merge_while`, within a limit.
trait MergeOnlyAndWait {
    fn merge_only_and_wait(&self, id: u32, meanwhile: impl FnOnce() + Send + 'static);
}

impl MergeOnlyAndWait for Arc<Store> {
    fn merge_only_and_wait(&self, id: u32, meanwhile: impl FnOnce() + Send + 'static) {
        let store = self.clone();
        within(move || assert_eq!(store.merge_while(&[id], meanwhile).unwrap().inputs, 1));
    }
}

#[test]
fn a_segment_is_retired_between_finding_a_position_and_deciding() {
    within(|| {
        beside_a_merge("get", |store| assert_eq!(&*store.get("cold").unwrap().unwrap(), OLD));
        beside_a_merge("write: put", |store| _ = store.put("cold", NEW).unwrap());
        beside_a_merge("put_if_absent", |store| {
            assert!(!store.put_if_absent("cold", NEW).unwrap());
        });
        beside_a_merge("write: compare_and_swap", |store| {
            store.compare_and_swap("cold", Some(&OLD), Some(NEW)).unwrap().unwrap();
        });
        beside_a_merge("write: batch", |store| {
            let mut batch = Batch::new();
            batch.put("cold", NEW);
            store.write(&batch).unwrap();
        });
        beside_a_merge("write: batch that expects", |store| {
            let mut batch = Batch::new();
            batch.expect("cold", Expected::Value(&OLD)).put_with("cold", NEW, Ttl::Keep);
            store.write(&batch).unwrap();
        });
    });
}

/// Frames that were read without the lock are counted as dead like others.
#[test]
fn what_a_cold_put_overwrites_is_dead() {
    let dead = |budget| {
        let dir = tempfile::tempdir().unwrap();
        // Each key has the tag of some others.
        let options = store_by_hand().tag_bits(2).cache_budget(budget);
        let store = options.open(dir.path().join("store")).unwrap();
        for n in 0..20_u32 {
            store.put(n.to_le_bytes(), vec![7; 100 * n as usize]).unwrap();
        }
        store.roll().unwrap();
        for n in 0..5_u32 {
            store.put(n.to_le_bytes(), "new").unwrap();
            assert!(store.delete((5 + n).to_le_bytes()).unwrap());
            let (key, old) = ((10 + n).to_le_bytes(), vec![7; 100 * (10 + n) as usize]);
            store.compare_and_swap(key, Some(&old), Some(b"new")).unwrap().unwrap();
        }
        let mut batch = Batch::new();
        for n in 15..20_u32 {
            batch.put(n.to_le_bytes(), "new");
        }
        store.write(&batch).unwrap();
        for n in 0..20_u32 {
            let expected = (!(5..10).contains(&n)).then_some(&b"new"[..]);
            assert_eq!(store.get(n.to_le_bytes()).unwrap().as_deref(), expected, "{n}");
        }
        let stats = store.stats();
        assert_eq!((stats.cache.is_exceeded, stats.keys), (budget == 0, 15));
        stats.segments.iter().map(|segment| (segment.id, segment.dead_bytes)).collect::<Vec<_>>()
    };
    assert!(dead(0)[0].1 > 15_000);
    assert_eq!(dead(0), dead(u64::MAX));
}

/// Puts of one cold key, beside merges that keep moving it.
#[test]
fn merges_against_cold_puts_of_one_key() {
    within(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = options().tag_bits(1).open(dir.path().join("store")).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    store.roll().unwrap();
                    store.merge().unwrap();
                }
            });
            let _finish = common::Finish(&done);
            for n in 0..rounds(1500) {
                store.put("key", n.to_le_bytes()).unwrap();
                store.put(format!("other {}", n % 5), n.to_le_bytes()).unwrap();
                if n % 3 == 0 {
                    thread::yield_now();
                }
                assert_eq!(&*store.get("key").unwrap().unwrap(), n.to_le_bytes());
                let swap = store.compare_and_swap("key", Some(&n.to_le_bytes()), Some(b"x"));
                swap.unwrap().unwrap();
            }
        });
        store.verify().unwrap();
        assert_eq!(store.len(), 6);
        store.merge().unwrap();
        assert_eq!(store.stats().dead_bytes, 0);
    });
}

/// Every operation works, and nothing is lost, while the budget goes up and down.
#[test]
fn a_budget_that_changes_while_the_store_is_open() {
    within(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = options().open(dir.path().join("store")).unwrap();
        let done = AtomicBool::new(false);
        let key = |n: u64| format!("key {n}");
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0_u64.. {
                    store.set_cache_budget(if n % 2 == 0 { u64::MAX } else { 0 });
                    let cache = store.stats().cache;
                    assert!(cache.resident.is_none_or(|share| (0.0..=1.0).contains(&share)));
                    store.maintain().unwrap();
                    if done.load(SeqCst) {
                        break;
                    }
                    thread::sleep(Duration::from_micros(300));
                }
            });
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    store.roll().unwrap();
                    store.merge().unwrap();
                }
            });
            let _finish = common::Finish(&done);
            let mut random = Random::new(1);
            for n in 0..rounds(2000) {
                let at = random.index(50) as u64;
                store.put(key(at), n.to_le_bytes()).unwrap();
                assert_eq!(&*store.get(key(at)).unwrap().unwrap(), n.to_le_bytes());
                let mut batch = Batch::new();
                (0..50).filter(|other| other % 7 == at % 7).for_each(|other| {
                    batch.put(key(other), n.to_le_bytes());
                });
                store.write(&batch).unwrap();
                let keys: Vec<_> = (0..50).map(key).collect();
                let found = store.get_many(&keys).unwrap();
                let right = |other: usize| found[other].as_deref() == Some(&n.to_le_bytes()[..]);
                assert!((0..50).filter(|other| *other as u64 % 7 == at % 7).all(right));
            }
        });
        store.verify().unwrap();
        assert_eq!(store.len(), 50);
    });
}

/// The store is cold beyond the budget, and warm again a sixteenth below it.
#[test]
fn the_budget_decides() {
    let dir = tempfile::tempdir().unwrap();
    let options = store_by_hand().cache_budget(1 << 20);
    let store = options.open(dir.path().join("store")).unwrap();
    let cache = || store.stats().cache;
    assert_eq!((cache().budget, cache().is_exceeded, cache().resident), (1 << 20, false, None));
    let fill = |n: u32| {
        store.put(n.to_le_bytes(), vec![7; 300 << 10]).unwrap();
        store.roll().unwrap();
    };
    (0..3).for_each(fill);
    assert!(!cache().is_exceeded);
    fill(3);
    assert!(cache().is_exceeded, "1200 of 1024 KiB");
    store.set_cache_budget(1250 << 10);
    assert!(cache().is_exceeded, "it is not a sixteenth below");
    store.set_cache_budget(1300 << 10);
    assert!(!cache().is_exceeded);
    if cfg!(target_os = "linux") {
        assert_eq!(cache().resident, Some(1.0), "it was just written");
    }
    store.set_cache_budget(1 << 20);
    assert!(cache().is_exceeded);
    // A merge leaves less.
    (0..2u32).for_each(|n| assert!(store.delete(n.to_le_bytes()).unwrap()));
    store.merge().unwrap();
    assert!(!cache().is_exceeded);
    for n in 2..4u32 {
        assert_eq!(store.get(n.to_le_bytes()).unwrap().unwrap().len(), 300 << 10);
    }
    let store = (store.close().unwrap(), options.cache_budget(0).open(dir.path().join("store")));
    assert!(store.1.unwrap().stats().cache.is_exceeded, "as it is opened");
    let view = options_of_views(0).open_read_only(dir.path().join("store")).unwrap();
    assert!(view.stats().cache.is_exceeded);
    assert!(view.verify().is_ok());
    let view = options_of_views(u64::MAX).open_read_only(dir.path().join("store")).unwrap();
    assert!(!view.stats().cache.is_exceeded);
}

fn options_of_views(budget: u64) -> StoreOptions {
    Store::options().cache_budget(budget)
}
