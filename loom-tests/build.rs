//! Says that the included protocol files are to use loom, without any RUSTFLAGS.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(tailcask_loom)");
    println!("cargo::rustc-cfg=tailcask_loom");
    println!("cargo::rerun-if-changed=build.rs");
}
