//! Many requests at once. Closed loop: each connection asks again as soon as it is answered. Open loop: requests fall due
//! at a fixed rate whatever becomes of those before, and times count from when a request was due, so that a stall is not
//! hidden by the requests that it kept from being sent.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ask::{Ask, Mix, Reader};
use crate::client::{Connection, Outcome, Target};
use crate::process::{self, Used};
use crate::report::{Cpu, Latency, Memory, Report};
use crate::tally::{Live, Tally, lock};

/// How long answers may take to end after the load has.
const GRACE: Duration = Duration::from_secs(60);

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// By so many connections, each as soon as it has its answer.
    Closed,
    /// By so many connections, each once.
    Once,
    /// So many per second. What finds all connections taken waits for one, and its time counts.
    Rate(f64),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// What.
    pub mix: Mix,
    /// When.
    pub arrivals: Arrivals,
    /// Connections at once, at most.
    pub connections: usize,
    /// Load before anything is timed.
    pub warm_up: Duration,
    /// Load that is timed.
    pub length: Duration,
    /// Whose CPU time and memory is reported, children included.
    pub pid: Option<u32>,
}

/// What came of a load: figures, and all that is needed to compare it with the books.
#[derive(Debug)]
pub struct Done {
    /// The figures.
    pub report: Report,
    /// Every request's outcome, warm-up included.
    pub tally: Tally,
}

struct Shared {
    plan: Plan,
    begun: Instant,
    over: AtomicBool,
    live: Live,
    tally: Mutex<Tally>,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

/// Where the counters stood.
struct Mark {
    at: Instant,
    requests: u64,
    chunks: u64,
    tokens: u64,
    used: Option<Used>,
}

/// Runs the load and says what came of it.
pub async fn run(plan: Plan) -> anyhow::Result<Done> {
    ensure!(plan.connections > 0, "at least one connection is needed");
    if let Arrivals::Rate(rate) = plan.arrivals {
        ensure!(rate.is_finite() && rate > 0.0, "the rate must be above 0");
    }
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        over: AtomicBool::new(false),
        live: Live::new()?,
        tally: Tally::new()?.into(),
        idle: Mutex::default(),
        places: Semaphore::new(plan.connections),
        plan,
    });
    let mut asking = JoinSet::new();
    match shared.plan.arrivals {
        Arrivals::Closed | Arrivals::Once => {
            (0..shared.plan.connections).for_each(|place| drop(asking.spawn(shared.clone().ask_on(place))));
        }
        Arrivals::Rate(rate) => drop(asking.spawn(shared.clone().ask_at(rate))),
    }
    let progress = std::io::stderr().is_terminal().then(|| tokio::spawn(shared.clone().show_progress()));

    tokio::time::sleep(shared.plan.warm_up).await;
    let first = shared.mark()?;
    tokio::time::sleep(shared.plan.length).await;
    let last = shared.mark()?;
    shared.over.store(true, Relaxed);
    if tokio::time::timeout(GRACE, async { while asking.join_next().await.is_some() {} }).await.is_err() {
        shared.tally().fail("never_ended".into());
    }
    if let Some(progress) = progress {
        progress.abort();
        eprint!("\r\x1b[K");
    }
    let report = shared.report(&first, &last);
    let tally = std::mem::replace(&mut *shared.tally(), Tally::new()?);
    Ok(Done { report, tally })
}

impl Shared {
    /// One connection after another request.
    async fn ask_on(self: Arc<Self>, place: usize) {
        // Not all at once: streams in step would have their tokens handled together, and look cheaper than they are.
        tokio::time::sleep(self.plan.warm_up.mul_f64(0.5 * place as f64 / self.plan.connections as f64)).await;
        while !self.over.load(Relaxed) {
            let number = self.live.due.fetch_add(1, Relaxed);
            self.ask(number, Instant::now()).await;
            if self.plan.arrivals == Arrivals::Once {
                return;
            }
        }
    }

