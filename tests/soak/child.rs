//! The process that is killed: a store and a log with everything going on at once.

use crate::common::children::say;
use crate::content::{APPENDERS, Key, WRITERS};
use crate::journal::Journal;
use crate::plan::Plan;
use crate::tally::{Count, Tally};
use crate::usage::{self, most_disk_of_log, most_disk_of_store};
use crate::{appenders, followers, held, readers, upkeep, writers};
use std::collections::HashMap;
use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;
use tailcask::{CommitLog, OpenError, Store};

/// Bytes that the writers may write until somebody looks at the disk again.
pub(crate) const CREDIT: i64 = 1 << 20;
/// How long a process waits for what has to come, in sleeps of a millisecond: one that is stopped
/// for a while does not take that for a hang.
pub(crate) const PATIENCE: u32 = 60_000;

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The file system that gets full.
    pub(crate) small: PathBuf,
    /// Another one.
    pub(crate) elsewhere: PathBuf,
}

impl Places {
    pub(crate) fn new(small: &Path) -> Self {
        Self { small: small.into(), elsewhere: small.parent().unwrap().join("elsewhere") }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.small.join("store")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.small.join("log")
    }

    pub(crate) fn journal(&self, name: &str) -> PathBuf {
        self.elsewhere.join("journal").join(name)
    }

    pub(crate) fn backup(&self, plan: &Plan, nth: u64) -> PathBuf {
        let parent = if plan.backup_elsewhere { &self.elsewhere } else { &self.small };
        parent.join(format!("backup {nth}"))
    }
}

/// The last operation on a key that has begun, and the last one that has ended: a number twice, and
/// whether there is a value then.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
}

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) places: Places,
    pub(crate) store: Store,
    pub(crate) log: CommitLog,
    pub(crate) stop: AtomicBool,
    pub(crate) store_credit: AtomicI64,
    pub(crate) log_credit: AtomicI64,
    pub(crate) published: HashMap<Key, Published>,
    pub(crate) writers: Vec<Journal>,
    pub(crate) appenders: Vec<Journal>,
    pub(crate) tally: Tally,
}

impl Shared {
    pub(crate) fn stops(&self) -> bool {
        self.stop.load(SeqCst)
    }

    pub(crate) fn count(&self, count: Count) {
        self.tally.add(count, 1);
    }

    /// Waits until so much may be written. False if it is time to stop.
    pub(crate) fn spend(&self, credit: &AtomicI64, bytes: usize) -> bool {
        credit.fetch_sub(bytes as i64, SeqCst);
        let mut waits = 0;
        while credit.load(SeqCst) < 0 && !self.stops() {
            waits += 1;
            assert!(
                waits < PATIENCE,
                "neither merges nor truncation make room: {}",
                self.described()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        !self.stops()
    }

    fn described(&self) -> String {
        let (store, log) = (self.store.stats(), self.log.stats());
        format!(
            "{} bytes live, {} dead, {} on disk, {} of the log; {:?}; held: {:?}",
            store.live_bytes,
            store.dead_bytes,
            usage::disk(&self.places.store()),
            log.disk_bytes,
            store.merges,
            store.held_segments
        )
    }

    /// Lets the writers write on, while what is on disk is within its bounds.
    fn govern(&self) {
        while !self.stops() {
            if usage::disk(&self.places.store()) <= most_disk_of_store() {
                self.store_credit.store(CREDIT, SeqCst);
            }
            if usage::disk(&self.places.log()) <= most_disk_of_log() {
                self.log_credit.store(CREDIT, SeqCst);
            }
            self.tally.save();
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Ends the process with the first thread that panics: the parent expects it to be there.
pub(crate) fn panics_end_the_process() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        std::process::exit(101);
    }));
}

/// What the parent asks for, until it has ended: then so does this process.
pub(crate) fn commands() -> impl Iterator<Item = String> {
    std::io::stdin().lock().lines().map_while(Result::ok)
}

/// Whether something could not be opened since there is no space, which is said.
pub(crate) fn is_no_space(error: &OpenError) -> bool {
    let OpenError::Io { source, .. } = error else { return false };
    source.kind() == std::io::ErrorKind::StorageFull
}

pub(crate) fn run(plan: Plan, places: Places) {
    panics_end_the_process();
    let store = plan.store().open(places.store()).unwrap();
    let log = plan.log().open(places.log()).unwrap();
    let journals = |kind: &str, n: u64| {
        (0..n).map(|nth| Journal::create(&places.journal(&format!("{kind} {nth}")))).collect()
    };
    let keys = (0..WRITERS).flat_map(Key::all_of).map(|key| (key, Published::default()));
    let shared = Arc::new(Shared {
        tally: Tally::create(&places.journal("tally")),
        writers: journals("writer", WRITERS),
        appenders: journals("appender", APPENDERS),
        stop: AtomicBool::new(false),
        store_credit: AtomicI64::new(CREDIT),
        log_credit: AtomicI64::new(CREDIT),
        published: keys.collect(),
        plan,
        places,
        store,
        log,
    });
    let held = held::Held::take(&shared);
    let threads = start(&shared);
    say("at work");
    let mut commands = commands();
    let Some(_rest) = commands.next() else { std::process::exit(0) };
    shared.stop.store(true, SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    held.release(&shared);
    shared.tally.save();
    say("at rest");
    let Some(_close) = commands.next() else { std::process::exit(0) };
    shared.store.close().unwrap();
    shared.log.close().unwrap();
}

fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    let mut spawn = |run: fn(&Shared, u64), nth: u64| {
        let shared = shared.clone();
        threads.push(std::thread::spawn(move || run(&shared, nth)));
    };
    spawn(|shared, _| shared.govern(), 0);
    // All keys are known before any of them is looked for.
    let ready = writers::all(shared);
    (0..APPENDERS).for_each(|nth| spawn(appenders::append, nth));
    spawn(appenders::truncate, 0);
    spawn(readers::look_up, 0);
    spawn(readers::iterate, 1);
    spawn(followers::wait, 0);
    spawn(followers::stream, 1);
    spawn(followers::consume, 2);
    spawn(upkeep::merge, 0);
    spawn(upkeep::back_up, 1);
    spawn(upkeep::verify, 2);
    for mut writer in ready {
        let shared = shared.clone();
        threads.push(std::thread::spawn(move || writer.run(&shared)));
    }
    threads
}

/// Opens what a dead process left, to be killed at that.
pub(crate) fn open(plan: &Plan, places: &Places) {
    say("opening");
    for kind in ["store", "log"] {
        let opened = match kind {
            "store" => plan.store().open(places.store()).map(drop),
            _ => plan.log().open(places.log()).map(drop),
        };
        if let Err(error) = opened {
            assert!(plan.dies_full && is_no_space(&error), "{kind}: {error}");
        }
    }
    say("opened");
}

pub(crate) fn clear_journals(places: &Places) {
    let folder = places.journal("");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
}
