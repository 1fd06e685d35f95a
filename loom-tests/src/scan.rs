//! An iteration beside writers of one key of the store: it meets the key exactly once.
//!
//! The key is that of `slot.rs`, and its marks are tailcask's own. What the iteration does follows
//! `src/store/iter.rs`: `Scan::new` and `next_found`.

use crate::slot::{Key, NEW, OLD};
use crate::sync::{Arc, AtomicBool, Ordering, lock};
use crate::{begin_main, model, spawn};

/// A key that is marked.
fn marked() -> Arc<Key> {
    let key = Key::with_marks();
    key.snapshot();
    key
}

/// Runs passes beside `change`, and one afterwards. Returns what they yield.
fn passes(key: &Arc<Key>, change: impl FnOnce(&Key)) -> Vec<Vec<u8>> {
    let scan = spawn({
        let key = key.clone();
        move || [key.pass(), key.pass()].concat()
    });
    begin_main();
    change(key);
    let mut all = scan.join().unwrap();
    all.extend(key.pass());
    all
}

/// A put moves the mark while the iteration takes it: the value is the old one or the new one, and
/// comes once.
pub fn a_scan_meets_an_overwritten_key_once() {
    model(3, || {
        let all = passes(&marked(), |key| _ = key.put());
        assert!(all == [OLD] || all == [NEW], "{all:?}");
    });
}

/// A merge moves the mark, and unmaps the segment that it was in; a put moves it on.
pub fn a_scan_meets_a_merged_key_once() {
    model(3, || {
        let key = marked();
        let old = lock(&key.slot).expect("a value");
        let merging = spawn({
            let key = key.clone();
            move || key.merge_away(old)
        });
        let all = passes(&key, |_| ());
        merging.join().unwrap();
        let all = [all, key.pass()].concat();
        assert_eq!(all, [OLD]);
    });
}

/// A delete takes the mark, if the iteration has not.
pub fn a_scan_meets_a_deleted_key_once_or_not() {
    model(3, || {
        let all = passes(&marked(), |key| _ = key.delete());
        assert!(all.is_empty() || all == [OLD], "{all:?}");
    });
}

/// The iteration registers itself and takes its snapshot beside a writer, who moves no mark before he
/// knows of an iteration.
pub fn a_scan_marks_a_key_beside_a_writer() {
    model(3, || {
        let (key, registered) = (Key::with_marks(), Arc::new(AtomicBool::new(false)));
        let putting = spawn({
            let (key, registered) = (key.clone(), registered.clone());
            move || key.put_if_registered(&registered)
        });
        begin_main();
        // ORDERING: Relaxed; as in `ActiveScans::add`.
        registered.store(true, Ordering::Relaxed);
        key.snapshot();
        let mut all = key.pass();
        putting.join().unwrap();
        all.extend(key.pass());
        assert!(all == [OLD] || all == [NEW], "{all:?}");
    });
}
