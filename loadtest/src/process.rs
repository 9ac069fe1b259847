//! CPU time, memory and open files of a process and its children, from Linux's `/proc` (see proc(5)).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;

/// `sysconf(_SC_CLK_TCK)`, which Linux fixes at 100 for every program.
const TICK: Duration = Duration::from_millis(10);

/// What a process and its children have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time, user and system.
    pub cpu: Duration,
    /// How much of it the gateway's threads for the books have used, SQLite's among them.
    pub books: Duration,
    /// Resident memory now, in bytes.
    pub rss: u64,
    /// The most that each was resident, added up, in bytes.
    pub peak_rss: u64,
    /// Open file descriptors.
    pub open_files: u64,
}

/// Reads what `pid` and its children have used.
pub fn used_by(pid: u32) -> anyhow::Result<Used> {
    let stats = all_stats();
    stats.get(&pid).with_context(|| format!("no process {pid}"))?;
    let mut used = Used::default();
    let mut family = vec![pid];
    while let Some(pid) = family.pop() {
        family.extend(stats.iter().filter(|(_, stat)| stat.parent == pid).map(|(child, _)| *child));
        let Some(stat) = stats.get(&pid) else { continue };
        used.cpu += precise(pid, TICK * stat.ticks);
        used.books += TICK * ticks_of_books(pid);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        used.rss += kib(&status, "VmRSS:") << 10;
        used.peak_rss += kib(&status, "VmHWM:") << 10;
        used.open_files += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    }
    Ok(used)
}

/// The CPU time to the nanosecond, which the scheduler tells for threads that still run; `rounded`, where some have ended.
fn precise(pid: u32, rounded: Duration) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return rounded };
    let of_thread = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    let exact: Duration = threads.flatten().filter_map(of_thread).sum();
    // Each of four figures has been rounded down by up to a tick.
    if (rounded..rounded + 4 * TICK).contains(&exact) { exact } else { rounded }
}

struct Stat {
    parent: u32,
    ticks: u32,
}

fn all_stats() -> HashMap<u32, Stat> {
    let Ok(folder) = fs::read_dir("/proc") else { return HashMap::new() };
    folder
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parse_stat(&fs::read_to_string(entry.path().join("stat")).ok()?)?))
        })
        .collect()
}

/// Ticks of the threads that settle and take receipts, and wait for nobody.
fn ticks_of_books(pid: u32) -> u32 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let ticks = threads.flatten().filter_map(|thread| {
        let is_of_books = |name: &str| name.trim() == "books" || name.starts_with("sqlx-sqlite");
        fs::read_to_string(thread.path().join("comm")).ok().filter(|name| is_of_books(name))?;
        Some(parse_stat(&fs::read_to_string(thread.path().join("stat")).ok()?)?.ticks)
    });
    ticks.sum()
}

/// A process's name may hold spaces and parentheses, so the fields are counted from the last one. Field numbers as in proc(5).
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    // utime, stime, and of children that are gone: cutime, cstime
    let ticks = (14..=17).map(field).sum::<Option<u32>>()?;
    Some(Stat { parent: field(4)?, ticks })
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = parse_stat("7 (a b) c)) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0").expect("a stat line");
        assert_eq!((stat.parent, stat.ticks), (3, 100));
    }

    #[test]
    fn work_done_here_is_seen() {
        let before = used_by(std::process::id()).expect("this process");
        assert!(before.rss > 0 && before.peak_rss >= before.rss / 2 && before.open_files > 2);
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(begun.elapsed());
        }
        let spent = used_by(std::process::id()).expect("this process").cpu - before.cpu;
        assert!(spent >= TICK, "{spent:?}");
        assert!(used_by(u32::MAX).is_err());
    }
}
