//! Real processes, and real kills.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A child that dies with the test.
pub struct Process {
    name: &'static str,
    child: Child,
    log: Option<PathBuf>,
}

impl Process {
    pub fn start(name: &'static str, mut command: Command, log: Option<PathBuf>) -> Self {
        let output = log.as_ref().map(|path| File::options().create(true).append(true).open(path).expect("a log file"));
        let output = output.map_or_else(Stdio::inherit, Stdio::from);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn();
        let child = child
            .unwrap_or_else(|error| panic!("{name} does not start ({error}): build the workspace's programs first"));
        Self { name, child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name} {}", self.name);
    }

    /// Whether it has ended by itself, and not in good order.
    pub fn has_failed(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some_and(|status| !status.success())
    }

    /// Whether it is stopped, as by SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && line.contains('T'))
    }

    /// Whether it has ended, in whatever order.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for an orderly end.
    pub async fn stops(&mut self, within: Duration) {
        let name = self.name;
        wait_until(&format!("{name} stops"), within, async || self.child.try_wait().expect("a child").is_some()).await;
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "{name} ended with {status}");
    }

    pub fn log(&self) -> String {
        self.log.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Where it tells its metrics, on this machine.
    pub fn metrics_url(&self) -> String {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("metrics are told"));
        let address = line.and_then(|line| line.split_once("127.0.0.1:")).map(|(_, rest)| rest);
        let address = address.unwrap_or_else(|| panic!("{} does not tell where its metrics are:\n{log}", self.name));
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        format!("http://127.0.0.1:{port}/metrics")
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib * 1024
    }

    /// Sockets that this process listens on.
    pub fn listening(&self) -> Vec<String> {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("a running process");
        let inodes: Vec<String> = links
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let tables = ["tcp", "tcp6", "udp", "udp6"]
            .map(|table| (table, std::fs::read_to_string(format!("/proc/{}/net/{table}", self.id()))));
        let mut listening = Vec::new();
        for (table, text) in tables {
            for line in text.unwrap_or_default().lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                // 0A is LISTEN; a UDP socket without a peer can be sent to by anyone.
                let open = fields[3] == "0A" || (table.starts_with("udp") && fields[2].ends_with(":0000"));
                if open && inodes.iter().any(|inode| inode == fields[9]) {
                    listening.push(format!("{table} {}", fields[1]));
                }
            }
        }
        listening
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the last of {}'s log", self.name);
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    free_port_at("127.0.0.1")
}

/// The same, at another address of this machine.
pub fn free_port_at(ip: &str) -> u16 {
    let listener = TcpListener::bind(format!("{ip}:0")).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Asks again until it is so; panics when it takes too long.
pub async fn wait_until(what: &str, within: Duration, mut so: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + within;
    while !so().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
