//! The process that knows what must be there: it starts the others, kills them, and compares what they leave.

use crate::child::{PATIENCE, Places, clear_journals};
use crate::common::children::{Process, Said};
use crate::common::files::copy_dir;
use crate::content::{APPENDERS, WRITERS};
use crate::damage;
use crate::followers::Progress;
use crate::full::Ballast;
use crate::journal::{Journal, Outcome, Record, counts};
use crate::log_oracle::LogOracle;
use crate::oracle::{Found, Oracle, Range, Readable, Session};
use crate::plan::{End, Plan};
use crate::table::Table;
use crate::tally::Tally;
use crate::usage::{self, Usage};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use tailcask::{CommitLog, OpenError, RecoveryReport, Retention, Store};

/// A child, and what it says.
struct Child(Process, Said);

impl Child {
    fn start(role: &str, plan: &Plan, places: &Places) -> Self {
        let role = format!("{role} {} {} {}", plan.seed, plan.session, u8::from(plan.long));
        let (process, said) = Process::start(&role, &places.small);
        Self(process, said)
    }

    /// Waits until it says something that begins so; gives the rest.
    fn expect(&mut self, what: &str) -> String {
        let said =
            self.1.next().unwrap_or_else(|| panic!("the other process has ended before {what:?}"));
        said.strip_prefix(what).unwrap_or_else(|| panic!("{what:?} expected: {said}")).to_owned()
    }

    fn ask(&mut self, command: &str) {
        let mut input = self.0.0.stdin.as_ref().unwrap();
        input.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    /// Lets it end by itself.
    fn end(mut self) {
        let status = self.0.0.wait().unwrap();
        assert!(status.success(), "the other process has failed: {status}");
    }

    fn usage(&self, places: &Places) -> Usage {
        let id = self.0.0.id().to_string();
        Usage::of(&id, places).unwrap_or_default()
    }
}

pub(crate) struct Parent {
    places: Places,
    oracle: Oracle,
    log_oracle: LogOracle,
    follower: Option<(Child, u64)>,
    /// What the first child took that came to rest.
    first_rest: Option<Usage>,
    pub(crate) table: Table,
}

impl Parent {
    pub(crate) fn new(places: Places) -> Self {
        fs::create_dir_all(&places.elsewhere).unwrap();
        Self {
            places,
            oracle: Oracle::default(),
            log_oracle: LogOracle::default(),
            follower: None,
            first_rest: None,
            table: Table::default(),
        }
    }

    pub(crate) fn round(&mut self, plan: &Plan) {
        let started = Instant::now();
        clear_journals(&self.places);
        if plan.follower && self.follower.is_none() {
            let mut follower = Child::start("follow", plan, &self.places);
            follower.expect("reads");
            self.follower = Some((follower, plan.session + 1));
        }
        let mut child = Child::start("load", plan, &self.places);
        child.expect("at work");
        let ballast = self.load(plan, &mut child);
        self.end(plan, child);
        self.check(plan, ballast);
        self.stop_follower(plan);
        assert_eq!(usage::removed_and_mapped(), 0, "this process has closed all that it opened");
        self.table.add("rounds", 1);
        self.table.add("milliseconds", started.elapsed().as_millis() as u64);
    }

    /// Watches the child work; with a full disk in the middle, if that is planned. Gives what fills the disk if it
    /// is to stay full.
    fn load(&mut self, plan: &Plan, child: &mut Child) -> Option<Ballast> {
        let half = plan.load / 2;
        self.watch(plan, child, half);
        let ballast = plan.full.then(|| self.fill(plan, child));
        if plan.dies_full {
            return ballast;
        }
        if let Some(ballast) = ballast {
            self.free(plan, child, ballast);
        }
        self.watch(plan, child, half);
        None
    }

    fn watch(&mut self, plan: &Plan, child: &mut Child, time: Duration) {
        let mut slept = Duration::ZERO;
        while slept < time {
            let step = Duration::from_millis(20).min(time - slept);
            std::thread::sleep(step);
            slept += step;
            self.look(plan, child);
        }
    }

