//! SIGBUS, for real and in processes of their own: files that are cut short under readers and writers, a full
//! disk of a file system that copies on write, and other owners of the signal.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "handlers of the signal, beside the library's")]

mod common;

use common::mounts::{self, Kind, fill, run_on};
use common::{children, entries, log_by_hand, sealed, store_by_hand};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tailcask::{
    AppendError, Batch, CommitLog, CorruptionKind, Durability, LogOptions, LogPosition, MapFault,
    ReadError, Store, StoreOptions, SyncError, WriteError,
};

fn options() -> LogOptions {
    log_by_hand().catch_sigbus(true)
}

fn store_options() -> StoreOptions {
    store_by_hand().catch_sigbus(true)
}

/// What a child plays, and how it ends: by itself, or by the signal.
fn plays(role: &str) -> Option<i32> {
    // On tmpfs, if there is one.
    let shared = Path::new("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    let output = children::command(role, dir.unwrap().path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.signal() {
        Some(signal) => Some(signal),
        None => {
            assert!(output.status.success() && said.contains("child: done"), "{role}: {output:?}");
            None
        }
    }
}

#[test]
#[ignore = "the other process of the tests below"]
fn child() {
    let Some((role, place)) = mounts::role() else { return };
    match &role[..] {
        "log readers" => cut_short_under_readers(&place),
        "store readers" => cut_short_under_a_store(&place),
        "open" => cut_short_while_it_is_opened(&place),
        "writers" => cut_short_under_writers(&place),
        "store writers" => cut_short_under_writers_of_a_store(&place),
        "syncs" => nobody_waits_for_ever(&place),
        "merge" => a_merge_publishes_nothing(&place),
        "without" => read_behind_the_end(&place, &log_by_hand()),
        "full" => full_disk(&place),
        "handler before" => with_another_handler(&place, true),
        "handler after" => with_another_handler(&place, false),
        "default" => end_by_a_sent_signal(&place),
        "elsewhere" => end_by_an_address_of_nobody(&place),
        "ignored" => ignore_a_sent_signal(&place),
        other => panic!("there is no role {other}"),
    }
    mounts::done();
}

#[test]
fn a_file_cut_short_is_an_error_of_every_read_and_names_the_place() {
    assert_eq!(plays("log readers"), None);
    assert_eq!(plays("store readers"), None);
    assert_eq!(plays("open"), None);
}

#[test]
fn a_file_cut_short_refuses_writes_and_none_is_acknowledged_that_is_in_no_file() {
    assert_eq!(plays("writers"), None);
    assert_eq!(plays("store writers"), None);
    assert_eq!(plays("syncs"), None);
    assert_eq!(plays("merge"), None);
}

#[test]
fn a_full_disk_that_copies_on_write_is_an_error_and_loses_nothing() {
    run_on(Kind::Btrfs, 160, "full");
}

#[test]
fn without_the_option_the_signal_ends_the_process() {
    assert_eq!(plays("without"), Some(libc::SIGBUS));
}

#[test]
fn other_handlers_get_what_is_theirs() {
    assert_eq!(plays("handler before"), None);
    assert_eq!(plays("handler after"), None);
    assert_eq!(plays("ignored"), None);
}

#[test]
fn a_signal_that_is_nobodys_ends_the_process() {
    assert_eq!(plays("default"), Some(libc::SIGBUS));
    assert_eq!(plays("elsewhere"), Some(libc::SIGBUS));
}

// ---- files that are cut short ----

fn segment(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:020}.seg"))
}

fn cut(dir: &Path, id: u32, len: u64) {
    std::fs::File::options().write(true).open(segment(dir, id)).unwrap().set_len(len).unwrap();
}

fn entry(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(250)
}

const CUT: u64 = 64 << 10;

