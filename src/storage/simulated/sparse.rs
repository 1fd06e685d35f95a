//! Bytes that are mostly zero: the contents of a device, and of an image.

use super::memory::{PAGE, SECTOR};
use crate::format::is_zero;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

type Page = [u8; PAGE];
pub(super) type Sector = [u8; SECTOR];

static ZEROS: Page = [0; PAGE];

/// Clones share their pages until one is written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse(BTreeMap<usize, Arc<Page>>);

impl Sparse {
    pub(super) fn page(&self, page: usize) -> &Page {
        self.0.get(&page).map_or(&ZEROS, |page| page)
    }

    pub(super) fn sector(&self, sector: usize) -> &Sector {
        let at = sector * SECTOR;
        let bytes = &self.page(at / PAGE)[at % PAGE..];
        bytes.first_chunk().expect("a page is whole sectors")
    }

    /// The pages that are not known to be zero, in order.
    pub(super) fn pages(&self) -> impl Iterator<Item = usize> {
        self.0.keys().copied()
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (here, next) = rest.split_at(rest.len().min(PAGE - at % PAGE));
            if self.0.contains_key(&(at / PAGE)) || !is_zero(here) {
                let page = self.0.entry(at / PAGE).or_insert_with(|| Arc::new(ZEROS));
                if page[at % PAGE..][..here.len()] != *here {
                    Arc::make_mut(page)[at % PAGE..][..here.len()].copy_from_slice(here);
                }
            }
            (at, rest) = (at + here.len(), next);
        }
    }

    /// Cuts it to the first `len` bytes.
    pub(super) fn cut(&mut self, len: usize) {
        drop(self.0.split_off(&len.div_ceil(PAGE)));
        if let Some(page) = self.0.get_mut(&(len / PAGE)) {
            Arc::make_mut(page)[len % PAGE..].fill(0);
        }
    }

    pub(super) fn read(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PAGE + 1) * PAGE);
            bytes.extend_from_slice(&self.page(at / PAGE)[at % PAGE..][..end - at]);
            at = end;
        }
        bytes
    }

    pub(super) fn word(&self, at: usize) -> u64 {
        crate::format::u64_at(self.page(at / PAGE), at % PAGE)
    }
}
