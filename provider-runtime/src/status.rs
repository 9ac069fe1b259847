//! What this provider is doing: over its control socket for whoever looks at it now, and in `status.json` in its data
//! directory, which stays when it is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lumbung_openapi::earnings::EarningsTotals;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::local_secs;
use crate::holds::Hold;
use crate::node::Node;
use crate::outlook::Outlook;
use crate::served::Served;

/// The status's file in the data directory.
pub const STATUS_FILE: &str = "status.json";
/// The file is written at most this often, and only after a change; where nothing but the number of tokens has changed, less often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const TOKENS_EVERY: Duration = Duration::from_millis(400);

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

/// What is so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The provider's id.
    pub provider: String,
    /// The process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, Unix seconds.
    #[serde(default)]
    pub started_at: u64,
    /// The gateway's origin.
    pub gateway: String,
    /// How far the gateway trusts it, `newcomer` or `trusted`; empty until it has told.
    #[serde(default)]
    pub standing: String,
    /// The gateway replicas that tunnels are open to.
    pub connected: Vec<String>,
    /// Whether it finishes what it has and ends.
    pub draining: bool,
    /// Why no new job is taken now; empty while jobs are taken.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// By model id.
    pub models: BTreeMap<String, ModelStatus>,
    /// Tokens of prompts that were read.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens that came out of engines, those of cancelled jobs included.
    pub completion_tokens: u64,
    /// Jobs by what became of them.
    pub jobs: Jobs,
    /// What receipts claimed in the last hour, by this provider's own reckoning.
    #[serde(default, rename = "claimed_last_hour_usd")]
    pub claimed_last_hour: NanoUsd,
    /// Receipts that the gateway has not acknowledged.
    pub receipts_unacknowledged: usize,
    /// What the gateway's books say, where they were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earnings: Option<Earnings>,
}

/// What the gateway's books say of this provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Earnings {
    /// Where everything is that it ever earned.
    Totals(EarningsTotals),
    /// They could not be asked.
    Unknown(String),
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Jobs that run now.
    pub running: u32,
    /// Jobs at a time.
    pub slots: u32,
    /// What is asked for its tokens.
    #[serde(flatten)]
    pub ask: TokenPrice,
    /// Jobs that are over, however they ended.
    #[serde(default)]
    pub jobs: u64,
    /// Completion tokens that were sent.
    #[serde(default)]
    pub completion_tokens: u64,
    /// What its receipts claim since the start, by this provider's own reckoning.
    #[serde(default, rename = "claimed_usd")]
    pub claimed: NanoUsd,
    /// What an hour would bring with every slot taken, as jobs went so far; null before there were any.
    #[serde(default, rename = "per_busy_hour_usd")]
    pub per_busy_hour: Option<NanoUsd>,
    /// What it can expect, where the gateway was asked how the model is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlook: Option<Outlook>,
}

impl ModelStatus {
    fn of(served: &Served) -> Self {
        let (tally, slots) = (&served.tally, served.slot_count());
        Self {
            running: served.running(),
            slots,
            ask: served.ask(),
            jobs: tally.jobs.get(),
            completion_tokens: tally.tokens.get(),
            claimed: tally.claimed(),
            per_busy_hour: tally.per_busy_hour(slots),
            outlook: None,
        }
    }
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
            started_at: node.started_at,
            gateway: node.gateway.address.origin(),
            standing: node.standing(),
            connected: node.connected(),
            draining: node.holds.has(Hold::Draining),
            holds: node.holds.list(),
            models: node.models.list().iter().map(|served| (served.model.clone(), ModelStatus::of(served))).collect(),
            prompt_tokens: node.meter.prompt_tokens(),
            completion_tokens: counters.completion_tokens.get(),
            jobs: Jobs {
                started: counters.started.get(),
                finished: counters.finished.get(),
                cancelled: counters.cancelled.get(),
                failed: counters.failed.get(),
                refused: counters.refused.get(),
            },
            claimed_last_hour: node.takings.last_hour(local_secs()),
            receipts_unacknowledged: node.journal.backlog().len(),
            earnings: None,
        }
    }

    /// Whether it says the same as another one, but for how many tokens have been made.
    fn differs_in_tokens_alone(&self, other: &Self) -> bool {
        Self { completion_tokens: other.completion_tokens, ..self.clone() } == *other
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
    let (mut written, mut written_at) = (Status::default(), None::<Instant>);
    let mut is_failing = false;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let status = Status::of(node);
        let is_due = match written_at {
            // Tokens alone change all the time, and are told by the socket to whoever wants to know.
            Some(at) if !is_last && at.elapsed() < TOKENS_EVERY => !status.differs_in_tokens_alone(&written),
            _ => true,
        };
        if status != written && is_due {
            match status.write(dir) {
                Ok(()) => (written, written_at, is_failing) = (status, Some(Instant::now()), false),
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
