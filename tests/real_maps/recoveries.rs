//! What a power loss leaves is recovered by one that dies at each of its system calls that sync or change
//! names, one after the other, and then by another one; and images of that are recovered. Whatever comes
//! between, it ends with the same entries and the same files set aside.

use super::cases::Case;
use super::common::files::{paths, segment};
use super::common::rounds;
use super::files::{reboot_all, set_aside};
use super::reports::{self, Report, Said};
use super::{Workload, logs, place, record};
use crash_kit::{NameOrder, Next, Recorder, Recording};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A log as a power loss leaves it: one segment is back that was removed, one is torn, and two that follow
/// it are behind the end.
fn lose(db: &Path, seed: u64) {
    logs::fill(db, seed, |log, positions| {
        let first = fs::read(db.join(segment(1))).unwrap();
        log.truncate_before(positions[1]).unwrap();
        assert!(!db.join(segment(1)).exists());
        fs::write(db.join(segment(1)), first).unwrap();
    });
    let torn = fs::File::options().write(true).open(db.join(segment(3))).unwrap();
    torn.write_all_at(&[0; 512], 4096).unwrap();
    reboot_all(db);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for path in paths(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Of how many moments of the second one is one kept: in the long setting each is.
fn stride() -> u64 {
    if rounds(0) < 100 { 4 } else { 1 }
}

/// Of one that dies at the entry of a call of its opening, and one that goes on. `None`: it cannot be done
/// here.
fn recover(root: &Path, role: &str, dies_at: u64) -> Option<Recording> {
    let (mut calls, mut later) = (0, 0);
    record(&Recorder::new(root), &[role, role], root, |moment| {
        let matters = moment.is_sync || moment.is_change_of_names;
        if !matters || !reports::is_last(moment.reports, "opening") {
            return Next::Go;
        }
        if moment.program > 0 {
            later += 1;
            return if (later + dies_at).is_multiple_of(stride()) { Next::Keep } else { Next::Go };
        }
        calls += u64::from(moment.is_entry);
        if moment.is_entry && calls > dies_at { Next::Kill } else { Next::Go }
    })
}

#[test]
fn a_recovery_that_dies_anywhere_is_finished_by_the_next_ones() {
    let place = place();
    let seed = logs::seed_of_the_plainest();
    let template = place.path().join("template");
    lose(&template, seed);
    let root = place.path().join("root");
    let begin = || {
        fs::create_dir(&root).unwrap();
        copy(&template, &root.join("db"));
    };
    begin();
    let found = logs::entries_of(&root.join("db"), seed);
    let aside = set_aside(&root.join("db"));
    assert_eq!(aside.len(), 3, "a torn tail and two segments");
    let first = Report { nth: 0, said: Said::Opened { found } };
    fs::remove_dir_all(&root).unwrap();

    let history = logs::Logs::history(&[]);
    let role = format!("log-again {seed}");
    for dies_at in 0.. {
        begin();
        let Some(recording) = recover(&root, &role, dies_at) else { return };
        super::none_has_failed(&recording).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let said = reports::parse(&recording.reports);
        let all: Vec<_> = std::iter::once(&first).chain(&said).cloned().collect();
        for crash in recording.crashes {
            // Both what file systems do and all that POSIX promises.
            let known = &all[..=reports::complete(&said, crash.reports).len()];
            let orders = [crash.clone(), crash.with_order(NameOrder::None)];
            for image in 0..super::images() {
                let crash = &orders[(image % 2) as usize];
                let (place, before) = (place.path(), crash.reports);
                let image = dies_at << 32 | crash.moment << 8 | image;
                let case = Case { place, seed, crash, known, before, image };
                if let Err(why) = case.check::<logs::Logs>(&history, &aside) {
                    panic!("the first one died at call {dies_at}: {why}");
                }
            }
        }
        if recording.statuses[0].success() {
            assert!(dies_at > 20, "{dies_at} calls");
            return;
        }
    }
}
