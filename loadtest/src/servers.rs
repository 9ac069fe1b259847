//! Programs that are started, asked whether they are ready, and ended.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process;

/// How long a server may be busy with what a load has left behind. A gateway gives allowances back that have been idle for a
/// minute: a hundred thousand of them are not back after another.
const QUIET_TIMEOUT: Duration = Duration::from_secs(180);
/// How long an orderly end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that ends when this is dropped.
pub struct Server {
    child: RefCell<Child>,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it prints goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("cannot start {:?}; is it built?", command.get_program()))?;
        Ok(Self { child: child.into(), log: log.to_owned() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.borrow().id()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks again until it is ready.
    ///
    /// # Errors
    /// It has ended, or was not ready in time; with the end of what it printed.
    pub fn wait_for(&self, within: Duration, is_ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !is_ready() {
            let ended = self.child.borrow_mut().try_wait()?;
            if ended.is_some() || begun.elapsed() > within {
                let log = self.log();
                let lines: Vec<&str> = log.lines().collect();
                bail!("it did not start:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until it has nothing to do any more: what one load left behind must not be charged to the next.
    pub async fn wait_until_quiet(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut before = process::used_by(self.pid())?.cpu;
        while begun.elapsed() < QUIET_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = process::used_by(self.pid())?.cpu;
            if now.saturating_sub(before) <= Duration::from_millis(20) {
                return Ok(());
            }
            before = now;
        }
        bail!("the server is still busy {} seconds after the load", QUIET_TIMEOUT.as_secs());
    }

    /// Tells it to end, and waits until it has.
    pub fn stop(&self) -> anyhow::Result<()> {
        let told = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        anyhow::ensure!(told.success(), "process {} cannot be told to stop", self.pid());
        let begun = Instant::now();
        while self.child.borrow_mut().try_wait()?.is_none() {
            anyhow::ensure!(begun.elapsed() < STOP_TIMEOUT, "process {} does not stop", self.pid());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Both may fail only if it has ended already.
        child.kill().ok();
        child.wait().ok();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The status of an answer; `None` where nobody answers.
pub fn get_status(port: u16, path: &str) -> Option<u16> {
    get(port, path)?.split_whitespace().nth(1)?.parse().ok()
}

/// The body of an answer; `None` where nobody answers.
pub fn get_body(port: u16, path: &str) -> Option<String> {
    Some(get(port, path)?.split_once("\r\n\r\n")?.1.to_owned())
}

/// A whole answer, head included.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
