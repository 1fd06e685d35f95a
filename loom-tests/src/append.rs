//! Reserving, claiming, committing, rolling, and the prefix.

#![allow(unsafe_code, reason = "a slot's cell is only touched through the protocol")]

use crate::format::frame::{self, Header, State};
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::{SegmentMemory, void_dead_claim};
use crate::log::append::prefix::is_frame_before;
use crate::memory::{FRAME, Log, LoomSegment, fill};
use crate::position::LogPosition;
use crate::sync::{Arc, Ordering, fence};
use crate::{begin_main, model, spawn};
use loom::thread::JoinHandle;

fn bodies(entries: &[(LogPosition, Vec<u8>)]) -> Vec<u8> {
    let mut all: Vec<_> = entries.iter().map(|(_, body)| body[0]).collect();
    all.sort_unstable();
    all
}

fn go<R: 'static>(log: &Arc<Log>, f: impl FnOnce(&Log) -> R + 'static) -> JoinHandle<R> {
    let log = log.clone();
    spawn(move || f(&log))
}

/// A reader goes by commit words alone. It sees only whole frames, and in the end all of them.
pub fn a_reader_sees_whole_frames_only() {
    model(3, || {
        let log = Arc::new(Log::new(2, 2 * FRAME));
        let segment = log.segment(1);
        // One writer uses an unguarded claim, the other one a guarded one.
        let finishing = go(&log, |log| log.append(&[1; 8]));
        let committing = go(&log, |log| fill(log.claim(FRAME), &[2; 8]));
        let writers = [finishing, committing];
        begin_main();
        let mut offset = FIRST_FRAME;
        while offset < segment.capacity() {
            match segment.frame(offset, Ordering::Acquire) {
                Some((word, body)) if word.state == State::Committed => {
                    assert!(body == [1; 8] || body == [2; 8]);
                    offset += word.len;
                }
                _ => break,
            }
        }
        let places = writers.map(|writer| writer.join().unwrap());
        assert_ne!(places[0], places[1]);
        assert_eq!(bodies(&log.all_entries()), [1, 2]);
    });
}

/// What one thread has walked over, another may read, going by the prefix's position alone.
pub fn what_is_before_the_prefix_may_be_read() {
    model(3, || {
        let log = Arc::new(Log::new(2, 2 * FRAME));
        let writer = go(&log, |log| log.append(&[1; 8]));
        let walker = go(&log, |log| log.prefix.advance(&log.tail));
        begin_main();
        let seen = log.prefix.position();
        assert!(log.entries_before(seen).len() <= 1);
        writer.join().unwrap();
        assert!(walker.join().unwrap() >= seen);
        assert_eq!(bodies(&log.all_entries()), [1]);
    });
}

/// Frames inside a batch are seen once the batch is committed, and not before.
pub fn a_batch_is_seen_whole() {
    use frame::{Header, Kind};
    model(3, || {
        let log = Arc::new(Log::new(2, 16 + FRAME));
        let writer = go(&log, |log| {
            let mut claim = log.tail.reserve(16 + FRAME).expect("room");
            claim.write_inner(16, &[7; 8]);
            claim.commit(Header::plain(Kind::Batch, 1), frame::crc(&[]))
        });
        let segment = log.segment(1);
        begin_main();
        if segment
            .frame(FIRST_FRAME, Ordering::Acquire)
            .is_some_and(|f| f.0.state == State::Committed)
        {
            let (_, body) = segment.frame(FIRST_FRAME + 16, Ordering::Relaxed).expect("the inner");
            assert_eq!(body, [7; 8]);
        }
        writer.join().unwrap();
        log.prefix.advance(&log.tail);
        assert_eq!((log.prefix.counts().entries, log.prefix.counts().batches), (1, 1));
    });
}

