//! Telling damage from other errors, for the exit code.

use tailcask::{Corruption, MergeError, OpenError, ReadError};

/// Whether an error says that the store's files do not hold what was written to them.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(names_damage)
}

fn names_damage(cause: &(dyn std::error::Error + 'static)) -> bool {
    let opening = |error: &OpenError| {
        use OpenError::{Corrupt, Manifest, MissingSegment};
        matches!(error, Corrupt(_) | MissingSegment { .. } | Manifest(_))
    };
    // A transparent error does not appear in the chain as a cause of its own: look inside.
    cause.is::<Corruption>()
        || cause.downcast_ref().is_some_and(opening)
        || matches!(cause.downcast_ref(), Some(ReadError::Corrupt(_)))
        || matches!(cause.downcast_ref(), Some(MergeError::Corrupt(_)))
}