    /// Looks what the child takes.
    fn look(&mut self, plan: &Plan, child: &mut Child) -> Usage {
        if child.0.0.try_wait().unwrap().is_some() {
            // What it wrote says why; it is shown on the way.
            let said: Vec<_> = child.1.by_ref().collect();
            panic!("the other process has ended: {said:?}, in {plan:?}");
        }
        let usage = child.usage(&self.places);
        let limits = [
            ("store, bytes on disk", usage.store, usage::limit_of_store()),
            ("log, bytes on disk", usage.log, usage::limit_of_log()),
            ("anonymous memory, bytes", usage.anonymous, usage::limit_of_anonymous()),
            ("descriptors", usage.descriptors, usage::limit_of_descriptors()),
            ("maps of segments", usage.maps, usage::limit_of_maps()),
        ];
        for (what, is, limit) in limits {
            self.table.most(&format!("most: {what}"), is);
            self.table.most(&format!("limit: {what}"), limit);
            assert!(is <= limit, "{what}: {is}, of at most {limit}, in {plan:?}");
        }
        if let Some((follower, _)) = &self.follower {
            let usage = follower.usage(&self.places);
            self.table.most("most: descriptors of a reading process", usage.descriptors);
            assert!(usage.descriptors <= usage::limit_of_descriptors(), "follower: {usage:?}");
            assert!(usage.anonymous <= usage::limit_of_anonymous(), "follower: {usage:?}");
        }
        usage
    }

    fn journals(&self, kind: &str, n: u64) -> Session {
        let read = |nth| Journal::read(&self.places.journal(&format!("{kind} {nth}")));
        (0..n).map(read).collect()
    }

    fn both(&self) -> Session {
        [self.journals("writer", WRITERS), self.journals("appender", APPENDERS)].concat()
    }

    /// Waits for the child to do something.
    fn until(&mut self, what: &str, plan: &Plan, child: &mut Child, holds: impl Fn(&Self) -> bool) {
        let mut waits = 0;
        while !holds(self) {
            waits += 1;
            assert!(waits < PATIENCE / 5, "{what}: it does not come to that in {plan:?}");
            std::thread::sleep(Duration::from_millis(5));
            self.look(plan, child);
        }
    }

    /// Fills the disk until a write has been refused.
    fn fill(&mut self, plan: &Plan, child: &mut Child) -> Ballast {
        let ballast = std::cell::RefCell::new(Ballast::new(&self.places.small));
        let refused = |record: &Record| record.outcome == Outcome::NoSpace;
        self.until("a write is refused on a full disk", plan, child, |this| {
            ballast.borrow_mut().grow();
            this.both().iter().flatten().any(refused)
        });
        for _ in 0..plan.random(700).below(30) {
            std::thread::sleep(Duration::from_millis(10));
            ballast.borrow_mut().grow();
            self.look(plan, child);
        }
        self.table.add("full disks", 1);
        ballast.into_inner()
    }

    /// Lets others have the space again: all writers go on.
    fn free(&mut self, plan: &Plan, child: &mut Child, ballast: Ballast) {
        drop(ballast);
        let done = |session: &Session| -> Vec<usize> {
            let done = |record: &&Record| record.outcome == Outcome::Done;
            session.iter().map(|records| records.iter().filter(done).count()).collect()
        };
        let before = done(&self.both());
        self.until("all write on when there is space again", plan, child, |this| {
            done(&this.both()).iter().zip(&before).all(|(now, before)| now > &(before + 1))
        });
    }

    fn end(&mut self, plan: &Plan, mut child: Child) {
        if plan.end == End::Killed {
            self.table.add("kills at work", 1);
            drop(child);
            return;
        }
        child.ask("rest");
        child.expect("at rest");
        self.table.add("held values, entries and readers, kept for a round", 4);
        let usage = self.look(plan, &mut child);
        let first = *self.first_rest.get_or_insert(usage);
        // Buffers that one had not used yet, and arenas that keep them.
        let may_grow = usage::limit_of_anonymous() / 2;
        let grown = usage.anonymous.saturating_sub(first.anonymous);
        self.table.most("most: growth of memory since the first round", grown);
        assert!(grown <= may_grow, "{first:?} grew to {usage:?}");
        if plan.end == End::Closed {
            child.ask("close");
            child.end();
            self.table.add("closed", 1);
        } else {
            drop(child);
            self.table.add("kills at rest", 1);
        }
    }