/// A log of two segments, of which the first one is full.
fn two_segments(path: &Path, options: &LogOptions) -> (CommitLog, Vec<LogPosition>) {
    let log = options.open(path).unwrap();
    let positions: Vec<_> = (0..3000).map(|n| log.append(&entry(n)).unwrap()).collect();
    assert!(positions[0].segment() < positions[2999].segment());
    (log, positions)
}

fn is_cut(error: &ReadError, id: u32) -> bool {
    let ReadError::Corrupt(damage) = error else { return false };
    let text = error.to_string();
    assert!(text.contains("the file is shorter than its map, or its medium failed"), "{text}");
    assert!(
        text.contains(&format!("segment {id} is damaged at offset {}", damage.offset)),
        "{text}"
    );
    let is_there = |at: u64| at >= CUT && at.is_multiple_of(4096) && at < 2 << 20;
    damage.segment == id
        && matches!(damage.kind, CorruptionKind::Inaccessible { at } if is_there(at))
}

fn is_fault(error: &SyncError, id: u32) -> bool {
    let SyncError::Map(MapFault { segment, offset, in_hint, .. }) = *error else { return false };
    assert!(error.to_string().starts_with(&format!("segment {id} cannot be accessed at offset ")));
    segment == id && offset.is_multiple_of(4096) && !in_hint
}

fn is_refused(error: &AppendError, id: u32) -> bool {
    matches!(error, AppendError::Sync { source, .. } if is_fault(source, id))
}

fn read_behind_the_end(place: &Path, options: &LogOptions) {
    std::fs::create_dir_all(place).unwrap();
    let path = place.join("log");
    let (log, positions) = two_segments(&path, options);
    let id = positions[0].segment();
    cut(&path, id, CUT);
    let last = positions.iter().rfind(|at| at.segment() == id).unwrap();
    assert!(is_cut(&log.read(*last).unwrap_err(), id));
}

fn cut_short_under_readers(place: &Path) {
    let path = place.join("log");
    let (log, positions) = two_segments(&path, &options());
    let beside = options().open_read_only(&path).unwrap();
    let id = positions[0].segment();
    let kept = log.read(positions[1]).unwrap();
    cut(&path, id, CUT);
    for log in [&beside, &log] {
        let (mut reader, mut count) = (log.reader(), 0);
        let error = loop {
            match reader.next_entry() {
                Ok(found) => assert_eq!(*found.expect("the log goes on"), *entry(count)),
                Err(error) => break error,
            }
            count += 1;
        };
        assert!(is_cut(&error, id), "{error}");
        // All that is whole in what is left.
        let is_whole =
            |at: &&LogPosition| at.segment() == id && u64::from(at.offset()) + 1016 <= CUT;
        let whole = positions.iter().filter(is_whole).count();
        assert_eq!(reader.position().offset(), positions[count as usize].offset());
        assert!((whole - 20..=whole).contains(&(count as usize)), "{count} of {whole}");
        for (n, &at) in positions.iter().enumerate() {
            match log.read(at) {
                Ok(found) => assert_eq!(*found, *entry(n as u32)),
                Err(error) => {
                    assert!(at.segment() == id && n >= count as usize && is_cut(&error, id));
                }
            }
        }
        assert!(is_cut(&log.verify().unwrap_err(), id));
    }
    assert_eq!(*kept, *entry(1), "its page is there");
    // The one that writes refuses to, wherever the fault was.
    assert!(is_refused(&log.append(b"x").unwrap_err(), id));
    assert!(is_fault(&log.sync().unwrap_err(), id));
    assert!(log.truncate_before(positions[2999]).is_err());
    assert!(is_fault(&log.close().unwrap_err(), id));
    assert!(options().open(&path).is_err(), "and nothing is made of what is left");
    drop(kept);
}

