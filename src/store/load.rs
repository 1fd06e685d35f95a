//! Opening: the keydir is made from the frames.

use super::{Found, Store, StoreOptions};
use crate::error::{Corruption, OpenError};
use crate::format::frame::{HEADER, Header, Kind, State};
use crate::format::header::FIRST_FRAME;
use crate::keydir::{Change, Keydir};
use crate::log::{CommitLog, scan};
use crate::position::LogPosition;
use crate::segment::Segment;
use std::hash::{BuildHasher, RandomState};

impl Store {
    pub(super) fn load(mut log: CommitLog, options: &StoreOptions) -> Result<Self, OpenError> {
        log.stored = true;
        let seed = RandomState::new().hash_one(0);
        let keydir = Keydir::new(seed, options.tag_bits);
        let (verify, max_value) = (options.verify, options.max_value);
        let store = Self { log, keydir, verify, max_value };
        let active = store.core().tail.position().segment();
        for segment in store.core().table.segments() {
            if segment.id() != active {
                store.load_segment(&segment)?;
            }
        }
        Ok(store)
    }

    /// Takes in a segment's frames, which are newer than all that was taken in before.
    fn load_segment(&self, segment: &Segment) -> Result<(), OpenError> {
        let mut offset = FIRST_FRAME;
        while offset < segment.end() {
            let place = segment.position(offset);
            let frame = scan::frame_at(segment, offset, segment.end() - offset);
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(kind) => return Err(OpenError::Corrupt(Corruption::at(place, kind))),
            };
            match (frame.word.state, frame.header) {
                (State::Committed, Some(header)) => {
                    self.load_frame(segment, offset, header);
                    let inside = header.kind == Kind::Batch;
                    offset += if inside { HEADER } else { frame.word.len };
                }
                _ => offset += frame.word.len,
            }
        }
        Ok(())
    }

    #[allow(unsafe_code, reason = "reads the key of a verified frame")]
    fn load_frame(&self, segment: &Segment, offset: u64, header: Header) {
        if !matches!(header.kind, Kind::Put | Kind::Delete) {
            return;
        }
        // SAFETY: `frame_at` has seen the frame committed, and verified that the header fits it.
        let key = unsafe {
            segment.map.slice(offset + HEADER + header.key_at(), u64::from(header.key_len))
        };
        let position = segment.position(offset);
        let change = match header.kind {
            Kind::Put => Change::Set(position),
            _ => Change::Remove,
        };
        let is = |at: LogPosition| self.is_key(at, key);
        self.keydir.change(self.keydir.tag(key), is, |_| (change, ()));
    }
}

impl Found<'_> {
    /// The key, apart from the frame.
    pub(super) fn to_key(&self) -> Vec<u8> {
        self.key().to_vec()
    }
}
