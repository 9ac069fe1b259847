//! What is counted while a load runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::Outcome;
use crate::stream::Usage;

/// Counted as it happens, warm-up included.
#[derive(Debug)]
pub struct Live {
    /// Requests that fell due.
    pub due: AtomicU64,
    /// Requests that have ended, however.
    pub ended: AtomicU64,
    chunks: AtomicU64,
    tokens: AtomicU64,
    pauses: Mutex<Histogram<u64>>,
}

/// Counted per request, as each ends.
#[derive(Debug)]
pub struct Tally {
    /// From when a request was due to its answer's head, in microseconds.
    pub first_byte: Histogram<u64>,
    /// The same to its first token.
    pub first_token: Histogram<u64>,
    /// The same to its end.
    pub total: Histogram<u64>,
    /// Answers that were whole.
    pub whole: u64,
    /// What those used.
    pub used: Used,
    /// Ids of the answers whose readers left, and the tokens that had come.
    pub left: Vec<(String, u64)>,
    /// Readers that left before their answer had begun.
    pub left_early: u64,
    /// Answers that were refused, not whole, or lost, by kind.
    pub failures: BTreeMap<String, u64>,
}

/// Tokens of several answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Of their prompts.
    pub prompt_tokens: u64,
    /// Of the answers.
    pub completion_tokens: u64,
}

/// Microseconds up to ten minutes, to three digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

impl Live {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        let pauses = histogram()?.into();
        Ok(Self {
            due: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            pauses,
        })
    }

    /// Streamed pieces have come.
    pub fn count_chunks(&self, count: u64) {
        self.chunks.fetch_add(count, Relaxed);
    }

    /// Streamed pieces with text have come.
    pub fn count_tokens(&self, count: u64) {
        self.tokens.fetch_add(count, Relaxed);
    }

    /// A token came so long after the one before.
    pub fn count_pause(&self, pause: Duration) {
        lock(&self.pauses).saturating_record(pause.as_micros() as u64);
    }

    /// Streamed pieces so far.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Relaxed)
    }

    /// Streamed pieces with text so far.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed)
    }

    /// From token to token, in microseconds.
    pub fn pauses(&self) -> Histogram<u64> {
        lock(&self.pauses).clone()
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            first_byte: histogram()?,
            first_token: histogram()?,
            total: histogram()?,
            whole: 0,
            used: Used::default(),
            left: Vec::new(),
            left_early: 0,
            failures: BTreeMap::new(),
        })
    }

    /// A request that was due at `due` has ended. What it used counts in any case, its times only where they are `timed`.
    pub fn record(&mut self, due: Instant, outcome: Outcome, timed: bool) {
        match outcome {
            Outcome::Answered { first_byte, first_token, usage } => {
                if timed {
                    let since = |moment: Instant| moment.saturating_duration_since(due).as_micros() as u64;
                    self.first_byte.saturating_record(since(first_byte));
                    self.first_token.saturating_record(since(first_token));
                    self.total.saturating_record(since(Instant::now()));
                }
                self.whole += 1;
                self.used.add(usage);
            }
            Outcome::Left { id, .. } if id.is_empty() => self.left_early += 1,
            Outcome::Left { id, tokens } => self.left.push((id, tokens)),
            Outcome::Refused(status) => self.fail(format!("status_{status}")),
            Outcome::Broken(fault) => self.fail(format!("broken_{}", fault.name())),
            Outcome::Lost(error) => self.fail(format!("lost: {error}")),
        }
    }

    /// Something went wrong.
    pub fn fail(&mut self, kind: String) {
        *self.failures.entry(kind).or_default() += 1;
    }
}

impl Used {
    fn add(&mut self, usage: Usage) {
        self.prompt_tokens += u64::from(usage.prompt_tokens);
        self.completion_tokens += u64::from(usage.completion_tokens);
    }
}

/// What is counted stays right when a task that held the lock has panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