fn cut_short_under_a_store(place: &Path) {
    let path = place.join("store");
    let store = store_options().open(&path).unwrap();
    (0..3000u32).for_each(|n| _ = store.put(n.to_le_bytes(), entry(n)).unwrap());
    store.log().maintain().unwrap();
    let (view, id) = (store_options().open_read_only(&path).unwrap(), sealed(&store)[0]);
    cut(&path, id, CUT);
    let (mut read, mut lost) = (0, 0);
    for n in 0..3000u32 {
        for found in [store.get(n.to_le_bytes()), view.get(n.to_le_bytes())] {
            match found {
                Ok(value) => {
                    assert_eq!(*value.expect("it was put"), *entry(n));
                    read += 1;
                }
                Err(error) => {
                    assert!(is_cut(&error, id), "{error}");
                    lost += 1;
                }
            }
        }
    }
    assert!(read > 1000 && lost > 1000, "{read} {lost}");
    let keys: Vec<_> = (0..3000u32).map(u32::to_le_bytes).collect();
    assert!(is_cut(&store.get_many(&keys).unwrap_err(), id));
    assert!(is_cut(&view.verify().unwrap_err(), id));
    let (good, bad): (Vec<_>, Vec<_>) = view.iter().partition(Result::is_ok);
    assert!(good.len() > 500 && !bad.is_empty());
    assert!(bad.into_iter().all(|error| is_cut(&error.unwrap_err(), id)));
    let refused = |error| matches!(error, WriteError::Append(error) if is_refused(&error, id));
    assert!(refused(store.put("key", "value").unwrap_err()));
    assert!(store.close().is_err());
}

/// What cannot be read is not taken for the end of the log.
fn cut_short_while_it_is_opened(place: &Path) {
    for (nth, aborted) in [false, true].into_iter().enumerate() {
        let path = place.join(format!("log {nth}"));
        let (log, positions) = two_segments(&path, &options());
        if aborted {
            log.abort();
        } else {
            log.close().unwrap();
        }
        // Behind the head, so that its length is not noticed.
        cut(&path, positions[0].segment(), CUT);
        let manifest = std::fs::read(path.join("MANIFEST")).unwrap();
        assert!(options().open(&path).is_err());
        assert_eq!(std::fs::read(path.join("MANIFEST")).unwrap(), manifest);
        let found = options().open_read_only(&path).map(|log| log.verify());
        assert!(!matches!(found, Ok(Ok(_))));
    }
}

type Append = fn(&CommitLog, &[u8]) -> Result<LogPosition, AppendError>;

const APPENDS: [Append; 5] = [
    |log, bytes| log.append(bytes),
    |log, bytes| log.append_vectored(&[&bytes[..3], &bytes[3..]]),
    |log, bytes| log.append_with(bytes.len(), |to| to.copy_from_slice(bytes)),
    |log, bytes| Ok(log.append_batch(&[bytes])?[0]),
    |log, bytes| {
        let at = log.tail();
        let mut batch = log.batch_writer(1);
        batch.push(bytes)?;
        batch.flush()?;
        Ok(at)
    },
];

