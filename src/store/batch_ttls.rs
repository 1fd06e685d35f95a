//! The TTLs of a batch's puts.
//!
//! A put with a TTL has room for an expiry in its frame from the beginning. One that keeps a TTL needs the
//! expiry of the value that it replaces, as of the moment at which the batch is written. As with
//! [expectations](super::expectations), the record is read before anything is locked, and under the locks
//! only where the slot points elsewhere by then. If there is no expiry to be kept, the field says
//! [`NEVER`].

use super::found::FoundRecord;
use super::inner::StoreInner;
use super::options::Ttl;
use super::view::StoreView;
use crate::error::{ReadError, WriteError};
use crate::format::record::NEVER;
use crate::position::LogPosition;
use std::collections::HashMap;

/// Goes through the TTLs of a batch beside its writes.
pub(super) struct TtlCursor<'b> {
    ttls: &'b [(usize, Ttl)],
    next: usize,
}

impl<'b> TtlCursor<'b> {
    pub(super) const fn new(ttls: &'b [(usize, Ttl)]) -> Self {
        Self { ttls, next: 0 }
    }

    /// The TTL that a write was given, and which of all it is. To be asked for each write, in order.
    pub(super) fn of(&mut self, write: usize) -> Option<(usize, Ttl)> {
        let &(of, ttl) = self.ttls.get(self.next)?;
        (of == write).then(|| {
            self.next += 1;
            (self.next - 1, ttl)
        })
    }
}

/// The expiry of a key's value, as it was seen before anything was locked.
#[derive(Clone, Copy)]
pub(super) struct SeenExpiry {
    /// Where the value was, if there was one.
    at: Option<LogPosition>,
    expiry: u64,
}

impl SeenExpiry {
    fn of(found: &FoundRecord<'_>) -> Self {
        let expiry = found.record().expiry().unwrap_or(NEVER);
        Self { at: Some(found.position()), expiry }
    }
}

impl StoreInner {
    /// The expiry of each put of a batch that was given a TTL. For one that keeps another it is known later.
    pub(super) fn expiries(&self, ttls: &[(usize, Ttl)]) -> Result<Vec<u64>, WriteError> {
        let expiry = |&(_, ttl): &(usize, Ttl)| match ttl {
            Ttl::Set(ttl) => self.expiry_after(ttl),
            Ttl::Keep | Ttl::Remove => Ok(NEVER),
        };
        ttls.iter().map(expiry).collect()
    }
}

impl StoreView {
    /// For each put that keeps a TTL, in order, the expiry of the value that its key has.
    pub(super) fn see_expiries<'b>(
        &self,
        ttls: &[(usize, Ttl)],
        key: impl Fn(usize) -> &'b [u8],
    ) -> Result<Vec<SeenExpiry>, ReadError> {
        let keeping = ttls.iter().filter(|(_, ttl)| *ttl == Ttl::Keep);
        keeping.map(|&(nth, _)| self.see_expiry(key(nth))).collect()
    }

    fn see_expiry(&self, key: &[u8]) -> Result<SeenExpiry, ReadError> {
        let slot = self.slot(self.keydir.tag(key), key).map_err(|found| self.error(found))?;
        let Some((at, pin)) = slot else { return Ok(SeenExpiry { at: None, expiry: NEVER }) };
        Ok(SeenExpiry::of(&FoundRecord::read(pin, at, self.verify)?))
    }

    /// Sets the expiry of each put that keeps one, under the locks of all keys: `old` are the positions that
    /// the slots of the batch's writes point at. What has expired by `now` is not there.
    pub(super) fn keep_ttls<'b>(
        &self,
        ttls: &[(usize, Ttl)],
        key: impl Fn(usize) -> &'b [u8],
        seen: &[SeenExpiry],
        old: &[Option<LogPosition>],
        now: u64,
        expiries: &mut [u64],
    ) -> Result<(), ReadError> {
        let (mut ttls, mut seen) = (TtlCursor::new(ttls), seen.iter());
        // Of the keys that the batch has written so far.
        let mut written = HashMap::new();
        for (nth, &old) in old.iter().enumerate() {
            let key = key(nth);
            let expiry = match ttls.of(nth) {
                Some((which, Ttl::Keep)) => {
                    let seen = seen.next().expect("one for each that keeps a TTL");
                    expiries[which] = match written.get(key) {
                        Some(&expiry) => expiry,
                        None => self.expiry_at(old, *seen, now)?,
                    };
                    expiries[which]
                }
                Some((which, Ttl::Set(_))) => expiries[which],
                Some((_, Ttl::Remove)) | None => NEVER,
            };
            written.insert(key, expiry);
        }
        Ok(())
    }

    /// The expiry of a key's value, which its slot points at, if there is one that has not expired.
    fn expiry_at(
        &self,
        slot: Option<LogPosition>,
        seen: SeenExpiry,
        now: u64,
    ) -> Result<u64, ReadError> {
        let expiry = match slot {
            None => NEVER,
            Some(_) if slot == seen.at => seen.expiry,
            Some(at) => SeenExpiry::of(&self.read(at)?).expiry,
        };
        Ok(if now < expiry { expiry } else { NEVER })
    }
}
