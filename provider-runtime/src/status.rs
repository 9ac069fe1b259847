//! What this provider has done, in `status.json` in its data directory, for whoever looks after it (and for tests).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::local_secs;
use crate::node::Node;

/// The status's file in the data directory.
pub const STATUS_FILE: &str = "status.json";
/// The file is written at most this often, and only after a change.
const WRITE_EVERY: Duration = Duration::from_millis(200);

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What this process has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Tokens that came out of engines, those of cancelled jobs included.
    pub completion_tokens: Counter,
    /// Answers that were begun.
    pub started: Counter,
    /// Answers that were completed.
    pub finished: Counter,
    /// Answers that the gateway cancelled, or whose tunnel broke.
    pub cancelled: Counter,
    /// Answers that the engine could not complete.
    pub failed: Counter,
    /// Jobs that were refused before an answer began.
    pub refused: Counter,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The provider's id.
    pub provider: String,
    /// The process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The gateway's origin.
    pub gateway: String,
    /// The gateway replicas that tunnels are open to.
    pub connected: Vec<String>,
    /// Whether no job is taken any more.
    pub draining: bool,
    /// By model id.
    pub models: BTreeMap<String, ModelStatus>,
    /// Tokens that came out of engines, those of cancelled jobs included.
    pub completion_tokens: u64,
    /// Jobs by what became of them.
    pub jobs: Jobs,
    /// Receipts that the gateway has not acknowledged.
    pub receipts_unacknowledged: usize,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Jobs that run now.
    pub running: u32,
    /// Jobs at a time.
    pub slots: u32,
}

/// Jobs by what became of them, as [`Counters`] has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    /// Answers that were begun.
    pub started: u64,
    /// Answers that were completed.
    pub finished: u64,
    /// Answers that the gateway cancelled, or whose tunnel broke.
    pub cancelled: u64,
    /// Answers that the engine could not complete.
    pub failed: u64,
    /// Jobs that were refused before an answer began.
    pub refused: u64,
}

/// The file: a status, and when it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusFile {
    /// What was so.
    #[serde(flatten)]
    pub status: Status,
    /// Unix seconds.
    pub written_at: u64,
}

impl Status {
    /// What is so now.
    pub fn of(node: &Node) -> Self {
        let counters = &node.counters;
        Self {
            provider: node.provider.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            gateway: node.gateway.address.origin(),
            connected: node.connected(),
            draining: node.is_draining(),
            models: node
                .models()
                .iter()
                .map(|served| {
                    (served.model.clone(), ModelStatus { running: served.running(), slots: served.slot_count() })
                })
                .collect(),
            completion_tokens: counters.completion_tokens.get(),
            jobs: Jobs {
                started: counters.started.get(),
                finished: counters.finished.get(),
                cancelled: counters.cancelled.get(),
                failed: counters.failed.get(),
                refused: counters.refused.get(),
            },
            receipts_unacknowledged: node.journal.backlog().len(),
        }
    }

    /// Writes the file anew; a reader sees the old one or the new one, whole.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let aside = dir.join("status.json.new");
        let file = StatusFile { status: self.clone(), written_at: local_secs() };
        fs::write(&aside, serde_json::to_vec_pretty(&file)?)?;
        fs::rename(aside, dir.join(STATUS_FILE))
    }
}

impl StatusFile {
    /// Reads the file.
    pub fn read(dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(dir.join(STATUS_FILE))?)?)
    }
}

/// Keeps the file up to date until `stop`, and writes it a last time then.
pub async fn keep_written(node: &Node, dir: &Path, stop: CancellationToken) {
    let mut written = Status::default();
    let mut is_failing = false;
    let mut ticks = tokio::time::interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let status = Status::of(node);
        if status != written {
            match status.write(dir) {
                Ok(()) => (written, is_failing) = (status, false),
                Err(error) if !is_failing => {
                    is_failing = true;
                    tracing::warn!("cannot write {STATUS_FILE}: {error}");
                }
                Err(_) => {}
            }
        }
        if is_last {
            return;
        }
    }
}
