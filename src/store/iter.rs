//! Going through all keys.
//!
//! Shard by shard: the positions in a shard are copied under its lock, in order, and then each is
//! looked at without one. A key that is there throughout was in its shard at that moment, once; what
//! was deleted or overwritten since is seen by looking its key up again.

use super::{Found, Store};
use crate::error::ReadError;
use crate::position::LogPosition;
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

/// All keys and values.
#[derive(Debug)]
#[must_use]
pub struct Pairs<'a> {
    store: &'a Store,
    shard: usize,
    positions: std::vec::IntoIter<LogPosition>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, shard: 0, positions: Vec::new().into_iter() }
    }

    fn next_position(&mut self) -> Option<LogPosition> {
        loop {
            if let Some(position) = self.positions.next() {
                return Some(position);
            }
            if self.shard == self.store.keydir.shards() {
                return None;
            }
            self.positions = self.store.keydir.positions(self.shard).into_iter();
            self.shard += 1;
        }
    }

    /// The newest of the key whose frame was at a position.
    fn current(&self, position: LogPosition) -> Result<Option<Found<'a>>, ReadError> {
        let seen = self.store.read(position)?;
        let found = self.store.find(seen.key())?;
        Ok(found)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let position = self.next_position()?;
            match self.current(position) {
                Ok(Some(found)) => return Some(Ok(Pair { found })),
                Ok(None) => {}
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
        Some(self.0.next()?.map(|pair| pair.found.to_key()))
    }
}

impl<'a> IntoIterator for &'a Store {
    type Item = Result<Pair<'a>, ReadError>;
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}
