//! Reading a segment front to back, of which the kernel reads ahead nothing by itself.
//!
//! A scattered segment ([`super::cold`]) is advised to be read at random. Whoever goes through it front to
//! back moves a **window** along: the range around its cursor is advised to be read in sequence, and what is
//! behind the cursor at random again. In the window huge pages are asked for, too, and so the kernel reads 4 MiB
//! ahead, whatever the device's `read_ahead_kb` is, while what is there is worked on.
//!
//! Invariant: outside of the windows of those who are reading front to back, a scattered segment is advised to
//! be read at random. So beside them a get reads one page, unless it falls into a window.
//!
//! Asking for ranges (`MADV_WILLNEED`) instead takes several times as long: those are read into single pages,
//! mapped as such, and of each request the kernel reads no more than `read_ahead_kb`.
//!
//! It is advice, like all of this: two readers whose windows overlap may undo each other's, until their next
//! windows.

use super::Segment;
use crate::format::frame::WORD;

/// Windows begin and end at multiples of this, and are one of it long unless a frame is longer: a huge page.
/// What the kernel reads ahead may reach beyond.
const WINDOW: u64 = 2 << 20;

/// The window of a cursor in one segment. Whoever drops it calls [`leave`](Self::leave) first.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    from: u64,
    to: u64,
}

impl ReadAhead {
    /// To be called before the frame at the cursor is read, always with the same segment.
    #[inline]
    pub(crate) fn at(&mut self, segment: &Segment, cursor: u64) {
        if segment.is_scattered() {
            self.at_scattered(segment, cursor);
        }
    }

    fn at_scattered(&mut self, segment: &Segment, cursor: u64) {
        if cursor >= self.to {
            self.move_to(segment, cursor);
        }
        if cursor + WORD <= segment.map.len() as u64 {
            // If no sound frame is there, it is any number.
            let end = cursor + segment.frame_len(cursor);
            if end > self.to {
                self.extend(segment, end);
            }
        }
    }

    #[cold]
    fn move_to(&mut self, segment: &Segment, cursor: u64) {
        let behind = self.from;
        self.from = cursor - cursor % WINDOW;
        self.to = self.from;
        segment.map.expect_cold_in(behind, self.from);
        self.extend(segment, self.from + WINDOW);
    }

    #[cold]
    fn extend(&mut self, segment: &Segment, to: u64) {
        self.to = to.next_multiple_of(WINDOW);
        segment.map.expect_in_sequence(self.from, self.to);
    }

    /// The segment is not read on.
    pub(crate) fn leave(&mut self, segment: &Segment) {
        if segment.is_scattered() {
            segment.map.expect_cold_in(self.from, self.to);
        }
        *self = Self::default();
    }
}

/// A [`ReadAhead`] beside its segment.
#[derive(Debug)]
pub(crate) struct FrontToBack<'s> {
    segment: &'s Segment,
    ahead: ReadAhead,
}

impl<'s> FrontToBack<'s> {
    pub(crate) fn of(segment: &'s Segment) -> Self {
        Self { segment, ahead: ReadAhead::default() }
    }

    /// To be called before the frame at the cursor is read.
    #[inline]
    pub(crate) fn at(&mut self, cursor: u64) {
        self.ahead.at(self.segment, cursor);
    }
}

impl Drop for FrontToBack<'_> {
    fn drop(&mut self) {
        self.ahead.leave(self.segment);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::log::CommitLog;

    /// What the kernel has been told about the memory at an address.
    fn flags_at(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let range = range
                .map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)));
            match (range, line.strip_prefix("VmFlags: ")) {
                (Some((Ok(from), Ok(to))), _) => inside = (from..to).contains(&address),
                (_, Some(flags)) if inside => return flags.to_owned(),
                _ => {}
            }
        }
        panic!("nothing is mapped at {address:x}")
    }

    /// However the cursor moves, it is in a range that is read in sequence, and nothing else is.
    #[test]
    fn the_window_is_where_the_cursor_is_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let options = CommitLog::options().segment_size(16 << 20).initial_segment_size(16 << 20);
        let log = options.open(dir.path().join("log")).unwrap();
        log.append(&[7; 5 << 20]).unwrap();
        let segment = &log.writer().expect("a log for writing").segment_set().segments()[0];
        segment.map.expect_cold(true);
        segment.warmth.set_scattered(true);
        let is_in_sequence = |at: u64| {
            let flags = flags_at(segment.map.address() + at as usize);
            let has = |flag| flags.split(' ').any(|other| other == flag);
            assert_ne!(has("sr"), has("rr"), "{at}: {flags}");
            has("sr")
        };
        let windows = || (0..16 << 20).step_by(WINDOW as usize).map(is_in_sequence);
        assert!(windows().all(|found| !found));

        let mut reading = FrontToBack::of(segment);
        // The first frame is longer than two windows.
        for (cursor, expected) in [
            (128, 0..3),
            ((5 << 20) + 144, 0..3),
            (6 << 20, 3..4),
            ((8 << 20) - 8, 3..4),
            (13 << 20, 6..7),
        ] {
            reading.at(cursor);
            let found: Vec<_> = windows().collect();
            let expected: Vec<_> = (0..8).map(|nth| expected.contains(&nth)).collect();
            assert_eq!(found, expected, "{cursor}");
        }
        drop(reading);
        assert!(windows().all(|found| !found), "it was left");
    }
}
