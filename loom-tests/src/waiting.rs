//! Group commit, waiting readers, and pins.
//!
//! The main thread of a model never parks. loom takes a late `unpark` for the end of whatever a thread is
//! blocked on, so it could end the main thread's `join`.

#![allow(unsafe_code, reason = "cells that loom watches")]

use crate::format::frame::{self, Header, Kind, State};
use crate::format::header::FIRST_FRAME;
use crate::log::append::claim::SegmentMemory;
use crate::log::group_commit::{GroupCommit, TaskTurn};
use crate::memory::{FRAME, Log, fill};
use crate::segment::pins::Pins;
use crate::sync::{Arc, AtomicU64, Ordering, UnsafeCell};
use crate::{begin_main, followed, model, spawn};
use std::io;

/// Group commit, and a cell that stands for what is on the disk.
struct Disk {
    group: GroupCommit,
    /// The end of the log, which grows.
    end: AtomicU64,
    synced: UnsafeCell<u64>,
}

// SAFETY: `synced` is written by the one leader, and read by a thread that sees `durable`; loom checks that.
unsafe impl Sync for Disk {}

impl Disk {
    fn new(end: u64) -> Arc<Self> {
        let (group, synced) = (GroupCommit::new(0), UnsafeCell::new(0));
        Arc::new(Self { group, end: AtomicU64::new(end), synced })
    }

    fn sync(&self) -> u64 {
        let end = self.end.load(Ordering::Relaxed);
        self.synced.with_mut(|synced| {
            // SAFETY: one leader at a time; loom reports it if there are two.
            let synced = unsafe { &mut *synced };
            assert!(*synced <= end);
            *synced = end;
        });
        end
    }

    fn synced(&self) -> u64 {
        // SAFETY: the caller has seen the watermark.
        self.synced.with(|synced| unsafe { *synced })
    }
}

/// Every waiter returns, after a sync that covers its target.
pub fn every_waiter_is_woken() {
    model(3, || {
        let disk = Disk::new(2);
        let waiters = [1, 2, 2].map(|target| {
            let disk = disk.clone();
            spawn(move || {
                disk.group.wait(target, || Ok(disk.sync())).unwrap();
                assert!(disk.group.durable() >= target);
            })
        });
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!((disk.group.durable(), disk.group.waiting()), (2, 0));
    });
}

/// A sync may cover less than a waiter's target: then that waiter leads next.
pub fn who_is_left_leads() {
    model(3, || {
        let disk = Disk::new(1);
        let waiter = {
            let disk = disk.clone();
            spawn(move || {
                disk.end.store(2, Ordering::Relaxed);
                disk.group.wait(2, || Ok(disk.sync())).unwrap();
                assert_eq!(disk.group.durable(), 2);
            })
        };
        let other = {
            let disk = disk.clone();
            spawn(move || disk.group.wait(1, || Ok(disk.sync())).unwrap())
        };
        other.join().unwrap();
        assert!(disk.group.durable() >= 1);
        waiter.join().unwrap();
        assert_eq!(disk.group.durable(), 2);
    });
}

/// A thread that sees the watermark comes after the sync, also without waiting.
pub fn the_watermark_comes_after_the_sync() {
    model(3, || {
        let disk = Disk::new(1);
        let leader = {
            let disk = disk.clone();
            spawn(move || disk.group.wait(1, || Ok(disk.sync())).unwrap())
        };
        begin_main();
        if disk.group.durable() == 1 {
            assert_eq!(disk.synced(), 1);
        }
        leader.join().unwrap();
    });
}

/// One failure fails all waiters, now and later. None waits forever, and none syncs again.
pub fn a_failure_reaches_every_waiter() {
    model(3, || {
        let disk = Disk::new(2);
        let waiters = [1, 2, 2].map(|target| {
            let disk = disk.clone();
            spawn(move || disk.group.wait(target, || Err(io::Error::other("no"))).is_err())
        });
        assert_eq!(waiters.map(|waiter| waiter.join().unwrap()), [true; 3]);
        assert!(disk.group.failure().is_some());
        assert!(disk.group.wait(1, || unreachable!("nobody leads any more")).is_err());
    });
}

