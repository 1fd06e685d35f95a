//! The append protocol: how writers take space, fill it and publish it, and how the walk finds how far
//! the log is complete. Its files are also compiled against loom (`loom-tests`).

pub(crate) mod claim;
pub(crate) mod tail;
