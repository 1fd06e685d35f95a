//! The logs. Each has a feature of the same name, but for those that are always there.

pub mod tailcask;
pub mod write;

#[cfg(feature = "commitlog")]
pub mod commitlog;
#[cfg(feature = "okaywal")]
pub mod okaywal;
#[cfg(feature = "raft-engine")]
pub mod raft_engine;
#[cfg(feature = "walrus")]
pub mod walrus;

/// What is done to any one of the logs.
pub trait ForLog {
    type Result;
    fn run<L: crate::log::Log>(self) -> Self::Result;
}

/// In the order of the tables.
macro_rules! logs {
    ($($([$feature:literal])? $name:literal => $log:ty,)*) => {
        pub const NAMES: &[&str] = &[$($(#[cfg(feature = $feature)])? $name,)*];

        pub fn with<F: ForLog>(name: &str, run: F) -> Option<F::Result> {
            match name {
                $($(#[cfg(feature = $feature)])? $name => Some(run.run::<$log>()),)*
                _ => None,
            }
        }
    };
}

logs! {
    "tailcask-log" => tailcask::Tailcask,
    ["raft-engine"] "raft-engine" => raft_engine::RaftEngine,
    ["walrus"] "walrus" => walrus::WalrusLog,
    ["okaywal"] "okaywal" => okaywal::OkayWal,
    ["commitlog"] "commitlog" => commitlog::Commitlog,
    "write(2)" => write::File,
}