/// A leader that panics leaves a failure behind, and wakes the others.
pub fn a_panicking_leader_wakes_the_others() {
    model(3, || {
        let disk = Disk::new(2);
        let waiter = {
            let disk = disk.clone();
            spawn(move || {
                let mut led = false;
                let result = disk.group.wait(2, || {
                    led = true;
                    Ok(disk.sync())
                });
                (led, result.is_ok())
            })
        };
        let panicking = {
            let disk = disk.clone();
            spawn(move || {
                let wait = std::panic::AssertUnwindSafe(|| {
                    disk.group.wait(2, || std::panic::resume_unwind(Box::new("on purpose")))
                });
                std::panic::catch_unwind(wait).is_err()
            })
        };
        // It panicked, unless the other one led before it.
        let panicked = panicking.join().unwrap();
        let (led, ok) = waiter.join().unwrap();
        assert_eq!(ok, led);
        assert_eq!(panicked, !led);
        assert_eq!(disk.group.failure().is_some(), panicked);
    });
}

/// Whether a task was woken.
struct Flag(AtomicU64);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        // ORDERING: Relaxed; read after a join.
        self.0.store(1, Ordering::Relaxed);
    }
}

/// The thread that syncs for tasks fails: a task finds that after it has registered, or is woken.
pub fn a_failed_thread_leaves_no_task_asleep() {
    model(3, || {
        let disk = Disk::new(2);
        let failed = Arc::new(AtomicU64::new(0));
        let flag = Arc::new(Flag(AtomicU64::new(0)));
        let thread = {
            let (disk, failed) = (disk.clone(), failed.clone());
            spawn(move || {
                failed.store(1, Ordering::Relaxed);
                disk.group.wake_tasks();
            })
        };
        begin_main();
        let mut ticket = 0;
        // A task may be polled at any time; it is registered once all the same.
        for _ in 0..2 {
            let poll = disk.group.poll(2, &mut ticket, &flag.clone().into());
            assert!(matches!(poll, TaskTurn::Registered));
            assert!(disk.group.waiting() <= 1);
        }
        let found = failed.load(Ordering::Relaxed) == 1;
        thread.join().unwrap();
        assert!(found || flag.0.load(Ordering::Relaxed) == 1);
        disk.group.forget(ticket);
        assert_eq!((disk.group.waiting(), disk.group.wanted()), (0, None));
    });
}

/// A task is woken by a thread that leads.
pub fn a_task_is_woken() {
    model(3, || {
        let disk = Disk::new(2);
        let flag = Arc::new(Flag(AtomicU64::new(0)));
        let leader = {
            let disk = disk.clone();
            spawn(move || disk.group.wait(2, || Ok(disk.sync())).unwrap())
        };
        begin_main();
        let registered = match disk.group.poll(2, &mut 0, &flag.clone().into()) {
            TaskTurn::Done => false,
            TaskTurn::Failed(_) => unreachable!("no sync fails"),
            TaskTurn::Registered => true,
        };
        leader.join().unwrap();
        assert_eq!(flag.0.load(Ordering::Relaxed) == 1, registered);
        assert_eq!(disk.group.wanted(), None);
    });
}

/// Whether `count` entries can be read, stepping over finished frames from segment to segment.
fn finds_an_entry(log: &Log, count: usize) -> bool {
    let (mut id, mut offset, mut found) = (1, FIRST_FRAME, 0);
    loop {
        let segment = log.segment(id);
        if offset == segment.capacity() {
            if !log.has_segment(id + 1) {
                return false;
            }
            (id, offset) = (id + 1, FIRST_FRAME);
            continue;
        }
        match segment.frame(offset, Ordering::Acquire) {
            None => return false,
            Some((word, _)) if word.state == State::Claimed => return false,
            Some((word, body)) => {
                found += usize::from(word.state == State::Committed && body == [ENTRY; 8]);
                offset += word.len;
            }
        }
        if found == count {
            return true;
        }
    }
}

const ENTRY: u8 = 1;

/// A reader waits for an entry. One thread appends it, and another one leaves some other frame before or
/// behind it. In whatever way the frames end, the reader is woken by the one that ends last.
fn reader_beside(room: u64, entries: usize, beside: fn(&Log)) {
    followed(2, move || {
        let log = Arc::new(Log::new(2, room));
        // With room for all of them.
        log.publish(&mut log.tail.preparer(), 3 * FRAME);
        let reader = {
            let log = log.clone();
            spawn(move || log.tail.waiters.wait(None, || finds_an_entry(&log, entries)))
        };
        let other = {
            let log = log.clone();
            spawn(move || beside(&log))
        };
        begin_main();
        log.append(&[ENTRY; 8]);
        other.join().unwrap();
        assert!(reader.join().unwrap());
    });
}

