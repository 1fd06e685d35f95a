//! What a power loss may leave of anything that is written.

/// Something that reaches the device as a whole: a word of a segment, a seal, a name in the directory.
///
/// It has the version that is durable and those that were written since. A power loss leaves any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page<T> {
    versions: [T; 6],
    /// The number of versions that are not durable; the last of them is what the process reads.
    unsynced: u8,
}

impl<T: Copy + Default + PartialEq> Page<T> {
    /// It is durable.
    #[must_use]
    pub fn durable(value: T) -> Self {
        let mut versions = [T::default(); 6];
        versions[0] = value;
        Self { versions, unsynced: 0 }
    }

    /// What the process reads.
    pub const fn now(&self) -> T {
        self.versions[self.unsynced as usize]
    }

    /// A store to memory: durable some time later, or never.
    pub fn write(&mut self, value: T) {
        if value != self.now() {
            self.unsynced += 1;
            self.versions[self.unsynced as usize] = value;
        }
    }

    /// What the process reads is durable from now on.
    pub fn sync(&mut self) {
        *self = Self::durable(self.now());
    }

    /// What a power loss may leave, the durable version first.
    pub fn versions(&self) -> &[T] {
        &self.versions[..=self.unsynced as usize]
    }

    /// A power loss leaves this version. `None` if there is no such version.
    pub fn lose_power(&mut self, version: u8) -> Option<()> {
        *self = Self::durable(*self.versions().get(version as usize)?);
        Some(())
    }
}
