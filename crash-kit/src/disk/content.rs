//! The bytes of a file: what of them is durable, and what has been seen there since.

use crate::random::Random;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

pub(crate) const PAGE: usize = 4096;
/// What a device writes whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// Read at a time.
const PIECE: usize = 64 * PAGE;

type Page = [u8; PAGE];

/// A page as it was seen; `None`: zeros.
type Seen = Option<Arc<Page>>;

/// Something that changes, as it was seen from time to time: the first one is durable, the last one the
/// newest.
#[derive(Clone, Debug)]
struct Versions<T>(Vec<(u64, T)>);

impl<T> Versions<T> {
    fn newest(&self) -> &T {
        &self.0[self.0.len() - 1].1
    }

    /// What was the newest at this time, or something newer, is durable.
    fn settle(&mut self, time: u64) {
        let behind = self.0.partition_point(|(seen, _)| *seen <= time);
        self.0.drain(..behind.saturating_sub(1));
    }

    /// The newest of this time, or the durable one.
    fn at(&self, time: u64) -> usize {
        self.0.partition_point(|(seen, _)| *seen <= time).max(1) - 1
    }
}

/// A file's content.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// Counts how often it was looked at.
    time: u64,
    lengths: Versions<u64>,
    pages: Vec<Versions<Seen>>,
    pub(crate) mode: u32,
}

impl Content {
    /// A file that was just created: nothing is durable but that it is empty.
    pub(crate) fn empty() -> Self {
        Self { time: 0, lengths: Versions(vec![(0, 0)]), pages: Vec::new(), mode: 0o600 }
    }

    /// Looks at the file, while the program may be writing to it.
    pub(crate) fn observe(&mut self, file: &File) -> io::Result<()> {
        self.time += 1;
        let found = file.metadata()?;
        self.mode = found.mode() & 0o7777;
        let len = found.len();
        if *self.lengths.newest() != len {
            self.lengths.0.push((self.time, len));
        }
        let mut buffer = vec![0; PIECE.min((len as usize).next_multiple_of(PAGE))];
        let mut at = 0;
        while at < len {
            let here = read_up_to(file, &mut buffer, at)?;
            buffer[here..].fill(0);
            for (nth, page) in buffer.chunks_exact(PAGE).enumerate() {
                self.note(at as usize / PAGE + nth, page.first_chunk().expect("a page"));
            }
            if here < buffer.len() {
                break;
            }
            at += here as u64;
        }
        // What is behind the end would be zero if the file grew again.
        let pages = (len as usize).div_ceil(PAGE);
        for page in pages..self.pages.len() {
            self.note(page, &[0; PAGE]);
        }
        Ok(())
    }

    fn note(&mut self, nth: usize, page: &Page) {
        let is_zero = *page == [0; PAGE];
        if nth >= self.pages.len() {
            if is_zero {
                return;
            }
            self.pages.resize_with(nth + 1, || Versions(vec![(0, None)]));
        }
        let versions = &mut self.pages[nth];
        let same = match versions.newest() {
            Some(before) => **before == *page,
            None => is_zero,
        };
        if !same {
            versions.0.push((self.time, (!is_zero).then(|| Arc::new(*page))));
        }
    }

    /// The time of the last look.
    pub(crate) fn time(&self) -> u64 {
        self.time
    }

    /// What was there at a time is durable in a range, and the length is.
    pub(crate) fn settle(&mut self, time: u64, from: u64, to: u64) {
        self.lengths.settle(time);
        let pages = (from as usize / PAGE).min(self.pages.len())
            ..to.div_ceil(PAGE as u64).min(self.pages.len() as u64) as usize;
        for page in &mut self.pages[pages] {
            page.settle(time);
        }
    }

