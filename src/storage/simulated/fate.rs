//! What a power loss decides, one thing at a time.

/// Something unsynced, whose fate a power loss decides; see [`SimulatedDisk`](super::SimulatedDisk).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsynced<'a> {
    /// A sector of a file, with its known versions: the durable one, those observed, and the newest
    /// one.
    Sector {
        /// The name of the file.
        file: &'a str,
        /// The number of the sector.
        sector: usize,
        /// At least 2.
        versions: usize,
    },
    /// The creation, replacement or removal of a name.
    Name {
        /// The name; the new one if a file was renamed.
        name: &'a str,
    },
    /// The length of a file that was never synced.
    Length {
        /// The name of the file.
        file: &'a str,
    },
}

/// What a power loss leaves of something unsynced; see [`SimulatedDisk`](super::SimulatedDisk).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Its last synced state.
    Lost,
    /// Its present state.
    Kept,
    /// A sector: this one of its versions (modulo their number).
    Seen(usize),
    /// A sector: on its way to the newest version, as far as the seed says. A length: somewhere in
    /// between.
    Between(u64),
}
