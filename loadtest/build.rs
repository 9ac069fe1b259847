//! Tells the program how it was built: instruction counts of one way say nothing about another.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo::rustc-env=LUMBUNG_OPT_LEVEL={}", variable("OPT_LEVEL"));
    // Cargo names the profile nowhere but in the path (`…/dist/build/lumbung-loadtest-…/out`).
    let out = variable("OUT_DIR");
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name).unwrap_or_default();
    println!("cargo::rustc-env=LUMBUNG_PROFILE={}", profile.display());
}
