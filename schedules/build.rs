//! Says that the library is to use shuttle, without any RUSTFLAGS.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(tailcask_loom)");
    println!("cargo::rustc-check-cfg=cfg(tailcask_shuttle)");
    println!("cargo::rustc-check-cfg=cfg(docsrs)");
    // Those of the library.
    println!("cargo::rustc-check-cfg=cfg(feature, values(any()))");
    println!("cargo::rustc-cfg=tailcask_shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