/// A task looks, registers, looks once more, and then sleeps until it is woken; each time that it is, it
/// does so again. Two frames are appended by two threads.
pub fn no_commit_is_slept_through_by_a_task() {
    struct Unpark(loom::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    followed(2, || {
        let log = Arc::new(Log::new(2, 2 * FRAME));
        let task = {
            let log = log.clone();
            spawn(move || {
                let waker = std::sync::Arc::new(Unpark(loom::thread::current())).into();
                let mut ticket = 0;
                while !finds_an_entry(&log, 2) {
                    log.tail.waiters.register_task(&mut ticket, &waker);
                    if finds_an_entry(&log, 2) {
                        break;
                    }
                    loom::thread::park();
                }
                log.tail.waiters.forget_task(&mut ticket);
            })
        };
        let other = {
            let log = log.clone();
            spawn(move || _ = log.append(&[ENTRY; 8]))
        };
        begin_main();
        log.append(&[ENTRY; 8]);
        other.join().unwrap();
        task.join().unwrap();
    });
}

/// The other frame is committed without a guard, as `append` does.
pub fn no_append_is_slept_through() {
    reader_beside(2 * FRAME, 2, |log| {
        log.append(&[ENTRY; 8]);
    });
}

/// The other frame is committed through a guarded claim.
pub fn no_commit_is_slept_through() {
    reader_beside(2 * FRAME, 2, |log| {
        fill(log.claim(FRAME), &[ENTRY; 8]);
    });
}

/// The other frame is a sync mark, which is no entry.
pub fn no_sync_mark_is_slept_through() {
    reader_beside(2 * FRAME, 1, |log| {
        let mut claim = log.claim(frame::SYNC_MARK);
        claim.write(frame::HEADER, &[9; 8]);
        claim.commit(Header::plain(Kind::SyncMark, 8), frame::crc(&[9; 8]));
    });
}

/// The other frame is given up.
pub fn no_void_is_slept_through() {
    reader_beside(2 * FRAME, 1, |log| drop(log.claim(FRAME)));
}

/// The other frame is a pad, over a rest that is too short.
pub fn no_pad_is_slept_through() {
    reader_beside(16, 1, |log| drop(log.tail.reserve(2 * FRAME)));
}

/// Two readers wait for different entries.
pub fn no_commit_is_slept_through_by_two() {
    followed(2, || {
        let log = Arc::new(Log::new(2, 2 * FRAME));
        let readers = [1, 2].map(|entries| {
            let log = log.clone();
            spawn(move || log.tail.waiters.wait(None, || finds_an_entry(&log, entries)))
        });
        begin_main();
        log.append(&[ENTRY; 8]);
        log.append(&[ENTRY; 8]);
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap()));
    });
}

/// The memory of a segment, which may be unmapped once no reader pins it.
struct Mapped {
    pins: Pins,
    memory: UnsafeCell<bool>,
}

// SAFETY: `memory` is written once the pins are free; loom checks that.
unsafe impl Sync for Mapped {}

/// A retired segment is unmapped after the last read.
pub fn what_is_pinned_stays_mapped() {
    model(3, || {
        let mapped = Arc::new(Mapped { pins: Pins::default(), memory: UnsafeCell::new(true) });
        let readers = [(); 2].map(|()| {
            let mapped = mapped.clone();
            spawn(move || {
                if let Some(stripe) = mapped.pins.pin() {
                    // SAFETY: pinned; loom reports it if it is unmapped meanwhile.
                    assert!(mapped.memory.with(|memory| unsafe { *memory }));
                    // SAFETY: it was pinned once, and is not read any more.
                    unsafe { mapped.pins.unpin(stripe) };
                }
            })
        });
        begin_main();
        mapped.pins.retire();
        if mapped.pins.is_free() {
            // SAFETY: no thread reads, now or later.
            mapped.memory.with_mut(|memory| unsafe { *memory = false });
        }
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(mapped.pins.is_free());
        assert!(mapped.pins.pin().is_none());
    });
}
