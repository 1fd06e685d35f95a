//! Accesses to mapped files that fail.

/// A part of a mapped file cannot be accessed: the file was cut short by somebody else, its medium fails, or
/// there is no space for what was stored, on a file system that copies on write. Only with
/// [`catch_sigbus`](crate::LogOptions::catch_sigbus); without it the process is killed by the signal.
///
/// The handle refuses writes from then on. What was acknowledged before is as safe as the file is: open it
/// again to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} cannot be accessed at offset {offset}: the file is shorter than its map, its medium failed, or there \
     is no space for what was stored",
    file(*segment, *in_hint)
)]
#[non_exhaustive]
pub struct MapFault {
    /// Id of the segment: the number in the name of its file.
    pub segment: u32,
    /// Where the page begins, in the file, that was accessed first of those that failed.
    pub offset: u64,
    /// Whether it is in the segment's hint.
    pub in_hint: bool,
}

fn file(segment: u32, in_hint: bool) -> String {
    format!("{}segment {segment}", if in_hint { "the hint of " } else { "" })
}
