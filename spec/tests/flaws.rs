//! Each deliberate mistake breaks a promise, and the checker finds out which.

mod common;

use common::{LOG, MERGE};
use spec::log::{Flaw as L, LogSpec};
use spec::merge::{Flaw as M, MergeSpec};
use spec::steps_to_break;

const LOST: &str = "the death of the process loses nothing";
const UNSYNCED: &str = "what is told to be durable survives a power loss";
const HOLE: &str = "a power loss leaves no hole";
const HALF: &str = "an entry is there whole or not at all";
const DROPPED: &str = "what was dropped stays dropped";
const REFUSED: &str = "no crash makes a log that is refused";

fn log(flaw: L, spec: LogSpec, promise: &'static str) {
    let steps = steps_to_break(promise, LogSpec { flaw: Some(flaw), ..spec });
    println!("{flaw:?} breaks {promise:?} in {steps:?} steps");
    assert!(steps.is_some());
}

#[test]
fn of_appending() {
    let two = LogSpec { writers: 2, ..LOG };
    log(L::AcknowledgesAtTheClaim, two.clone(), LOST);
    log(L::CommitsBeforeFilling, two.clone(), HALF);
    log(L::FillsBeforeClaiming, two, REFUSED);
}

#[test]
fn of_syncing() {
    let two = LogSpec { writers: 2, ..LOG };
    log(L::PublishesBeforeSyncing, LOG, UNSYNCED);
    log(L::SyncsPastClaims, two, UNSYNCED);
    log(L::SyncsTheLastSegmentOnly, LOG, UNSYNCED);
    log(L::SealsBeforeSyncing, LOG, HOLE);
    log(L::RollsWithoutSyncingTheDirectory, LOG, UNSYNCED);
}

#[test]
fn of_recovering() {
    let (two, twice) = (LogSpec { writers: 2, ..LOG }, LogSpec { crashes: 2, ..LOG });
    log(L::EndsAtAHoleAfterADeath, two.clone(), LOST);
    log(L::EndsAtAClaimAfterADeath, two, LOST);
    log(L::StepsOverHolesAfterAPowerLoss, LOG, HOLE);
    log(L::TrustsCommitWords, LOG, HALF);
    log(L::KeepsSegmentsBehindTheEnd, LOG, HOLE);
    let twice = LogSpec { writers: 2, ..twice };
    log(L::SealsOfRecoveryAreNotSynced, twice.clone(), REFUSED);
    log(L::RecoveryDoesNotSync, twice.clone(), UNSYNCED);
    log(L::GoesOnInTheRecoveredSegment, twice, DROPPED);
}

fn merge(flaw: M, spec: MergeSpec, promise: &'static str) {
    let steps = steps_to_break(promise, MergeSpec { flaw: Some(flaw), ..spec });
    println!("{flaw:?} breaks {promise:?} in {steps:?} steps");
    assert!(steps.is_some());
}

#[test]
fn of_merging() {
    let (lost, back) = ("what was put is found", "a deleted key stays deleted");
    let one = MergeSpec { keys: 1, writes: 4, merges: 2, ..MERGE };
    merge(M::DoesNotSyncTheLog, one.clone(), lost);
    merge(M::DoesNotSyncTheOutput, one.clone(), lost);
    merge(M::MovesSlotsWhateverTheyPointAt, one.clone(), lost);
    merge(M::DropsEveryTombstone, one.clone(), back);
    merge(M::AsksOlderFilesOnly, one.clone(), back);
    merge(M::CopiesAreNew, one.clone(), lost);
    merge(M::CopiesAreNew, one.clone(), back);
    merge(M::UnlinksBeforeListing, one.clone(), lost);
    merge(M::DoesNotListWhatItRemoves, one, back);
}
