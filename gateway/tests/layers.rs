//! The rule of dependence: never upward, and each outside library in its place.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up: a layer may use those before it.
const LAYERS: [&[&str]; 7] = [
    &["domain", "tls", "followed"],
    &["store"],
    &["fleet"],
    &["chat", "admin"],
    &["http", "jobs", "cli"],
    &["config"],
    &["app"],
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => sources(&path, found),
            path if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
            _ => {}
        }
    }
}

/// Every source file with the layer it belongs to.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let named = found.into_iter().map(|path| {
        let relative = path.strip_prefix(&root).expect("inside");
        let first = relative.iter().next().expect("a name").to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).expect("text");
        (first, path, text)
    });
    named.collect()
}

#[test]
fn no_layer_uses_one_above_it() {
    let level = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut wrong = Vec::new();
    for (layer, path, text) in files() {
        let Some(own) = level(&layer) else { continue }; // main and lib wire
        for (number, line) in text.lines().enumerate() {
            let used =
                line.split("crate::").skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
            for used in used.flatten() {
                let beside = used != layer && level(used) == Some(own);
                if level(used).is_some_and(|used| used > own) || beside {
                    wrong.push(format!("{}:{} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn outside_libraries_stay_in_their_place() {
    for (library, allowed) in [
        ("axum", &["http"][..]),
        ("sqlx", &["store"]),
        ("redis", &["store"]),
        ("clap", &["config", "cli", "main"]),
        ("h2", &["fleet"]),
        ("reqwest", &["admin"]),
    ] {
        for (layer, path, text) in files() {
            let uses = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{library}::")) || code.trim() == format!("use {library};")
            });
            assert!(!uses || allowed.contains(&layer.as_str()), "{} uses {library}", path.display());
        }
    }
}