    /// Compares all that is left.
    fn check(&mut self, plan: &Plan, ballast: Option<Ballast>) {
        let (writers, appenders) =
            (self.journals("writer", WRITERS), self.journals("appender", APPENDERS));
        self.count(&writers, &appenders);
        let refused =
            self.both().iter().flatten().filter(|r| r.outcome == Outcome::NoSpace).count();
        assert!(plan.full || refused == 0, "{refused} writes got no space, and there was some");
        self.table.add("writes refused on full disks", refused as u64);
        let range: Range = writers.iter().map(|records| counts(records)).collect();
        let violation = |what: &str, error: String| -> ! { panic!("{what}: {error}; in {plan:?}") };
        if ballast.is_some() {
            self.read_full(&writers, &range).unwrap_or_else(|error| violation("full disk", error));
        }
        self.kill_openers(plan);
        drop(ballast);
        let store = plan
            .store()
            .open(self.places.store())
            .unwrap_or_else(|e| violation("open", e.to_string()));
        // While it is compared nothing is dropped.
        let log = plan.log().retention(Retention::new()).open(self.places.log());
        let log = log.unwrap_or_else(|e| violation("open", e.to_string()));
        for (what, report) in [("store", store.recovery()), ("log", log.recovery())] {
            check_recovery(plan, report).unwrap_or_else(|error| violation(what, error));
        }
        let found = self.oracle.check_store(&writers, &range, &store);
        let after = found.unwrap_or_else(|error| violation("store", error));
        let checked = self.log_oracle.check(&appenders, &log);
        self.log_oracle = checked.unwrap_or_else(|error| violation("log", error));
        if let Some(progress) = Progress::read(&self.places.elsewhere) {
            let checked = self.log_oracle.check_consumer(&log, &progress);
            checked.unwrap_or_else(|error| violation("consumer", error));
            self.table.add("checkpoints resumed after a death", 1);
        }
        self.table.add("keys compared", found_keys(&after));
        self.table.add("entries compared", self.log_oracle.entries.len() as u64);
        let before = std::mem::replace(&mut self.oracle, after);
        if plan.damage.is_some() || plan.random(800).flip() {
            store.close().unwrap();
            log.close().unwrap();
        } else {
            // As a process that dies here.
            store.abort();
            log.abort();
        }
        let done = self.check_backups(plan, &before, &writers);
        done.unwrap_or_else(|error| violation("backup", error));
        let done = self.damage(plan);
        done.unwrap_or_else(|error| violation("repair", error));
    }

    fn count(&mut self, writers: &Session, appenders: &Session) {
        for (name, n) in Tally::read(&self.places.journal("tally")) {
            self.table.add(name, n);
        }
        let done = |record: &&Record| record.outcome == Outcome::Done;
        let acknowledged = writers.iter().flatten().filter(done).count();
        self.table.add("acknowledged writes of the store", acknowledged as u64);
        let entries = appenders.iter().flatten().filter(done).map(|record| record.version).sum();
        self.table.add("acknowledged entries of the log", entries);
    }

    /// Reading works without a byte free.
    fn read_full(&mut self, writers: &Session, range: &Range) -> Result<(), String> {
        let text = |error: OpenError| error.to_string();
        let view = Store::open_read_only(self.places.store()).map_err(text)?;
        self.oracle.check_store(writers, range, &view)?;
        let log = CommitLog::open_read_only(self.places.log()).map_err(text)?;
        self.log_oracle.check(&self.journals("appender", APPENDERS), &log)?;
        self.table.add("stores and logs read on full disks", 2);
        Ok(())
    }

    /// Other processes recover what is left, and are killed at that.
    fn kill_openers(&mut self, plan: &Plan) {
        let mut random = plan.random(900);
        for _ in 0..plan.killed_openers {
            let mut opener = Child::start("open", plan, &self.places);
            opener.expect("opening");
            std::thread::sleep(Duration::from_micros(random.below(30_000)));
            drop(opener);
            self.table.add("kills while opening", 1);
        }
    }

