//! What processes of this machine use, from `/proc`.

use std::time::Duration;

/// CPU time of this process, all its threads.
pub fn own_cpu() -> Duration {
    cpu_at("/proc/self/stat")
}

/// CPU time of another process; none if it has gone.
pub fn cpu_of(pid: i64) -> Duration {
    cpu_at(&format!("/proc/{pid}/stat"))
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    cpu_at("/proc/thread-self/stat")
}

/// Memory of this process that is in RAM.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// CPU time of this process's threads that work for SQLite.
pub fn sqlite_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let time = |thread: std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanos: u64 = times.split(' ').next()?.parse().ok()?;
        name.starts_with("sqlx-sqlite").then_some(Duration::from_nanos(nanos))
    };
    threads.filter_map(time).sum()
}

/// Bytes that this process has handed to `write` and its like.
pub fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("a count of bytes");
    line.trim().parse().expect("a number")
}

/// proc(5): fields 14 and 15, user and system time in hundredths of a second. The second field is in brackets, and may hold anything.
fn cpu_at(file: &str) -> Duration {
    let Ok(stat) = std::fs::read_to_string(file) else { return Duration::ZERO };
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