/// Two writers at the end of a segment, with every remainder there can be: a frame that fits is written,
/// one writer pads the rest, and the segment is tiled.
pub fn the_end_of_a_segment_is_tiled() {
    for (room, sizes) in [0, 8, 16]
        .into_iter()
        .flat_map(|rest| [(rest, [8, 8]), (FRAME + rest, [8, 8]), (FRAME + rest, [8, 16])])
        .chain([(FRAME + 24, [8, 16]), (FRAME + 24, [16, 16])])
        .filter(|&(room, _)| room > 0)
    {
        model(3, move || {
            let log = Arc::new(Log::new(2, room));
            let writers = sizes.map(|size| {
                go(&log, move |log| {
                    let body = [size as u8; 16];
                    let claim = log.tail.reserve(frame::frame_len(size))?;
                    Some(fill(claim, &body[..size as usize]))
                })
            });
            let won = writers.map(|writer| writer.join().unwrap());
            let won = won.into_iter().flatten().count();
            let end = log.prefix.advance(&log.tail);
            let frames = log.frames_before(end);
            let count = |state| frames.iter().filter(|f| f.1.state == state).count();
            assert_eq!(count(State::Committed), won);
            assert!(count(State::Pad) <= 1);
            assert_eq!(frames.len(), won + count(State::Pad));
            let fits = sizes.iter().any(|&size| frame::frame_len(size) <= room);
            // The first frame is written if it fits; if it does not, its writer pads the rest.
            assert!(won > 0 || !fits || sizes[0] != sizes[1]);
            if log.tail.is_full() {
                assert_eq!(end, LogPosition::new(1, (FIRST_FRAME + room) as u32));
            }
        });
    }
}

/// Two writers and the thread that prepares segments.
pub fn a_roll_with_a_standby() {
    model(2, || {
        let log = Arc::new(Log::new(4, FRAME));
        let preparer = go(&log, Log::prepare_standby);
        let writer = go(&log, |log| log.append(&[1; 8]));
        begin_main();
        let second = log.append(&[2; 8]);
        let first = writer.join().unwrap();
        preparer.join().unwrap();
        assert_ne!(first, second);
        assert_eq!(bodies(&log.all_entries()), [1, 2]);
    });
}

/// One thread publishes, another rolls, a third writes to the new segment.
pub fn who_rolls_hands_on_what_was_published() {
    model(3, || {
        let log = Arc::new(Log::new(4, FRAME));
        log.append(&[1; 8]);
        let preparer = go(&log, Log::prepare_standby);
        let roller = go(&log, |log| log.tail.roll());
        begin_main();
        let claim = log.tail.reserve(FRAME);
        let entries = 1 + usize::from(claim.is_some());
        if let Some(claim) = claim {
            fill(claim, &[2; 8]);
        }
        preparer.join().unwrap();
        roller.join().unwrap();
        assert_eq!(log.all_entries().len(), entries);
    });
}

/// The segment that a writer looked up is not the one in which it gets its range.
pub fn a_roll_between_the_look_and_the_add() {
    model(3, || {
        let log = Arc::new(Log::new(4, FRAME));
        let preparer = go(&log, Log::prepare_standby);
        let other = go(&log, |log| {
            let claim = log.tail.reserve(FRAME);
            let filled = claim.map(|claim| fill(claim, &[1; 8])).is_some();
            log.tail.roll();
            filled
        });
        begin_main();
        let claim = log.tail.reserve(FRAME);
        let entries = usize::from(claim.is_some());
        claim.map(|claim| fill(claim, &[2; 8]));
        preparer.join().unwrap();
        let filled = other.join().unwrap();
        assert_eq!(log.all_entries().len(), entries + usize::from(filled));
    });
}