    fn check_backups(
        &mut self,
        plan: &Plan,
        before: &Oracle,
        writers: &Session,
    ) -> Result<(), String> {
        for nth in 0..plan.backups {
            let (backup, restored) =
                (self.places.backup(plan, nth), self.places.elsewhere.join("restored"));
            let counts = |name: &str| -> Option<Vec<usize>> {
                let text =
                    fs::read_to_string(self.places.journal(&format!("{name} {nth}"))).ok()?;
                Some(text.split(' ').map(|count| count.parse().unwrap()).collect())
            };
            let ended = counts("after backup");
            if ended.is_some() && !backup.exists() {
                return Err(format!("{} was acknowledged and is not there", backup.display()));
            }
            if backup.exists() {
                let from = counts("before backup").unwrap();
                let to = ended.unwrap_or_else(|| writers.iter().map(Vec::len).collect());
                let range: Range = from.into_iter().zip(to).collect();
                copy_dir(&backup, &restored, true);
                let (view, store) = (open_view(&backup)?, open_store(&restored)?);
                let after = before.check_store(writers, &range, &view)?;
                before.check_store(writers, &range, &store)?;
                store.close().unwrap();
                self.table.add("backups restored and compared", 1);
                if let Some(how) = plan.damage {
                    let mut random = plan.random(1000 + nth);
                    let lost = damage::of_store(
                        &restored,
                        &self.places.elsewhere,
                        &after,
                        how,
                        &mut random,
                    )?;
                    self.damaged(lost);
                }
                fs::remove_dir_all(&backup).unwrap();
            }
        }
        // A backup that a kill has interrupted.
        for place in [&self.places.small, &self.places.elsewhere] {
            for path in crate::common::files::paths(place) {
                if path.file_name().unwrap().to_string_lossy().ends_with(".partial") {
                    fs::remove_dir_all(path).unwrap();
                }
            }
        }
        Ok(())
    }

    fn damaged(&mut self, lost: u64) {
        self.table.add("copies damaged and repaired", 1);
        self.table.add("keys and entries lost by damage, all listed", lost);
    }

    /// Damages copies of what is there, and repairs them.
    fn damage(&mut self, plan: &Plan) -> Result<(), String> {
        let Some(how) = plan.damage else { return Ok(()) };
        let (store, log) = (self.places.store(), self.places.log());
        let (elsewhere, mut random) = (&self.places.elsewhere, plan.random(1100));
        let of_store = damage::of_store(&store, elsewhere, &self.oracle, how, &mut random)?;
        let of_log = damage::of_log(&log, elsewhere, &self.log_oracle.entries, how, &mut random)?;
        self.damaged(of_store);
        self.damaged(of_log);
        Ok(())
    }

    fn stop_follower(&mut self, plan: &Plan) {
        let is_last = |follower: &mut (Child, u64)| plan.session >= follower.1;
        let Some((mut follower, _)) = self.follower.take_if(is_last) else { return };
        // Once there was an entry, there always is one.
        let (last, _) = self.log_oracle.entries.last().unwrap();
        follower.ask(&last.as_u64().to_string());
        let said = follower.expect("read ");
        let mut numbers = said.split(' ').map(|n| n.parse::<u64>().unwrap());
        self.table.add("entries followed by another process", numbers.next().unwrap());
        self.table.add("views refreshed by another process", numbers.next().unwrap());
        follower.end();
        self.table.add("reading processes beside kills", 1);
    }
}

impl Oracle {
    /// Reads a store in all ways, and compares it.
    fn check_store(
        &self,
        session: &Session,
        range: &Range,
        store: &impl Readable,
    ) -> Result<Self, String> {
        store.verify().map_err(|error| error.to_string())?;
        self.check(session, range, &Found::in_store(store)?)
    }
}

fn found_keys(oracle: &Oracle) -> u64 {
    oracle.len() as u64
}

fn open_view(path: &Path) -> Result<tailcask::ReadView, String> {
    Store::open_read_only(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn open_store(path: &Path) -> Result<Store, String> {
    Store::open(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The process died, and nothing else.
fn check_recovery(plan: &Plan, report: &RecoveryReport) -> Result<(), String> {
    let nothing = report.torn_bytes == 0 && report.lost.is_empty() && report.set_aside.is_empty();
    let clean = plan.end != End::Closed || report.is_clean();
    (nothing && clean && report.nothing_is_lost()).then_some(()).ok_or_else(|| report.to_string())
}
