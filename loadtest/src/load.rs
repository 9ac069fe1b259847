//! Many connections at once. Closed loop: each asks again as soon as it is answered. Open loop: requests fall due at a
//! fixed rate whatever the answers do, and latency counts from when a request was due, so that a stall is not hidden by
//! the requests that it kept from being sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::client::{Client, Outcome, Target};
use crate::process::{self, Used};
use crate::report::{Cpu, Latency, Memory, Report};

/// How long answers may take to end after the load has.
const GRACE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to, and what.
    pub target: Target,
    /// Connections at once.
    pub connections: usize,
    /// Requests per second over all connections; as fast as they are answered if absent.
    pub rate: Option<f64>,
    /// Load before anything is counted.
    pub warm_up: Duration,
    /// Load that is counted.
    pub length: Duration,
    /// Whose CPU time and memory is reported, children included.
    pub pid: Option<u32>,
}

/// What the connections have in common.
struct Shared {
    plan: Plan,
    begun: Instant,
    due: AtomicU64,
    over: AtomicBool,
    requests: AtomicU64,
    chunks: AtomicU64,
    tally: Mutex<Tally>,
}

/// What is known of the requests that fell due while it counted.
struct Tally {
    latency: Histogram<u64>,
    first_piece: Histogram<u64>,
    failures: BTreeMap<String, u64>,
    completion_tokens: u64,
}

/// Where the counters stood.
struct Mark {
    at: Instant,
    requests: u64,
    chunks: u64,
    used: Option<Used>,
}

/// Runs the load and says what came of it.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    ensure!(plan.connections > 0, "at least one connection is needed");
    ensure!(plan.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "the rate must be above 0");
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        due: AtomicU64::new(0),
        over: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        chunks: AtomicU64::new(0),
        tally: Mutex::new(Tally::new()?),
        plan,
    });
    let mut connections = JoinSet::new();
    for place in 0..shared.plan.connections {
        connections.spawn(Arc::clone(&shared).connection(place));
    }

    tokio::time::sleep(shared.plan.warm_up).await;
    let first = shared.mark()?;
    tokio::time::sleep(shared.plan.length).await;
    let last = shared.mark()?;
    shared.over.store(true, Relaxed);
    if tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        shared.tally().fail("never_ended".into());
    }
    Ok(shared.report(&first, &last))
}

impl Shared {
    async fn connection(self: Arc<Self>, place: usize) {
        if self.plan.rate.is_none() {
            // Not all at once: streams in step would have their tokens handled together, and look cheaper than they are.
            tokio::time::sleep(self.plan.warm_up.mul_f64(0.5 * place as f64 / self.plan.connections as f64)).await;
        }
        let mut client = Client::default();
        while let Some(due) = self.next().await {
            let outcome = client.ask(&self.plan.target, &self.chunks).await;
            self.requests.fetch_add(1, Relaxed);
            if due >= self.begun + self.plan.warm_up {
                self.tally().record(due, outcome);
            }
        }
    }

    /// When the next request of this connection was due; `None` when the load is over.
    async fn next(&self) -> Option<Instant> {
        let due = match self.plan.rate {
            None => Instant::now(),
            Some(rate) => {
                let due = self.begun + Duration::from_secs_f64(self.due.fetch_add(1, Relaxed) as f64 / rate);
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                    Instant::now() // what the timer was late by is not the gateway's fault
                } else {
                    due
                }
            }
        };
        (!self.over.load(Relaxed)).then_some(due)
    }

    fn mark(&self) -> anyhow::Result<Mark> {
        let used = self.plan.pid.map(process::used_by).transpose()?;
        Ok(Mark { at: Instant::now(), requests: self.requests.load(Relaxed), chunks: self.chunks.load(Relaxed), used })
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, first: &Mark, last: &Mark) -> Report {
        let tally = self.tally();
        let seconds = (last.at - first.at).as_secs_f64();
        let (requests, chunks) = (last.requests - first.requests, last.chunks - first.chunks);
        let used = first.used.zip(last.used);
        Report {
            connections: self.plan.connections,
            rate: self.plan.rate,
            seconds,
            requests,
            chunks,
            completion_tokens: tally.completion_tokens,
            requests_per_second: requests as f64 / seconds,
            chunks_per_second: chunks as f64 / seconds,
            latency_ms: Latency::of(&tally.latency),
            first_piece_ms: Latency::of(&tally.first_piece),
            cpu: used.map(|(before, after)| Cpu::of(after.cpu.saturating_sub(before.cpu), seconds, requests, chunks)),
            memory: used.map(|(_, after)| Memory::of(&after)),
            failures: tally.failures.clone(),
        }
    }
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        // Microseconds up to ten minutes, to three digits.
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3);
        Ok(Self { latency: histogram()?, first_piece: histogram()?, failures: BTreeMap::new(), completion_tokens: 0 })
    }

    fn record(&mut self, due: Instant, outcome: Outcome) {
        match outcome {
            Outcome::Answered { first_piece, completion_tokens } => {
                self.latency.saturating_record(due.elapsed().as_micros() as u64);
                self.first_piece.saturating_record((first_piece - due).as_micros() as u64);
                self.completion_tokens += completion_tokens;
            }
            Outcome::Refused(status) => self.fail(format!("status_{status}")),
            Outcome::Broken(fault) => self.fail(format!("broken_{}", fault.name())),
            Outcome::Lost(error) => self.fail(format!("lost: {error}")),
        }
    }

    fn fail(&mut self, kind: String) {
        *self.failures.entry(kind).or_default() += 1;
    }
}
