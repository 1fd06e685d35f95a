//! Going through all keys.
//!
//! Shard by shard: the distinct tags in a shard are copied under its lock, in the order of their
//! frames; then, for each tag, all slots that have it are looked at, and their segments pinned, under
//! the lock again, and read without it. A key that is there throughout has its tag in the copy, and a
//! slot with that tag at any time; so it comes exactly once, wherever a merge has moved it, and what
//! was deleted has no slot. Between items nothing is held but the values of one tag.

use super::view::{Found, View};
use crate::error::ReadError;
use crate::position::LogPosition;
use crate::segment::set::Pin;
use std::fmt;

/// A key and its value, in place.
pub struct Pair<'a> {
    found: Found<'a>,
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
        f.debug_struct("Pair").field("position", &self.found.position).finish_non_exhaustive()
    }
}

/// A place that a slot points at, and the segment that it is in, if it is there.
type Pinned<'a> = (LogPosition, Option<Pin<'a>>);

/// All keys and values.
#[derive(Debug)]
#[must_use]
pub struct Pairs<'a> {
    view: &'a View,
    shard: usize,
    tags: std::vec::IntoIter<(u32, LogPosition)>,
    /// Of one tag.
    pinned: Vec<Pinned<'a>>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        Self { view, shard: 0, tags: Vec::new().into_iter(), pinned: Vec::new() }
    }

    /// The next position to be read, pinned.
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

/// All keys.
#[derive(Debug)]
#[must_use]
pub struct Keys<'a>(pub(super) Pairs<'a>);

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(|pair| pair.found.key().to_vec()))
    }
}