    /// What a power loss leaves of it.
    pub(crate) fn lose(&self, random: &mut Random) -> FileImage {
        let way = Way::draw(random, self.time);
        let length = way.pick(random, &self.lengths);
        let len = self.lengths.0[length].1;
        let mut image = FileImage { len, mode: self.mode, pages: Vec::new(), fates: [0; 3] };
        for (nth, versions) in self.pages.iter().enumerate() {
            if nth as u64 * PAGE as u64 >= len {
                break;
            }
            if let Some(page) = image.page_of(versions, &way, random) {
                image.pages.push((nth as u64, page));
            }
        }
        image
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// How a file's sectors are chosen. Any choice is allowed; these make each kind of image likely.
#[derive(Clone, Copy, Debug)]
enum Way {
    Old,
    New,
    /// As it was at one time, except for one sector in so many.
    At(u64, u64),
    /// Of 16 sectors so many are as new as can be, and the others old.
    Some(u64),
    /// Any.
    Any,
}

impl Way {
    fn draw(random: &mut Random, now: u64) -> Self {
        match random.below(8) {
            0 => Self::Old,
            1 => Self::New,
            2 | 3 => Self::At(random.between(0, now), [4, 64, u64::MAX][random.below(3) as usize]),
            4 | 5 => Self::Some(random.between(1, 15)),
            _ => Self::Any,
        }
    }

    fn pick<T>(self, random: &mut Random, versions: &Versions<T>) -> usize {
        let last = versions.0.len() - 1;
        match self {
            _ if last == 0 => 0,
            Self::Old => 0,
            Self::New => last,
            Self::At(_, except) if random.one_in(except) => random.between(0, last as u64) as usize,
            Self::At(time, _) => versions.at(time),
            Self::Some(new) if random.below(16) < new => last,
            Self::Some(_) => 0,
            Self::Any => random.between(0, last as u64) as usize,
        }
    }
}

/// A file as a power loss leaves it.
#[derive(Clone, Debug)]
pub(crate) struct FileImage {
    pub(crate) len: u64,
    pub(crate) mode: u32,
    /// Those that are not zero.
    pages: Vec<(u64, Arc<Page>)>,
    /// How many sectors that had a choice are old, between, and new.
    pub(crate) fates: [u64; 3],
}

impl FileImage {
    fn page_of(
        &mut self,
        versions: &Versions<Seen>,
        way: &Way,
        random: &mut Random,
    ) -> Option<Arc<Page>> {
        let last = versions.0.len() - 1;
        if last == 0 {
            return versions.newest().clone();
        }
        let mut page = [0; PAGE];
        for from in (0..PAGE).step_by(SECTOR) {
            let chosen = way.pick(random, versions);
            self.fates[usize::from(chosen > 0) + usize::from(chosen == last)] += 1;
            if let Some(seen) = &versions.0[chosen].1 {
                page[from..from + SECTOR].copy_from_slice(&seen[from..from + SECTOR]);
            }
        }
        (page != [0; PAGE]).then(|| Arc::new(page))
    }

    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(self.len)?;
        for (nth, page) in &self.pages {
            let at = nth * PAGE as u64;
            let here = (self.len - at).min(PAGE as u64) as usize;
            file.write_all_at(&page[..here], at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(content: &Content) -> Vec<Vec<u8>> {
        let all = (0..400).map(|seed| {
            let file = tempfile::tempfile().unwrap();
            content.lose(&mut Random::new(seed)).write(&file).unwrap();
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn what_was_never_synced_may_be_anything_that_was_seen() {
        let file = tempfile::tempfile().unwrap();
        let mut content = Content::empty();
        for byte in [1, 2, 3] {
            file.write_all_at(&[byte; SECTOR], 0).unwrap();
            content.observe(&file).unwrap();
        }
        let expected: Vec<_> = (0..4).map(|byte| vec![byte; SECTOR]).collect();
        assert_eq!(images(&content), [vec![Vec::new()], expected].concat());
    }

    #[test]
    fn a_sync_settles_what_was_there_when_it_began_and_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        let mut content = Content::empty();
        file.write_all_at(&[1; 3 * PAGE], 0).unwrap();
        content.observe(&file).unwrap();
        file.write_all_at(&[2; SECTOR], PAGE as u64).unwrap();
        content.observe(&file).unwrap();
        let began = content.time();
        file.write_all_at(&[3; SECTOR], PAGE as u64).unwrap();
        content.observe(&file).unwrap();
        content.settle(began, 0, u64::MAX);
        let found = images(&content);
        assert_eq!(found.len(), 2);
        for (bytes, expected) in found.iter().zip([2, 3]) {
            assert_eq!(bytes.len(), 3 * PAGE);
            let changed = &bytes[PAGE..PAGE + SECTOR];
            assert!(changed.iter().all(|&byte| byte == expected));
            assert_eq!(bytes.iter().filter(|&&byte| byte == 1).count(), 3 * PAGE - SECTOR);
        }
        // One that began earlier and ends now takes nothing back.
        content.settle(began - 1, 0, u64::MAX);
        assert_eq!(images(&content).len(), 2);
        // Of a range: the pages beside it stay open.
        file.write_all_at(&[7; 3 * PAGE], 0).unwrap();
        content.observe(&file).unwrap();
        content.settle(content.time(), PAGE as u64, 2 * PAGE as u64);
        assert!(images(&content).iter().all(|bytes| bytes[PAGE..2 * PAGE] == [7; PAGE]));
        assert!(images(&content).iter().any(|bytes| bytes[0] == 1));
    }

    #[test]
    fn what_was_cut_off_does_not_come_back_with_the_length() {
        let file = tempfile::tempfile().unwrap();
        let mut content = Content::empty();
        file.write_all_at(&[1; 2 * PAGE], 0).unwrap();
        content.observe(&file).unwrap();
        file.set_len(10).unwrap();
        content.observe(&file).unwrap();
        file.set_len(2 * PAGE as u64).unwrap();
        content.observe(&file).unwrap();
        content.settle(content.time(), 0, u64::MAX);
        let mut expected = vec![0; 2 * PAGE];
        expected[..10].fill(1);
        assert_eq!(images(&content), [expected]);
    }
}
