//! The append protocol: how writers reserve space, fill it and publish it, and how far the log is
//! complete.
//!
//! * `claim`: a reserved range, from the claim to the commit word that finishes it;
//! * `tail`: the one word that hands out ranges, and how the log rolls from segment to segment;
//! * `prefix`: the walk over commit words, which finds the end of what is finished.
//!
//! Each of them uses those above it only. They are also compiled against loom (`loom-tests`).

pub(crate) mod claim;
pub(crate) mod prefix;
pub(crate) mod tail;
