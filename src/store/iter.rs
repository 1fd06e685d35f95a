//! Iterating over all keys.
//!
//! Iteration goes shard by shard. The distinct tags of a shard are copied under its lock, in the order
//! of their frames. For each tag, all slots that have it are looked up and their segments pinned under
//! the lock again; the frames are read without it. A key that exists throughout has its tag in the
//! copy, and a slot with that tag at any time, so it comes exactly once, wherever a merge moves it; a
//! deleted key has no slot. Between items nothing is held but the pins of one tag's frames.

use super::found::FoundRecord;
use super::view::StoreView;
use crate::error::ReadError;
use crate::position::LogPosition;
use crate::segment::set::Pin;
use std::fmt;

/// A key and its value, in place.
pub struct Pair<'a> {
    found: FoundRecord<'a>,
}

impl Pair<'_> {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.found.key()
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.found.value()
    }
}

impl fmt::Debug for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("position", &self.found.position()).finish_non_exhaustive()
    }
}

/// A position that a slot points at, and its segment, if that exists.
type Pinned<'a> = (LogPosition, Option<Pin<'a>>);

/// An iterator over all keys and values, in no particular order.
#[derive(Debug)]
#[must_use]
pub struct Pairs<'a> {
    view: &'a StoreView,
    shard: usize,
    tags: std::vec::IntoIter<(u32, LogPosition)>,
    /// The slots of one tag.
    pinned: Vec<Pinned<'a>>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(view: &'a StoreView) -> Self {
        Self { view, shard: 0, tags: Vec::new().into_iter(), pinned: Vec::new() }
    }

    /// The next position to read, pinned.
    fn next_pinned(&mut self) -> Option<Pinned<'a>> {
        let view = self.view;
        loop {
            if let Some(pinned) = self.pinned.pop() {
                return Some(pinned);
            }
            if let Some((tag, _)) = self.tags.next() {
                view.keydir.each(tag, |at| self.pinned.push((at, view.pin(at))));
            } else if self.shard < view.keydir.shards() {
                self.tags = view.keydir.slots(self.shard).into_iter();
                self.shard += 1;
            } else {
                return None;
            }
        }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (position, pin) = self.next_pinned()?;
            match self.view.read_pinned(position, pin) {
                Ok(found) if found.is_live(&self.view.clock) => {
                    return Some(Ok(Pair { found }));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// An iterator over all keys, in no particular order.
#[derive(Debug)]
#[must_use]
pub struct Keys<'a>(pub(super) Pairs<'a>);

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(|pair| pair.found.key().to_vec()))
    }
}
