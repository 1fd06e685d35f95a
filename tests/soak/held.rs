//! A reader that never lets go: values, an entry and readers are kept as long as the load lasts.

use crate::child::{PATIENCE, Shared};
use crate::content::Key;
use crate::{upkeep, usage};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tailcask::{Entry, Value};

/// How many segments can be held by it: of a value, a `Bytes`, an entry, and a reader.
const SEGMENTS: u64 = 4;

pub(crate) struct Held {
    thread: JoinHandle<()>,
    release: Sender<()>,
}

/// Waits until something is so, by sleeps that do not count while the process is stopped.
fn wait_until(what: &str, shared: &Shared, mut holds: impl FnMut() -> bool) {
    let mut waits = 0;
    while !holds() {
        waits += 1;
        let held = || shared.store.stats().held_segments;
        let open = || open(shared);
        assert!(waits < PATIENCE, "{what}: it does not come to that; {:?} {:?}", held(), open());
        if shared.plan.is_manual() {
            upkeep::maintain(shared);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Held {
    pub(crate) fn take(shared: &Arc<Shared>) -> Self {
        let (shared, (release, released)) = (shared.clone(), channel());
        Self { thread: std::thread::spawn(move || hold(&shared, &released)), release }
    }

    /// Lets go, when nothing else goes on: the process keeps no segment that is removed but those, and then none.
    pub(crate) fn release(self, shared: &Shared) {
        wait_until("only what is held is mapped", shared, || {
            usage::removed_and_mapped() <= SEGMENTS
        });
        drop(self.release);
        self.thread.join().unwrap();
        wait_until("nothing is mapped that is removed", shared, || {
            usage::removed_and_mapped() == 0
        });
        wait_until("nothing waits for readers", shared, || {
            let (store, log) = (shared.store.stats(), shared.log.stats());
            store.segments_waiting_for_readers == 0 && log.segments_waiting_for_readers == 0
        });
        wait_until("few files are open", shared, || {
            open(shared).len() <= usage::descriptors_at_rest()
        });
    }
}

fn open(shared: &Shared) -> Vec<PathBuf> {
    usage::open_files("self", &shared.places.small).unwrap()
}

fn hold(shared: &Shared, released: &Receiver<()>) {
    let is_released = || !matches!(released.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    // The first session begins with nothing.
    let (mut value, mut bytes, mut entry) = (None, None, None);
    let mut reader = shared.log.reader();
    while value.is_none() || bytes.is_none() || entry.is_none() {
        if is_released() {
            return;
        }
        let any = |writer: u64, from: u64| {
            let keys = (from..from + 100).map(move |nth| Key::single(writer, nth));
            keys.filter_map(|key| shared.store.get(key.bytes()).unwrap()).next()
        };
        value = value.or_else(|| any(0, 2));
        bytes = bytes.or_else(|| any(1, 100).map(Value::into_bytes));
        entry = entry.or_else(|| reader.next_entry().unwrap().map(Entry::into_owned));
        std::thread::sleep(Duration::from_millis(1));
    }
    let (value, bytes, entry) = (value.unwrap(), bytes.unwrap(), entry.unwrap());
    let copies = (value.to_vec(), bytes.to_vec(), entry.to_vec());
    let mut abandoned = shared.store.iter();
    abandoned.next();
    let _ = released.recv();
    let kept = (*value == copies.0, *bytes == copies.1, *entry == copies.2);
    assert_eq!(kept, (true, true, true), "what is held stays as it was");
}