/// What is acknowledged is in the file.
fn cut_short_under_writers(place: &Path) {
    let durabilities = [Durability::Buffered, Durability::Synced];
    for (nth, append) in APPENDS.iter().enumerate() {
        for durability in durabilities {
            let path = place.join(format!("log {nth} {durability:?}"));
            let log = options().durability(durability).open(&path).unwrap();
            log.append(b"first").unwrap();
            let id = log.tail().segment();
            cut(&path, id, CUT);
            let (mut acknowledged, mut n) = (Vec::new(), 0);
            let error = loop {
                n += 1;
                match append(&log, &entry(n)) {
                    Ok(_) => acknowledged.push(n),
                    Err(error) => break error,
                }
                assert!(n < 1000, "{nth}: what is behind the end is acknowledged");
            };
            assert!(is_refused(&error, id), "{error}");
            assert!(acknowledged.len() > 50, "{nth}");
            let file = std::fs::read(segment(&path, id)).unwrap();
            for n in acknowledged {
                let entry = entry(n);
                assert!(file.windows(entry.len()).any(|bytes| bytes == entry), "{nth}: {n}");
            }
            let tail = log.tail();
            for append in APPENDS {
                assert!(is_refused(&append(&log, b"more").unwrap_err(), id));
            }
            assert_eq!(log.tail(), tail, "nothing is taken for what is refused");
            assert!(is_fault(&log.sync().unwrap_err(), id));
            assert!(is_fault(&log.close().unwrap_err(), id));
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

type Write = fn(&Store, u32) -> Result<(), WriteError>;

const WRITES: [Write; 7] = [
    |store, n| store.put(n.to_le_bytes(), entry(n)).map(drop),
    |store, n| store.write(Batch::new().put(n.to_le_bytes(), entry(n))).map(drop),
    |store, n| store.put_if_absent(n.to_le_bytes(), entry(n)).map(drop),
    |store, n| {
        let swapped = store.compare_and_swap(n.to_le_bytes(), None, Some(&entry(n)));
        swapped.map(|done| done.unwrap())
    },
    |store, n| store.update("key", |_| Some(entry(n))).map(drop),
    |store, _| {
        store.put_if_absent("gone", vec![1; 500])?;
        store.delete("gone").map(drop)
    },
    |store, _| store.put_if_absent("first", "not this").map(drop),
];

fn cut_short_under_writers_of_a_store(place: &Path) {
    for (nth, write) in WRITES.iter().enumerate() {
        let path = place.join(format!("store {nth}"));
        let store = store_options().open(&path).unwrap();
        store.put("first", "value").unwrap();
        let id = store.log().tail().segment();
        cut(&path, id, CUT);
        let refused = |error| match error {
            WriteError::Append(error) => is_refused(&error, id),
            _ => false,
        };
        let is_last = nth == WRITES.len() - 1;
        if is_last {
            // It writes nothing, and tells of what another thread has met.
            write(&store, 0).unwrap();
            let _ = store.put("large", vec![1; 1 << 20]);
        }
        let error = (0..1000).find_map(|n| write(&store, n).err()).expect("it is refused");
        assert!(refused(error), "{nth}");
        for write in WRITES {
            assert!(refused(write(&store, 5000).unwrap_err()));
        }
        assert!(is_fault(&store.sync().unwrap_err(), id));
        assert_eq!(&*store.get("first").unwrap().unwrap(), b"value", "reads go on");
        assert!(store.close().is_err());
        std::fs::remove_dir_all(path).unwrap();
    }
}

/// Claims that are gone, and syncs that nobody asks for again. Whoever touches it first.
fn nobody_waits_for_ever(place: &Path) {
    let all = [Waiting::Sync, Waiting::Task, Waiting::Entry];
    nobody_waits_after(&place.join("append"), &all, |log, _| assert!(log.append(b"x").is_err()));
    // Where nobody syncs, and nobody writes.
    let read = |log: &CommitLog, first| assert!(log.read(first).is_err());
    nobody_waits_after(&place.join("read"), &[Waiting::Entry], read);
    #[cfg(feature = "stream")]
    a_waker_is_called_without_locks(&place.join("waker"));
}

/// The fault is found where a standby is to be made. That ends the log's last segment, and wakes a task, whose waker
/// does the same.
#[cfg(feature = "stream")]
fn a_waker_is_called_without_locks(path: &Path) {
    use futures_core::Stream;
    use std::task::{Context, Wake, Waker};
    struct Maintains(CommitLog, mpsc::Sender<()>);
    impl Wake for Maintains {
        fn wake(self: std::sync::Arc<Self>) {
            assert!(is_refused(&self.0.append(b"x").unwrap_err(), 1));
            let _ = self.0.maintain();
            self.1.send(()).unwrap();
        }
    }
    let log = options().open(path).unwrap();
    let first = log.append(b"first").unwrap();
    let (woken, is_woken) = mpsc::channel();
    let waker = Waker::from(std::sync::Arc::new(Maintains(log.clone(), woken)));
    let mut stream = log.stream_from(log.tail());
    let pending = std::pin::Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker));
    assert!(pending.is_pending());
    cut(path, first.segment(), 0);
    assert!(log.read(first).is_err());
    let maintaining = log.clone();
    thread::spawn(move || maintaining.maintain());
    is_woken.recv_timeout(common::HANG).expect("it does not wait for itself");
}

fn nobody_waits_after(path: &Path, waiting: &[Waiting], touch: impl Fn(&CommitLog, LogPosition)) {
    let log = CommitLog::options().catch_sigbus(true).open(path).unwrap();
    let first = log.append(b"first").unwrap();
    let id = first.segment();
    let (begun, began) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let appending = thread::spawn({
        let log = log.clone();
        move || {
            log.append_with(1000, |_| {
                begun.send(()).unwrap();
                let _ = wait.recv();
            })
        }
    });
    began.recv().unwrap();
    let wait_as = |&how: &Waiting| {
        let log = log.clone();
        thread::spawn(move || how.wait(&log))
    };
    let waiting: Vec<_> = waiting.iter().map(wait_as).collect();
    thread::sleep(Duration::from_millis(50));
    cut(path, id, 0);
    touch(&log, first);
    for thread in waiting {
        thread.join().unwrap();
    }
    drop(go);
    assert!(is_refused(&appending.join().unwrap().unwrap_err(), id));
    assert!(is_fault(&log.close().unwrap_err(), id));
}

#[derive(Clone, Copy)]
enum Waiting {
    Sync,
    Task,
    Entry,
}

impl Waiting {
    fn wait(self, log: &CommitLog) {
        match self {
            Self::Sync => assert!(matches!(log.sync(), Err(SyncError::Map(_)))),
            Self::Task => {
                let task = common::tasks::spawn_task({
                    let log = log.clone();
                    async move { log.sync_async().await }
                });
                let done = task.recv_timeout(common::HANG).unwrap();
                assert!(matches!(done, Err(SyncError::Map(_))), "{done:?}");
            }
            Self::Entry => {
                let mut reader = log.reader();
                while let Ok(entry) = reader.wait_entry(Duration::MAX) {
                    assert!(entry.is_some());
                }
            }
        }
    }
}

/// What was copied from pages that are gone is not made a part of the store.
fn a_merge_publishes_nothing(place: &Path) {
    let path = place.join("store");
    let store = store_options().open(&path).unwrap();
    (0..3000u32).for_each(|n| _ = store.put(n.to_le_bytes(), entry(n)).unwrap());
    store.roll().unwrap();
    store.log().maintain().unwrap();
    let (ids, manifest) = (sealed(&store), path.join("MANIFEST"));
    let before = std::fs::read(&manifest).unwrap();
    cut(&path, ids[0], CUT);
    assert!(store.merge_only(&ids).is_err());
    assert!(store.merge().is_err());
    assert_eq!(std::fs::read(&manifest).unwrap(), before);
    assert!(store.put("key", "value").is_err());
    for id in ids {
        assert!(segment(&path, id).exists());
    }
}

// ---- a full disk ----

/// Pages that are written again, after each sync, need new space.
fn full_disk(place: &Path) {
    let path = place.join("log");
    let options = options().any_file_system(true);
    let log = options.open(&path).unwrap();
    let mut acknowledged = vec![log.append(&entry(0)).unwrap()];
    log.sync().unwrap();
    let ballast = fill(place, 0);
    let error = loop {
        let n = acknowledged.len() as u32;
        assert!(n < 1500, "there is always space");
        match log.append(&entry(n)) {
            Ok(at) => acknowledged.push(at),
            Err(error) => break error,
        }
        // It may be the one that finds no space.
        if let Err(error) = log.sync() {
            break AppendError::Sync { position: None, source: error };
        }
    };
    let AppendError::Sync { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(source, SyncError::Map(_)), "after {}: {source}", acknowledged.len());
    assert!(log.append(b"refused").is_err());
    for (n, &at) in acknowledged.iter().enumerate() {
        assert_eq!(*log.read(at).unwrap(), *entry(n as u32), "reads go on");
    }
    assert!(log.close().is_err());
    std::fs::remove_file(ballast).unwrap();
    let log = options.open(&path).unwrap();
    let all = entries(&log);
    for (n, _) in acknowledged.iter().enumerate() {
        assert_eq!(all[n], entry(n as u32), "it was acknowledged");
    }
    log.append(b"goes on").unwrap();
}

// ---- other owners of the signal ----

static OWN: AtomicUsize = AtomicUsize::new(0);
static CAUGHT: AtomicUsize = AtomicUsize::new(0);
static BEFORE: AtomicUsize = AtomicUsize::new(0);

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Another library's handler: it catches what is on its own page, and passes on the rest.
extern "C" fn of_another(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes it.
    let info_told = unsafe { &*info };
    // SAFETY: of an access the kernel tells the address.
    let address = unsafe { info_told.si_addr() } as usize & !4095;
    if address == OWN.load(Ordering::SeqCst) {
        CAUGHT.fetch_add(1, Ordering::SeqCst);
        let (both, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
        );
        // SAFETY: its own page, which nobody has a reference to.
        unsafe { libc::mmap(address as *mut libc::c_void, 4096, both, flags, -1, 0) };
        return;
    }
    match BEFORE.load(Ordering::SeqCst) {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: the default action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        before => {
            // SAFETY: what was installed before has three arguments.
            let before: Handler = unsafe { std::mem::transmute(before) };
            before(signal, info, context);
        }
    }
}

fn install(action: usize) -> usize {
    // SAFETY: plain numbers.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = action;
    new.sa_flags = libc::SA_SIGINFO;
    // SAFETY: both point to a `sigaction`.
    assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &raw const new, &raw mut before) }, 0);
    before.sa_sigaction
}

