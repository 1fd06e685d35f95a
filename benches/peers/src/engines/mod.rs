//! The key-value stores. Each has a feature of the same name.

pub mod tailcask;

#[cfg(feature = "candystore")]
pub mod candystore;
#[cfg(feature = "canopydb")]
pub mod canopydb;
#[cfg(feature = "fjall")]
pub mod fjall;
#[cfg(feature = "lmdb")]
pub mod lmdb;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
#[cfg(feature = "rustcask")]
pub mod rustcask;
#[cfg(feature = "sled")]
pub mod sled;
#[cfg(feature = "surrealkv")]
pub mod surrealkv;

/// What is done to any one of the engines.
pub trait ForEngine {
    type Result;
    fn run<E: crate::engine::Engine>(self) -> Self::Result;
}

/// In the order of the tables.
macro_rules! engines {
    ($($([$feature:literal])? $name:literal => $engine:ty,)*) => {
        pub const NAMES: &[&str] = &[$($(#[cfg(feature = $feature)])? $name,)*];

        pub fn with<F: ForEngine>(name: &str, run: F) -> Option<F::Result> {
            match name {
                $($(#[cfg(feature = $feature)])? $name => Some(run.run::<$engine>()),)*
                _ => None,
            }
        }
    };
}

engines! {
    "tailcask" => tailcask::Tailcask,
    ["rocksdb"] "rocksdb" => rocksdb::Rocks,
    ["lmdb"] "lmdb" => lmdb::Lmdb,
    ["redb"] "redb" => redb::Redb,
    ["fjall"] "fjall" => fjall::Fjall,
    ["sled"] "sled" => sled::Sled,
    ["surrealkv"] "surrealkv" => surrealkv::Surreal,
    ["canopydb"] "canopydb" => canopydb::Canopy,
    ["candystore"] "candystore" => candystore::Candy,
    ["rustcask"] "rustcask" => rustcask::RustCask,
}
