//! CPU, memory, and the data directory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use super::{Finding, exists, size};
use crate::hardware::Hardware;
use crate::identity::{Identity, KEY_FILE};

/// Looks at the machine. `is_embedded`: whether it is to compute the answers itself.
pub fn examine(hardware: &Hardware, is_embedded: bool) -> Vec<Finding> {
    vec![cpu(hardware, is_embedded), memory(hardware)]
}

fn cpu(hardware: &Hardware, is_embedded: bool) -> Finding {
    const WORTH_NAMING: [&str; 8] = ["avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_tile", "asimd"];
    let has = |name: &str| hardware.cpu_features.iter().any(|feature| feature == name);
    let features: Vec<&str> = WORTH_NAMING.into_iter().filter(|name| has(name)).collect();
    let name = if hardware.cpu.is_empty() { "unnamed CPU" } else { &hardware.cpu };
    let found = format!("{name}, {} cores, {}", hardware.cores, features.join(" "));
    match is_embedded && hardware.gpus.is_empty() && !has("avx2") && !has("asimd") {
        true => Finding::warning(
            "cpu",
            found,
            "without AVX2 or NEON, answers will be very slow; use another machine, or a GPU",
        ),
        false => Finding::ok("cpu", found),
    }
}

fn memory(hardware: &Hardware) -> Finding {
    let found = format!("{}, {} of it free", size(hardware.memory), size(hardware.memory_available));
    match hardware.memory_available < 1 << 30 {
        true => Finding::warning("memory", found, "stop other programs: less than 1 GiB is free"),
        false => Finding::ok("memory", found),
    }
}

/// Looks at the data directory: receipts must reach its disk.
pub fn examine_data_dir(dir: &Path) -> Finding {
    let at = dir.display();
    if !exists(dir) {
        let parent = dir.ancestors().find(|ancestor| exists(ancestor)).unwrap_or(Path::new("/"));
        return match write_and_sync(parent) {
            Ok(_) => Finding::ok("data-dir", format!("{at} will be created")),
            Err(error) => {
                Finding::problem("data-dir", format!("{at} cannot be created: {error}"), "name another by --data-dir")
            }
        };
    }
    let took_ms = match write_and_sync(dir) {
        Ok(took_ms) => took_ms,
        Err(error) => {
            return Finding::problem(
                "data-dir",
                format!("{at} is not writable: {error}"),
                "make it writable, or name another by --data-dir",
            );
        }
    };
    if exists(&dir.join(KEY_FILE)) {
        return match Identity::open(dir) {
            Ok(identity) => Finding::ok("data-dir", format!("{at}, provider {}, sync takes {took_ms} ms", identity.id)),
            Err(error) => {
                Finding::problem("data-dir", format!("{error:#}"), "without its key this provider is another one")
            }
        };
    }
    Finding::ok("data-dir", format!("{at}, no identity yet, sync takes {took_ms} ms"))
}

/// Writes a small file and takes it away again. Returns how long the sync took.
fn write_and_sync(dir: &Path) -> std::io::Result<u128> {
    let path = dir.join(format!(".lumbung-doctor-{}", std::process::id()));
    let mut file = fs::File::create(&path)?;
    let written = file.write_all(b"can this be kept?\n");
    let begun = Instant::now();
    let synced = written.and_then(|()| file.sync_data());
    let took_ms = begun.elapsed().as_millis();
    fs::remove_file(&path)?;
    synced.map(|()| took_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_cpu_without_vector_units_is_worth_a_warning_only_if_it_computes() {
        let slow = Hardware { cores: 2, ..Default::default() };
        assert_eq!((cpu(&slow, true).level, cpu(&slow, false).level), (Level::Warning, Level::Ok));
        let fast = Hardware { cpu_features: vec!["avx2".into()], ..slow };
        assert_eq!(cpu(&fast, true).level, Level::Ok);
    }

    #[test]
    fn the_data_directory_must_be_writable_and_nothing_is_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(examine_data_dir(dir.path()).level, Level::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(examine_data_dir(&dir.path().join("new/below")).found.contains("will be created"));
        Identity::open(dir.path()).unwrap();
        assert!(examine_data_dir(dir.path()).found.contains("provider "));
        fs::write(dir.path().join(KEY_FILE), "short").unwrap();
        assert_eq!(examine_data_dir(dir.path()).level, Level::Problem);
        assert_eq!(examine_data_dir(Path::new("/proc/no")).level, Level::Problem);
    }
}
