//! A store whose process is killed again and again: what it had acknowledged is there, what it had
//! begun is there as a whole or not at all, and nothing else is.
//!
//! Each thread of the child has keys of its own and writes down in a file what it begins and what it
//! has done, so that the parent knows what each key may have. `TAILCASK_ROUNDS` says how many kills.
#![cfg(unix)]

mod common;

use common::children::{self, Process, say};
use common::content::Map;
use common::{Random, contents, rounds, until};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;
use tailcask::{Batch, Expected, Store, Ttl};

const THREADS: usize = 4;
/// Of each thread.
const KEYS: usize = 60;
/// So long that nothing expires.
const TTL: Duration = Duration::from_secs(1_000_000);
/// All threads count with these.
const COUNTERS: usize = 3;
/// What a child has done at least when it is killed, unless that is while it opens the store.
const DONE: usize = 200;
/// When the directory holds more than that, the next round begins with a new one: opening reads all
/// of it.
const LARGE: u64 = 160 << 20;

fn open(dir: &Path) -> Store {
    Store::options().segment_size(2 << 20).open(dir.join("store")).unwrap()
}

/// Some are long, one takes most of a page.
fn key(thread: usize, n: usize) -> Vec<u8> {
    let len = match n {
        0 => 4000,
        n if n % 7 == 0 => 300,
        _ => 0,
    };
    format!("key {thread} {n} {}", "x".repeat(len)).into_bytes()
}

fn counter(n: usize) -> Vec<u8> {
    format!("counter {n}").into_bytes()
}

/// From nothing to some tens of KiB, and now and then more than a segment holds.
fn len(sequence: u64) -> usize {
    let mut random = Random::new(sequence);
    match random.index(1000) {
        0..100 => 0,
        100..700 => random.index(300),
        700..900 => random.index(4000),
        900..998 => random.index(40_000),
        _ => (3 << 20) + random.index(1000),
    }
}

/// Whose it is and which one, over and over.
fn value(thread: usize, n: usize, sequence: u64) -> Vec<u8> {
    let len = len(sequence);
    let head = [thread as u64, n as u64, sequence].map(u64::to_le_bytes).concat();
    let mut value = head.repeat(len / head.len() + 1);
    value.truncate(len);
    value
}

/// The sequence number in a key's value, where it has room for one. The whole of it has to be right.
fn sequence(thread: usize, n: usize, found: &[u8]) -> Option<u64> {
    let bytes = found.get(16..24)?;
    let sequence = u64::from_le_bytes(bytes.try_into().unwrap());
    assert!(found == value(thread, n, sequence), "key {n} of thread {thread}, {sequence}");
    Some(sequence)
}

fn count(found: &[u8]) -> u64 {
    let (number, again) = found.split_at(8);
    assert_eq!(number, again, "a counter that nobody wrote");
    u64::from_le_bytes(number.try_into().unwrap())
}

/// What a thread writes: each of its keys' newest sequence number, and none for what is deleted.
type Writes = Vec<(usize, Option<u64>)>;
type Keys = BTreeMap<usize, u64>;

fn set(keys: &mut Keys, writes: &Writes) {
    for &(n, sequence) in writes {
        match sequence {
            Some(sequence) => drop(keys.insert(n, sequence)),
            None => drop(keys.remove(&n)),
        }
    }
}

// ---- what the child writes down ----

/// What a thread began. The journal has `+` for an operation that has begun, `.` for one that has
/// been done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Begun {
    Writes(Writes),
    Count(usize),
}

impl Begun {
    fn line(&self) -> String {
        match self {
            Self::Count(n) => format!("+ count {n}\n"),
            Self::Writes(writes) => {
                let number = |sequence: Option<u64>| sequence.map_or(0, |sequence| sequence);
                let words = writes.iter().map(|(n, s)| format!(" {n} {}", number(*s)));
                format!("+{}\n", words.collect::<String>())
            }
        }
    }

    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').skip(1).collect();
        if let ["count", n] = words[..] {
            return Self::Count(n.parse().unwrap());
        }
        let numbers: Vec<u64> = words.iter().map(|word| word.parse().unwrap()).collect();
        let write = |pair: &[u64]| (pair[0] as usize, Some(pair[1]).filter(|s| *s > 0));
        Self::Writes(numbers.chunks_exact(2).map(write).collect())
    }
}

