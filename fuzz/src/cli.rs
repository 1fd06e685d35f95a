//! The modules of the command, without its `main`, as modules of this package.
#![allow(unused, unreachable_pub, missing_docs, reason = "only what reads input is used here")]

#[path = "../../src/bin/tailcask/encoding.rs"]
pub(crate) mod encoding;
#[path = "../../src/bin/tailcask/exit.rs"]
pub(crate) mod exit;
#[path = "../../src/bin/tailcask/interrupt.rs"]
pub(crate) mod interrupt;
#[path = "../../src/bin/tailcask/log/mod.rs"]
pub(crate) mod log;
#[path = "../../src/bin/tailcask/stdio.rs"]
pub(crate) mod stdio;
#[path = "../../src/bin/tailcask/store/mod.rs"]
pub(crate) mod store;
#[path = "../../src/bin/tailcask/table.rs"]
pub(crate) mod table;
#[path = "../../src/bin/tailcask/text.rs"]
pub(crate) mod text;
#[path = "../../src/bin/tailcask/units.rs"]
pub(crate) mod units;