/// There is no standby: one of the writers creates a segment.
pub fn a_roll_without_a_standby() {
    model(2, || {
        let log = Arc::new(Log::new(4, FRAME));
        log.append(&[0; 8]);
        let writers = [1, 2].map(|n| {
            go(&log, move |log| {
                let first = log.append(&[n; 8]);
                // Positions are in the order of time.
                assert!(log.tail.position() > first);
                first
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(bodies(&log.all_entries()), [0, 1, 2]);
    });
}

/// The writer of an oversize frame takes back the standby while others roll to it.
pub fn a_withdrawn_standby_never_becomes_active() {
    model(3, || {
        let log = Arc::new(Log::new(8, FRAME));
        log.prepare_standby();
        let alone = go(&log, |log| log.append_oversize(&[1; 16]));
        begin_main();
        log.append(&[2; 8]);
        log.append(&[3; 8]);
        let (position, withdrawn) = alone.join().unwrap();
        let entries = log.all_entries();
        assert_eq!(bodies(&entries), [1, 2, 3]);
        assert!(entries.iter().any(|(at, body)| *at == position && body.len() == 16));
        assert!(entries.iter().all(|(at, _)| Some(at.segment()) != withdrawn));
    });
}

/// The same, reduced to the race: in a full segment one thread rolls and one takes the standby back.
pub fn a_roll_against_a_withdrawal() {
    model(3, || {
        let log = Arc::new(Log::new(4, FRAME));
        log.append(&[1; 8]);
        log.prepare_standby();
        let roller = go(&log, |log| {
            let rolled = log.tail.roll();
            (rolled, log.tail.reserve(FRAME).map(|claim| fill(claim, &[2; 8])))
        });
        begin_main();
        let withdrawn = log.tail.preparer().withdraw().map(|segment| segment.id());
        let (rolled, written) = roller.join().unwrap();
        assert_eq!(rolled, withdrawn.is_none(), "either it is active or it was taken back");
        assert!(log.tail.is_full());
        assert!(written.is_none() || rolled);
        let end = log.prefix.advance(&log.tail);
        assert_eq!(end, log.tail.position());
        assert_eq!(end.segment(), if rolled { 2 } else { 1 });
    });
}

/// The same in a segment that is not full: the other thread rolls only if it sees the segment closed.
pub fn a_closed_segment_has_no_standby() {
    model(3, || {
        let log = Arc::new(Log::new(4, FRAME));
        log.prepare_standby();
        let roller = go(&log, |log| (log.tail.roll(), log.tail.roll_number()));
        begin_main();
        let withdrawn = log.tail.preparer().withdraw();
        assert!(withdrawn.is_some(), "nobody can roll before the close, nor after it");
        let (_, active) = roller.join().unwrap();
        assert_eq!((active, log.tail.roll_number()), (1, 1));
    });
}

/// A claim that is given up becomes void, and nothing waits for it. (It is dropped, not unwound
/// through: loom's threads share one panic count, so a model cannot switch threads during unwinding.)
pub fn an_abandoned_claim_is_void() {
    model(3, || {
        let log = Arc::new(Log::new(2, 2 * FRAME));
        let abandon = go(&log, |log| {
            let mut claim = log.claim(FRAME);
            claim.write(16, &[9; 8]);
        });
        let writer = go(&log, |log| log.append(&[1; 8]));
        begin_main();
        log.prefix.advance(&log.tail);
        abandon.join().unwrap();
        writer.join().unwrap();
        assert_eq!(bodies(&log.all_entries()), [1]);
        assert_eq!(log.prefix.counts().voids, 1);
    });
}

/// The prefix never passes an unfinished frame, and `is_frame` knows what begins where.
pub fn the_prefix_is_contiguous() {
    model(3, || {
        let log = Arc::new(Log::new(2, 2 * FRAME));
        let writers = [1, 2].map(|n| {
            go(&log, move |log| {
                let claim = log.claim(FRAME);
                // A frame begins at its claim already, unless a range before it is not even claimed.
                let position = LogPosition::new(claim.segment().id(), claim.offset() as u32);
                let begins = log.is_frame(position);
                assert!(begins || u64::from(position.offset()) > FIRST_FRAME);
                fill(claim, &[n; 8])
            })
        });
        begin_main();
        let seen = log.prefix.advance(&log.tail);
        let frames = log.entries_before(seen);
        assert_eq!(frames.len() as u64, (u64::from(seen.offset()) - FIRST_FRAME) / FRAME);
        assert!(log.is_frame(seen));
        for position in writers.map(|writer| writer.join().unwrap()) {
            assert!(log.is_frame(position) || position < seen);
            let inside = LogPosition::from_u64(position.as_u64() + 8);
            assert!(!log.is_frame(inside));
        }
        assert!(log.prefix.advance(&log.tail) >= seen);
        assert_eq!(bodies(&log.all_entries()), [1, 2]);
    });
}

/// If one thread has found a frame, another one starts its walk there, and sees it, too.
pub fn what_one_found_another_walks_on_from() {
    model(2, || {
        let log = Arc::new(Log::new(2, 3 * FRAME));
        let third = LogPosition::new(1, (FIRST_FRAME + 2 * FRAME) as u32);
        let writer = go(&log, |log| {
            log.append(&[1; 8]);
            log.append(&[2; 8]);
        });
        let one = go(&log, move |log| log.is_frame(third));
        let other = go(&log, move |log| {
            let found = log.segment(1).second_found();
            (found, log.is_frame(third))
        });
        writer.join().unwrap();
        one.join().unwrap();
        let (found, other) = other.join().unwrap();
        assert!(other || !found, "a frame was found, and then not");
    });
}

/// The process may die at any moment: wherever there is a byte of a body, its claim is there, too.
pub fn a_dead_process_leaves_no_body_without_a_claim() {
    model(3, || {
        let first = Arc::new(LoomSegment::on_file(1, 2 * FRAME));
        let log = Arc::new(Log::with(2, first, 2 * FRAME));
        let writers = [1, 2].map(|n| go(&log, move |log| log.append(&[n; 8])));
        begin_main();
        // After a death the file holds what had reached the caches. The body is read first and the
        // claim afterwards; the acquire fence keeps the two reads in that order.
        let file = log.segment(1);
        for begin in [FIRST_FRAME, FIRST_FRAME + FRAME] {
            let body = file.file_payload(begin + 8) | file.file_payload(begin + 16);
            fence(Ordering::Acquire);
            assert!(body == 0 || file.file_word(begin) != 0, "a body without a claim");
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

/// Three segments in two slots: a slot is used again once its segment is finished.
pub fn slots_are_used_again() {
    model(2, || {
        let log = Arc::new(Log::new(2, FRAME));
        let writer = go(&log, |log| [1, 2].map(|n| log.append(&[n; 8])));
        begin_main();
        let last = log.append(&[3; 8]);
        let [first, second] = writer.join().unwrap();
        assert!(first < second && last != first && last != second);
        assert_eq!(bodies(&log.all_entries()), [1, 2, 3]);
    });
}

/// A preparer that reuses a slot comes after the walker that finished the slot's last segment.
pub fn a_slot_is_used_again_after_it_is_finished() {
    model(3, || {
        let log = Arc::new(Log::new(2, FRAME));
        log.append(&[1; 8]);
        log.append(&[2; 8]);
        let walker = go(&log, |log| log.prefix.advance(&log.tail));
        begin_main();
        {
            let mut preparer = log.tail.preparer();
            if preparer.has_slot() {
                log.publish(&mut preparer, FRAME);
            }
        }
        walker.join().unwrap();
        assert_eq!(bodies(&log.all_entries()), [1, 2]);
    });
}

/// The walker lets go of a segment after the last access of its writer, which commits its frame.
pub fn a_segment_is_let_go_after_a_commit() {
    let_go(FRAME, |log| {
        log.tail.reserve(FRAME).map(|claim| fill(claim, &[1; 8]));
    });
    let_go(FRAME, |log| {
        let (header, crc) = (frame::Header::entry(&[1; 8]), frame::crc(&[1; 8]));
        log.tail.reserve_unguarded(FRAME).map(|claim| claim.finish(&[1; 8], header, crc));
    });
}

/// The same for a writer that gives up its claim.
pub fn a_segment_is_let_go_after_a_void() {
    let_go(FRAME, |log| {
        if let Some(mut claim) = log.tail.reserve(FRAME) {
            claim.write(16, &[9; 8]);
        }
    });
}

/// The same for a writer that pads what is left.
pub fn a_segment_is_let_go_after_a_pad() {
    let_go(16, |log| assert!(log.tail.reserve(FRAME).is_none() || log.tail.roll_number() == 2));
}

fn let_go(room: u64, write: fn(&Log)) {
    model(3, move || {
        let log = Arc::new(Log::new(2, room));
        // With room for the writer, if it comes late.
        log.publish(&mut log.tail.preparer(), 2 * FRAME);
        let writer = go(&log, write);
        begin_main();
        log.tail.close();
        assert!(log.tail.roll());
        if log.prefix.advance(&log.tail).segment() == 2 {
            log.segment(1).unmap();
        }
        writer.join().unwrap();
        assert_eq!(log.prefix.advance(&log.tail).segment(), 2);
    });
}

/// The walker enters a segment that another thread has published and made active.
pub fn the_walker_enters_what_others_published() {
    model(3, || {
        let log = Arc::new(Log::new(4, FRAME));
        log.append(&[1; 8]);
        let writer = go(&log, |log| {
            log.prepare_standby();
            log.tail.roll();
        });
        begin_main();
        log.prefix.advance(&log.tail);
        writer.join().unwrap();
        assert_eq!(log.prefix.advance(&log.tail).segment(), 2);
    });
}

/// A position read at the tail is made of one segment's id and offset, never of two segments'.
pub fn a_position_is_of_one_segment() {
    model(3, || {
        let log = Arc::new(Log::new(2, FRAME));
        log.append(&[1; 8]);
        let writer = go(&log, |log| {
            log.publish(&mut log.tail.preparer(), 2 * FRAME);
            log.tail.roll();
        });
        let begin = LogPosition::new(2, FIRST_FRAME as u32);
        let end = LogPosition::new(1, (FIRST_FRAME + FRAME) as u32);
        let reader = go(&log, |log| log.tail.position());
        writer.join().unwrap();
        let position = reader.join().unwrap();
        assert!(position == end || position == begin, "{position}");
        assert_eq!(log.tail.position(), begin);
    });
}

/// The same if the slot is reused while it is read.
pub fn a_position_is_not_of_a_later_segment() {
    model(3, || {
        let log = Arc::new(Log::new(2, FRAME));
        log.append(&[1; 8]);
        let writer = go(&log, |log| {
            // Roll 2 becomes active; roll 1 is finished; roll 3 gets its slot.
            log.prepare_standby();
            log.tail.roll();
            log.prefix.advance(&log.tail);
            log.publish(&mut log.tail.preparer(), 2 * FRAME);
        });
        let end = LogPosition::new(1, (FIRST_FRAME + FRAME) as u32);
        let begin = LogPosition::new(2, FIRST_FRAME as u32);
        let reader = go(&log, |log| log.tail.position());
        writer.join().unwrap();
        let position = reader.join().unwrap();
        assert!(position == end || position == begin, "{position}");
    });
}

/// Closing the segment again and again (every failed sync does) does not change the roll number.
pub fn closing_again_changes_no_roll() {
    model(0, || {
        let log = Log::new(2, FRAME);
        for _ in 0..1_100 {
            log.tail.close();
        }
        assert_eq!(log.tail.roll_number(), 1);
        assert!(log.tail.is_full());
    });
}

/// Recovery voids a dead batch and pads a hole while another process reads. The reader steps over both
/// by their lengths, finds what is behind them, and takes nothing inside the batch for a frame.
pub fn a_reader_beside_recovery_sees_whole_frames_only() {
    model(3, || {
        const BATCH: u64 = frame::HEADER + FRAME;
        let segment = Arc::new(LoomSegment::new(1, 2 * FRAME + BATCH + 8));
        let (batch, hole) = (FIRST_FRAME + FRAME, FIRST_FRAME + FRAME + BATCH);
        // What a dead process has left: an entry, a claimed batch, a hole, and another entry.
        commit(&segment, FIRST_FRAME, &[1; 8]);
        let word = frame::bare_word(segment.salt(), batch, BATCH, State::Claimed);
        segment.word(batch).store(word, Ordering::Relaxed);
        commit(&segment, batch + frame::HEADER, &[2; 8]);
        commit(&segment, hole + 8, &[3; 8]);

        let recovering = segment.clone();
        let recovery = spawn(move || {
            // SAFETY: the process that claimed it is gone, and nothing else writes here.
            unsafe { void_dead_claim(&*recovering, batch, BATCH) };
            let pad = frame::bare_word(recovering.salt(), hole, 8, State::Pad);
            recovering.word(hole).store(pad, Ordering::Release);
        });
        begin_main();
        let gap_at = |offset| (offset == hole).then_some(8);
        let is_frame = |at| is_frame_before(&*segment, segment.capacity(), gap_at, at);
        assert!(!is_frame(batch + frame::HEADER), "inside of a batch that does not count");
        assert!(is_frame(hole + 8));
        let (mut offset, mut seen) = (FIRST_FRAME, Vec::<u8>::new());
        while offset < segment.capacity() {
            match segment.frame(offset, Ordering::Acquire) {
                Some((word, body)) => {
                    seen.extend(body.first());
                    offset += word.len;
                }
                None => offset += gap_at(offset).expect("there is no other gap"),
            }
        }
        assert_eq!(seen, [1, 3]);
        recovery.join().unwrap();
    });
}

/// Writes an entry, as a process did that has died.
fn commit(segment: &LoomSegment, offset: u64, body: &[u8]) {
    let header = Header::entry(body);
    // SAFETY: no other thread has the segment yet.
    unsafe { segment.write_frame(offset, header.to_word(), body) };
    let word = frame::word_of(segment.salt(), offset, header, body);
    segment.word(offset).store(word, Ordering::Release);
}