/// A page of a file of its own, behind the file's end.
fn own_page(place: &Path) -> *const u8 {
    let path = place.join("own");
    std::fs::write(&path, [7; 4096]).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: it is cut short on purpose, and read with volatile loads only.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    file.set_len(0).unwrap();
    let start = map.as_ptr();
    std::mem::forget(map);
    OWN.store(start as usize, Ordering::SeqCst);
    start
}

fn with_another_handler(place: &Path, before: bool) {
    let other = of_another as *const () as usize;
    let page = own_page(place);
    let install = || BEFORE.store(install(other), Ordering::SeqCst);
    if before {
        install();
    }
    let (log, _) = two_segments(&place.join("first"), &options());
    if !before {
        install();
    }
    for round in 0..2 {
        read_behind_the_end(&place.join(format!("round {round}")), &options());
        // SAFETY: mapped, and its handler makes it readable.
        assert_eq!(unsafe { page.read_volatile() }, 0);
        assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
    }
    log.append(b"this one has met nothing").unwrap();
    log.close().unwrap();
}

fn end_by_a_sent_signal(place: &Path) {
    // SAFETY: the default action; that of `std` would take a signal that was sent.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    read_behind_the_end(place, &options());
    // SAFETY: a signal for this thread.
    unsafe { libc::raise(libc::SIGBUS) };
}

fn end_by_an_address_of_nobody(place: &Path) {
    let page = own_page(place);
    read_behind_the_end(place, &options());
    // SAFETY: mapped; the signal is what is wanted.
    unsafe { page.read_volatile() };
}

fn ignore_a_sent_signal(place: &Path) {
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
    read_behind_the_end(place, &options());
    // SAFETY: a signal for this thread.
    unsafe { libc::raise(libc::SIGBUS) };
}
