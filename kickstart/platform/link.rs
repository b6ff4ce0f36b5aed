//! The programs' build script: links those of a release without the tables that unwinding takes, an eighth of their size.
//! They end where they panic (`panic = "abort"`), so nobody ever reads them.

use std::env::var;
use std::path::Path;

fn main() {
    let tables = Path::new(&var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .ancestors()
        .map(|above| above.join("kickstart/platform/without-unwinding.ld"))
        .find(|script| script.exists())
        .expect("the package is in the checkout");
    println!("cargo::rerun-if-changed={}", tables.display());
    if var("PROFILE").as_deref() == Ok("release") {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{},--no-eh-frame-hdr", tables.display());
    }
}
