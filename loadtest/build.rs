//! Tells the program how it was optimized: instruction counts of one level say nothing about another.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=LUMBUNG_OPT_LEVEL={level}");
}