/// What a thread had acknowledged, and what was under way.
fn journal(path: &Path) -> (Vec<Begun>, Option<Begun>) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (mut done, mut begun) = (Vec::new(), None);
    // What was cut short was not said.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if line == "." {
            done.extend(begun.take());
        } else {
            assert_eq!(begun.replace(Begun::parse(line)), None);
        }
    }
    (done, begun)
}

fn journal_of(dir: &Path, round: u64, thread: usize) -> std::path::PathBuf {
    dir.join(format!("journal-{round}-{thread}"))
}

// ---- the child ----

#[test]
#[ignore = "the process that the test below kills"]
fn child() {
    let Some((round, dir)) = children::role() else { return };
    // A panic of one thread has to end all of them, and is seen by the parent.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(3);
    }));
    let (round, dir) = (round.parse().unwrap(), &dir);
    let store = open(dir);
    say("open");
    std::thread::scope(|scope| {
        let store = &store;
        for thread in 0..THREADS {
            let writer = Writer::new(store, dir, round, thread);
            scope.spawn(move || writer.run());
        }
        scope.spawn(move || read(store, round));
        scope.spawn(move || {
            loop {
                store.merge().unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    });
}

struct Writer<'a> {
    store: &'a Store,
    thread: usize,
    random: Random,
    journal: File,
    keys: Keys,
    next: u64,
}

impl<'a> Writer<'a> {
    /// Its keys have what the parent has found good, so that it can tell what each write returns.
    fn new(store: &'a Store, dir: &Path, round: u64, thread: usize) -> Self {
        let random = Random::new(round * THREADS as u64 + thread as u64);
        let journal = File::create(journal_of(dir, round, thread)).unwrap();
        let next = (round + 1) << 32;
        let keys = keys_in(&std::fs::read_to_string(state_of(dir, thread)).unwrap_or_default());
        Self { store, thread, random, journal, keys, next }
    }

    fn run(mut self) {
        loop {
            match self.random.below(20) {
                0..9 => self.put(),
                9..12 => self.delete(),
                12..14 => self.put_if_absent(),
                14..16 => self.batch(),
                16 => self.touch(),
                17 => self.swap(),
                18 => self.look(),
                _ => self.count(),
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.journal.write_all(line.as_bytes()).unwrap();
    }

    /// Announces what is to be written, has it written, and says that it was.
    fn write<R>(&mut self, writes: Writes, write: impl FnOnce(&Self) -> R) -> R {
        let begun = Begun::Writes(writes);
        self.say(&begun.line());
        let result = write(self);
        self.say(".\n");
        if let Begun::Writes(writes) = begun {
            set(&mut self.keys, &writes);
        }
        result
    }

    fn key(&self, n: usize) -> Vec<u8> {
        key(self.thread, n)
    }

    fn some_key(&mut self) -> usize {
        self.random.index(KEYS)
    }

    fn new_value(&mut self, n: usize) -> (u64, Vec<u8>) {
        self.next += 1;
        (self.next, value(self.thread, n, self.next))
    }

    fn put(&mut self) {
        let n = self.some_key();
        let (sequence, value) = self.new_value(n);
        let put = |this: &Self| this.store.put(this.key(n), &value).unwrap();
        self.write(vec![(n, Some(sequence))], put);
    }

    fn delete(&mut self) {
        let n = self.some_key();
        let was = self.keys.contains_key(&n);
        let removed = self.write(vec![(n, None)], |this| this.store.delete(this.key(n)).unwrap());
        assert_eq!(removed, was, "key {n} of thread {}", self.thread);
    }

    fn put_if_absent(&mut self) {
        let n = self.some_key();
        let (sequence, value) = self.new_value(n);
        let was = self.keys.contains_key(&n);
        let writes = if was { Vec::new() } else { vec![(n, Some(sequence))] };
        let put = |this: &Self| this.store.put_if_absent(this.key(n), &value).unwrap();
        assert_eq!(self.write(writes, put), !was, "key {n} of thread {}", self.thread);
    }

    fn swap(&mut self) {
        let n = self.some_key();
        let (sequence, new) = self.new_value(n);
        let old = self.keys.get(&n).map(|&sequence| value(self.thread, n, sequence));
        let swap = |this: &Self| {
            let swap = this.store.compare_and_swap(this.key(n), old.as_deref(), Some(&new));
            swap.unwrap().expect("nobody else writes it");
        };
        self.write(vec![(n, Some(sequence))], swap);
    }

    /// The same value once more.
    fn touch(&mut self) {
        let n = self.some_key();
        let old = self.keys.get(&n).copied();
        let writes = old.into_iter().map(|sequence| (n, Some(sequence))).collect();
        let touch = |this: &Self| this.store.touch(this.key(n), TTL).unwrap();
        assert_eq!(self.write(writes, touch), old.is_some());
    }

    /// A key may come twice, and then its last write counts. What was there before is expected.
    fn batch(&mut self) {
        let (mut batch, mut writes) = (Batch::new(), Vec::new());
        for _ in 0..2 + self.random.below(6) {
            let n = self.some_key();
            match self.keys.get(&n).map(|&sequence| value(self.thread, n, sequence)) {
                Some(old) => batch.expect(self.key(n), Expected::Value(&old)),
                None => batch.expect(self.key(n), Expected::Absent),
            };
            if self.random.below(3) == 0 {
                batch.delete(self.key(n));
                writes.push((n, None));
            } else {
                let (sequence, value) = self.new_value(n);
                let ttls = [Ttl::Remove, Ttl::Keep, Ttl::Set(TTL)];
                batch.put_with(self.key(n), value, ttls[self.random.index(3)]);
                writes.push((n, Some(sequence)));
            }
        }
        self.write(writes, |this| this.store.write(&batch).unwrap());
    }

    fn count(&mut self) {
        let n = self.random.index(COUNTERS);
        self.say(&Begun::Count(n).line());
        let add = |old: Option<&[u8]>| {
            let number = old.map_or(0, count) + 1;
            Some([number.to_le_bytes(); 2].concat())
        };
        self.store.update(counter(n), add).unwrap();
        self.say(".\n");
    }

    /// No other process writes its keys, so it finds what it wrote.
    fn look(&mut self) {
        let n = self.some_key();
        let expected = self.keys.get(&n).map(|&sequence| value(self.thread, n, sequence));
        let found = self.store.get(self.key(n)).unwrap();
        assert!(found.as_deref() == expected.as_deref(), "key {n} of thread {}", self.thread);
    }
}

/// Reads all the time; no key goes back to what it was.
fn read(store: &Store, round: u64) {
    let mut random = Random::new(round);
    let names: HashMap<_, _> =
        (0..THREADS * KEYS).map(|n| (key(n / KEYS, n % KEYS), (n / KEYS, n % KEYS))).collect();
    let mut newest = HashMap::new();
    let mut see = |thread: usize, n: usize, found: &[u8]| {
        let Some(sequence) = sequence(thread, n, found) else { return };
        let before = newest.insert((thread, n), sequence).unwrap_or_default();
        assert!(before <= sequence, "key {n} of thread {thread}: {before}, then {sequence}");
    };
    loop {
        for _ in 0..200 {
            let (thread, n) = (random.index(THREADS), random.index(KEYS));
            if let Some(found) = store.get(key(thread, n)).unwrap() {
                see(thread, n, &found);
            }
        }
        let mut seen = BTreeSet::new();
        for pair in store {
            let pair = pair.unwrap();
            assert!(seen.insert(pair.key().to_vec()), "no key comes twice");
            match names.get(pair.key()) {
                Some(&(thread, n)) => see(thread, n, pair.value()),
                None => assert!(pair.key().starts_with(b"counter ") && count(pair.value()) > 0),
            }
        }
    }
}

// ---- the parent ----

/// Lets a child work for a while, or, now and then, not even open the store.
fn run_and_kill(dir: &Path, round: u64, random: &mut Random) {
    let (mut child, mut said) = Process::start(&round.to_string(), dir);
    if round % 4 == 3 {
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
    } else {
        assert_eq!(said.next().as_deref(), Some("open"));
        std::thread::sleep(Duration::from_micros(20_000 + random.below(300_000)));
        // On a slow machine it takes longer.
        until("the child has done something", || {
            child.assert_runs();
            let journals = (0..THREADS).map(|thread| journal(&journal_of(dir, round, thread)));
            journals.map(|(done, _)| done.len()).sum::<usize>() >= DONE
        });
    }
    child.0.kill().unwrap();
    let status = child.0.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "it ended by itself");
}

/// What the keys of each thread and the counters are known to have.
#[derive(Default)]
struct Known {
    keys: [Keys; THREADS],
    counters: [u64; COUNTERS],
    acknowledged: usize,
    under_way: usize,
}

/// Where a child finds what its keys have.
fn state_of(dir: &Path, thread: usize) -> std::path::PathBuf {
    dir.join(format!("state-{thread}"))
}

fn keys_in(text: &str) -> Keys {
    let number = |word: &str| word.parse::<u64>().unwrap();
    let pair = |line: &str| line.split_once(' ').map(|(n, s)| (number(n) as usize, number(s)));
    text.lines().map(|line| pair(line).unwrap()).collect()
}

impl Known {
    /// Everything that the store has is what the journals say, and then that is known.
    fn check(&mut self, store: &Store, dir: &Path, round: u64) {
        let mut found = contents(store);
        assert_eq!(found.len() as u64, store.len());
        let mut counted = [(0, 0); COUNTERS];
        for thread in 0..THREADS {
            let (done, begun) = journal(&journal_of(dir, round, thread));
            self.acknowledged += done.len();
            self.under_way += usize::from(begun.is_some());
            for done in &done {
                match done {
                    Begun::Writes(writes) => set(&mut self.keys[thread], writes),
                    Begun::Count(n) => counted[*n].0 += 1,
                }
            }
            if let Some(Begun::Count(n)) = begun {
                counted[n].1 += 1;
            }
            let mut or = self.keys[thread].clone();
            if let Some(Begun::Writes(writes)) = &begun {
                set(&mut or, writes);
            }
            self.check_thread(thread, &mut found, or, round);
            self.write_down(dir, thread);
        }
        for (n, (done, begun)) in counted.into_iter().enumerate() {
            let now = found.remove(&counter(n)).map_or(0, |value| count(&value));
            let (least, most) = (self.counters[n] + done, self.counters[n] + done + begun);
            assert!((least..=most).contains(&now), "round {round}: {least} <= {now} <= {most}");
            self.counters[n] = now;
        }
        assert!(found.is_empty(), "round {round}: there is more: {:?}", found.keys());
    }

    /// A thread's keys have what it had acknowledged, or that and all of what was under way.
    fn check_thread(&mut self, thread: usize, found: &mut Map, or: Keys, round: u64) {
        let found: BTreeMap<_, _> =
            (0..KEYS).filter_map(|n| Some((n, found.remove(&key(thread, n))?))).collect();
        let differ = |keys: &Keys| {
            let same =
                |n: &usize| found.get(n) == keys.get(n).map(|&s| value(thread, *n, s)).as_ref();
            (0..KEYS).filter(|n| !same(n)).collect::<Vec<_>>()
        };
        let without = differ(&self.keys[thread]);
        if without.is_empty() {
            return;
        }
        let with = differ(&or);
        assert!(with.is_empty(), "round {round}, thread {thread}: {without:?} or else {with:?}");
        self.keys[thread] = or;
    }

    fn write_down(&self, dir: &Path, thread: usize) {
        let lines = self.keys[thread].iter().map(|(n, sequence)| format!("{n} {sequence}\n"));
        std::fs::write(state_of(dir, thread), lines.collect::<String>()).unwrap();
    }
}

fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("store")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// Promises 1 and 3, of the store.
#[test]
fn a_store_whose_process_is_killed_again_and_again_has_what_was_acknowledged() {
    let mut random = Random::new(std::process::id().into());
    let (mut dir, mut known) = (tempfile::tempdir().unwrap(), Known::default());
    let (mut acknowledged, mut under_way) = (0, 0);
    let wanted = rounds(16);
    for round in 0..wanted {
        run_and_kill(dir.path(), round, &mut random);
        let store = open(dir.path());
        known.check(&store, dir.path(), round);
        // The next child finds a store that was closed, or another one that died.
        if random.below(2) == 0 {
            store.close().unwrap();
        } else {
            store.abort();
        }
        if size(dir.path()) > LARGE || round + 1 == wanted {
            acknowledged += known.acknowledged;
            under_way += known.under_way;
            (dir, known) = (tempfile::tempdir().unwrap(), Known::default());
        }
    }
    println!("{acknowledged} acknowledged, {under_way} under way at a kill");
    assert!(acknowledged as u64 > wanted * 100 && under_way > 0);
}

#[test]
fn a_journal_is_read_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = journal_of(dir.path(), 0, 0);
    assert_eq!(journal(&path), (Vec::new(), None));
    let begun = [
        Begun::Writes(vec![(7, Some(1 << 33)), (8, None)]),
        Begun::Count(2),
        Begun::Writes(Vec::new()),
        Begun::Writes(vec![(1, None)]),
    ];
    let lines: Vec<_> = begun.iter().map(Begun::line).collect();
    let whole = lines.join(".\n");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(journal(&path), (begun[..3].to_vec(), Some(begun[3].clone())));
    // Cut inside of its last line, that has not begun.
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(journal(&path), (begun[..3].to_vec(), None));
}