    /// Requests at their times. Ends when the last is answered.
    async fn ask_at(self: Arc<Self>, rate: f64) {
        let mut asking = JoinSet::new();
        while !self.over.load(Relaxed) {
            let number = self.live.due.fetch_add(1, Relaxed);
            let mut due = self.begun + Duration::from_secs_f64(number as f64 / rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
                due = Instant::now(); // what the timer was late by is not the gateway's fault
            }
            let shared = self.clone();
            asking.spawn(async move {
                let Ok(_place) = shared.places.acquire().await else { return };
                shared.ask(number, due).await;
            });
            while asking.try_join_next().is_some() {}
        }
        while asking.join_next().await.is_some() {}
    }

    async fn ask(&self, number: u64, due: Instant) {
        let ask = self.plan.mix.pick(number);
        let outcome = match self.try_ask(&ask).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Lost(format!("{error:#}")),
        };
        self.live.ended.fetch_add(1, Relaxed);
        self.tally().record(due, outcome, due >= self.begun + self.plan.warm_up);
    }

    async fn try_ask(&self, ask: &Ask) -> anyhow::Result<Outcome> {
        let shares = !ask.alone && ask.reader == Reader::Steady;
        let idle = if shares { self.idle_connection() } else { None };
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.plan.target, ask.reader).await?,
        };
        let outcome = connection.ask(&self.plan.target, ask, &self.live).await?;
        if shares && connection.is_open() {
            lock(&self.idle).push(connection);
        }
        Ok(outcome)
    }

    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
    }

    async fn show_progress(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let (due, ended) = (self.live.due.load(Relaxed), self.live.ended.load(Relaxed));
            let (p50, p99, failed) = {
                let tally = self.tally();
                let at = |quantile| tally.total.value_at_quantile(quantile) as f64 / 1e3;
                (at(0.5), at(0.99), tally.failures.values().sum::<u64>())
            };
            let all = (self.plan.warm_up + self.plan.length).as_secs();
            eprint!(
                "\r\x1b[K{:>4} of {all} s   {ended} ended, {} under way   p50 {p50:.1} ms, p99 {p99:.1} ms   {failed} failed",
                self.begun.elapsed().as_secs(),
                due.saturating_sub(ended),
            );
            // A progress line that cannot be shown is no reason to stop.
            std::io::stderr().flush().ok();
        }
    }

    fn mark(&self) -> anyhow::Result<Mark> {
        let used = self.plan.pid.map(process::used_by).transpose()?;
        let requests = self.live.ended.load(Relaxed);
        Ok(Mark { at: Instant::now(), requests, chunks: self.live.chunks(), tokens: self.live.tokens(), used })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    fn report(&self, first: &Mark, last: &Mark) -> Report {
        let tally = self.tally();
        let seconds = (last.at - first.at).as_secs_f64();
        let (requests, chunks) = (last.requests - first.requests, last.chunks - first.chunks);
        let used = first.used.zip(last.used);
        let pauses = self.live.pauses();
        Report {
            connections: self.plan.connections,
            rate: if let Arrivals::Rate(rate) = self.plan.arrivals { Some(rate) } else { None },
            seconds,
            requests,
            chunks,
            whole: tally.whole,
            left: tally.left.len() as u64 + tally.left_early,
            completion_tokens: tally.used.completion_tokens,
            requests_per_second: requests as f64 / seconds,
            chunks_per_second: chunks as f64 / seconds,
            tokens_per_second: (last.tokens - first.tokens) as f64 / seconds,
            first_byte_ms: Latency::of(&tally.first_byte),
            first_token_ms: Latency::of(&tally.first_token),
            between_tokens_ms: (!pauses.is_empty()).then(|| Latency::of(&pauses)),
            total_ms: Latency::of(&tally.total),
            cpu: used.map(|(before, after)| Cpu::of(&before, &after, seconds, requests, chunks)),
            memory: used.map(|(_, after)| Memory::of(&after)),
            failures: tally.failures.clone(),
        }
    }
}
