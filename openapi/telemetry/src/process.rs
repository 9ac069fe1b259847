//! What the kernel says of this process, under the names that Prometheus' own clients use. Nothing where there is no `/proc`.

use std::fmt;
use std::fs;

use crate::page::{Page, Tells};

/// Clock ticks in a second, as Linux tells them to programs.
const TICKS_PER_SEC: u64 = 100;
/// Linux' own, on the machines that this is built for.
const PAGE_BYTES: i64 = 4096;

/// This process.
pub struct Process;

impl Tells for Process {
    fn tell(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        page.gauge("lumbung_build_info", "The version that runs.", [(vec![("version", version)], 1)])?;
        // The name of the program, in parentheses, may have spaces in it.
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<u64> = stat.rsplit(')').next().map_or_else(Vec::new, |rest| {
            rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
        });
        if let (Some(user), Some(system), Some(threads)) = (fields.get(10), fields.get(11), fields.get(16)) {
            let secs = (user + system) / TICKS_PER_SEC;
            page.total("process_cpu_seconds", "Processor time, user's and system's, in seconds.", secs)?;
            page.number("process_threads", "Threads.", i64::try_from(*threads).unwrap_or(i64::MAX))?;
        }
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        if let Some(pages) = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<i64>().ok()) {
            let name = "process_resident_memory_bytes";
            page.number(name, "Resident memory, in bytes.", pages.saturating_mul(PAGE_BYTES))?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            page.number("process_open_fds", "Open file descriptors.", open.count() as i64)?;
        }
        Ok(())
    }
}
