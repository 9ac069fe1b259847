//! A network on a virtual clock: requests come, prompts are read one after the other at each provider, answers are written, some fail.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use lumbung_gateway::domain::routing::Candidate;
use lumbung_gateway::domain::routing::dice::{Dice, mix};
use lumbung_gateway::domain::routing::prefix::Prefix;
use lumbung_gateway::domain::routing::vitals::{Sample, Unread};
use lumbung_openapi::money::NanoUsd;

use crate::policy::{Chooser, Policy};
use crate::world::{Request, Stand, requests};

/// How long it takes to notice that a provider has failed.
const NOTICED_AFTER_SECS: f64 = 2.0;
/// Providers that are tried for one request.
const MAX_ATTEMPTS: usize = 3;
/// How long a request waits for a slot.
const LONGEST_WAIT_SECS: f64 = 10.0;

/// What is simulated.
#[derive(Clone, Copy)]
pub struct Plan {
    pub providers: usize,
    pub requests: usize,
    /// Share of what all providers together can do.
    pub load: f64,
    pub seed: u64,
}

/// What came of it. Times in seconds.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub policy: Policy,
    pub ttft_p50: f64,
    pub ttft_p99: f64,
    pub total_p50: f64,
    pub total_p99: f64,
    /// Dollars for a thousand requests.
    pub price: f64,
    /// Price and time together, a second at the gateway's default: dollars for a thousand requests.
    pub cost: f64,
    /// The deviation of how busy providers are, in shares of the mean.
    pub imbalance: f64,
    /// Of the tokens that a cache could have held, the share that it did.
    pub prefix_hits: f64,
    /// Shares of the requests.
    pub retried: f64,
    pub failed: f64,
}

/// Simulates one way to choose.
pub fn run(plan: &Plan, policy: Policy) -> Outcome {
    let mut dice = Dice::new(plan.seed);
    let stands: Vec<Arc<Stand>> = (0..plan.providers).map(|n| Arc::new(Stand::new(n, &mut dice))).collect();
    let per_sec = plan.load * stands.iter().map(|stand| capacity(stand)).sum::<f64>();
    let requests = requests(plan.requests, per_sec, &mut dice);
    Simulation::new(&stands, requests, policy, dice).run(policy)
}

/// Requests per second of an ordinary kind that a provider can answer.
fn capacity(stand: &Stand) -> f64 {
    let writing = 250.0 / stand.tokens_per_sec * 2.0;
    let reading = stand.reading_secs(1000, 0);
    (f64::from(stand.slots()) / (writing + reading)).min(1.0 / reading)
}

/// What happens, and when.
struct Event {
    at: f64,
    what: What,
}

enum What {
    Arrives(usize),
    /// A job's first token is there, or it turns out that there will be none.
    Begins(Box<Job>),
    Ends(Box<Job>),
}

/// One attempt.
struct Job {
    request: usize,
    stand: usize,
    sent_at: f64,
    unread: Unread,
    cached_tokens: u32,
    fails: bool,
    crowd: f64,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at)
    }
}

/// What a provider is at.
struct State {
    reading_until: f64,
    cache: VecDeque<u64>,
    busy_secs: f64,
    busy_since: f64,
}

struct Simulation {
    stands: Vec<Arc<Stand>>,
    numbers: HashMap<*const Stand, usize>,
    states: Vec<State>,
    requests: Vec<Request>,
    tried: Vec<Vec<usize>>,
    waiting: VecDeque<usize>,
    events: BinaryHeap<Reverse<Event>>,
    chooser: Chooser,
    dice: Dice,
    first_token_secs: Vec<f64>,
    total_secs: Vec<f64>,
    paid: i64,
    could_be_cached: u64,
    cached: u64,
    failed: usize,
}

impl Simulation {
    fn new(stands: &[Arc<Stand>], requests: Vec<Request>, policy: Policy, dice: Dice) -> Self {
        let stands: Vec<Arc<Stand>> = stands.iter().map(|stand| Arc::new(stand.afresh())).collect();
        let state = |_: &_| State { reading_until: 0.0, cache: VecDeque::new(), busy_secs: 0.0, busy_since: 0.0 };
        let arrival =
            |(number, request): (usize, &Request)| Reverse(Event { at: request.at, what: What::Arrives(number) });
        Self {
            numbers: stands.iter().enumerate().map(|(number, stand)| (Arc::as_ptr(stand), number)).collect(),
            states: stands.iter().map(state).collect(),
            tried: vec![Vec::new(); requests.len()],
            waiting: VecDeque::new(),
            events: requests.iter().enumerate().map(arrival).collect(),
            chooser: Chooser::new(policy, &stands),
            stands,
            requests,
            dice,
            first_token_secs: Vec::new(),
            total_secs: Vec::new(),
            paid: 0,
            could_be_cached: 0,
            cached: 0,
            failed: 0,
        }
    }

    fn run(mut self, policy: Policy) -> Outcome {
        let mut now = 0.0;
        while let Some(Reverse(event)) = self.events.pop() {
            now = event.at;
            match event.what {
                What::Arrives(request) => self.place(now, request),
                What::Begins(job) => self.begin(now, job),
                What::Ends(job) => self.end(now, *job),
            }
        }
        self.outcome(policy, now)
    }

    /// Sends a request to a provider, or has it wait.
    fn place(&mut self, now: f64, number: usize) {
        if !self.waiting.is_empty() || !self.send(now, number) {
            self.waiting.push_back(number);
        }
    }

    fn send(&mut self, now: f64, number: usize) -> bool {
        let request = self.requests[number];
        let chosen = self.chooser.choose(now, &request, &self.tried[number], &mut self.dice);
        let Some(stand) = chosen else { return false };
        let at = self.numbers[&Arc::as_ptr(&stand)];
        self.tried[number].push(at);
        self.busy(at, now);
        let unread = Unread::send(stand.shared_vitals(), Prefix { hash: mix(request.prefix), tokens: 1 });
        stand.take();
        let state = &mut self.states[at];
        let is_cached = state.cache.contains(&request.prefix);
        let cached_tokens = if is_cached { request.prefix_tokens } else { 0 };
        self.could_be_cached += u64::from(request.prefix_tokens);
        self.cached += u64::from(cached_tokens);
        state.cache.retain(|known| *known != request.prefix);
        state.cache.push_back(request.prefix);
        if state.cache.len() > stand.cache {
            state.cache.pop_front();
        }
        let fails = self.dice.unit() < stand.failures;
        let arrives = now + stand.round_trip_secs / 2.0;
        let begins = if fails {
            now + NOTICED_AFTER_SECS
        } else {
            let from = state.reading_until.max(arrives);
            state.reading_until = from + stand.reading_secs(request.prompt_tokens, cached_tokens);
            state.reading_until + stand.round_trip_secs / 2.0
        };
        let job = Job { request: number, stand: at, sent_at: now, unread, cached_tokens, fails, crowd: stand.crowd() };
        self.events.push(Reverse(Event { at: begins, what: What::Begins(Box::new(job)) }));
        true
    }

    fn begin(&mut self, now: f64, mut job: Box<Job>) {
        job.unread.end();
        let (stand, request) = (self.stands[job.stand].clone(), self.requests[job.request]);
        if job.fails {
            stand.shared_vitals().failed();
            self.leave(now, job.stand);
            match self.tried[job.request].len() < MAX_ATTEMPTS {
                true => self.place(now, job.request),
                false => self.failed += 1,
            }
            return self.serve_waiting(now);
        }
        self.first_token_secs.push(now - request.at);
        job.crowd = stand.crowd();
        let writing = stand.writing_secs(request.completion_tokens);
        let sample = Sample {
            prompt_tokens: request.prompt_tokens,
            cached_tokens: job.cached_tokens,
            expected_cached: job.unread.expected_cached,
            first_token_secs: Some(now - job.sent_at),
            ahead: job.unread.ahead,
            later_tokens: request.completion_tokens,
            later_secs: writing,
            crowd: job.crowd,
        };
        stand.shared_vitals().learn(&sample, &self.chooser.roster().prior);
        self.events.push(Reverse(Event { at: now + writing, what: What::Ends(job) }));
    }

    fn end(&mut self, now: f64, job: Job) {
        let request = self.requests[job.request];
        self.total_secs.push(now - request.at);
        let price = self.stands[job.stand].ask().cost(request.prompt_tokens, request.completion_tokens);
        self.paid += price.map_or(0, NanoUsd::nanos);
        self.leave(now, job.stand);
        self.serve_waiting(now);
    }

    fn leave(&mut self, now: f64, at: usize) {
        self.busy(at, now);
        self.stands[at].give_back();
    }

    fn serve_waiting(&mut self, now: f64) {
        while let Some(first) = self.waiting.front().copied() {
            if now - self.requests[first].at > LONGEST_WAIT_SECS {
                self.failed += 1;
            } else if !self.send(now, first) {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Adds up how busy a provider was until now.
    fn busy(&mut self, at: usize, now: f64) {
        let state = &mut self.states[at];
        state.busy_secs += (now - state.busy_since) * self.stands[at].crowd();
        state.busy_since = now;
    }

    fn outcome(mut self, policy: Policy, end: f64) -> Outcome {
        (0..self.stands.len()).for_each(|at| self.busy(at, end));
        let number = self.requests.len() as f64;
        let busy: Vec<f64> = self.states.iter().map(|state| state.busy_secs / end).collect();
        let mean = busy.iter().sum::<f64>() / busy.len() as f64;
        let variance = busy.iter().map(|share| (share - mean) * (share - mean)).sum::<f64>() / busy.len() as f64;
        let price = self.paid as f64 / 1e9 / number * 1000.0;
        let mean_secs = self.total_secs.iter().sum::<f64>() / self.total_secs.len() as f64;
        let attempts: usize = self.tried.iter().map(Vec::len).sum();
        Outcome {
            policy,
            ttft_p50: quantile(&mut self.first_token_secs, 0.5),
            ttft_p99: quantile(&mut self.first_token_secs, 0.99),
            total_p50: quantile(&mut self.total_secs, 0.5),
            total_p99: quantile(&mut self.total_secs, 0.99),
            price,
            cost: price + mean_secs * crate::policy::SECOND.nanos() as f64 / 1e9 * 1000.0,
            imbalance: variance.sqrt() / mean,
            prefix_hits: self.cached as f64 / self.could_be_cached as f64,
            retried: (attempts as f64 - number) / number,
            failed: self.failed as f64 / number,
        }
    }
}

fn quantile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[((figures.len() - 1) as f64 * share) as usize]
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let plan = Plan { providers: 30, requests: 500, load: 0.5, seed: 3 };
    for policy in Policy::ALL {
        assert_eq!(format!("{:?}", run(&plan, policy)), format!("{:?}", run(&plan, policy)));
    }
}

/// What the gateway's choice is for: soon to begin, cheap, prompts read once, few failures. It does not aim to have everyone
/// equally busy, and claims no better balance.
#[test]
fn it_is_better_than_simpler_ways_at_what_it_is_for() {
    for seed in [1, 2] {
        let plan = Plan { providers: 200, requests: 8000, load: 0.6, seed };
        let ours = run(&plan, Policy::Lumbung);
        for policy in [Policy::Random, Policy::RoundRobin, Policy::LeastLoaded] {
            let other = run(&plan, policy);
            let both = format!("{ours:#?}\n{other:#?}");
            assert!(ours.ttft_p50 < other.ttft_p50 && ours.ttft_p99 < other.ttft_p99, "time to first token: {both}");
            assert!(ours.cost < other.cost, "price and time together: {both}");
            assert!(ours.price < other.price, "price: {both}");
            assert!(ours.prefix_hits > 1.5 * other.prefix_hits, "prefix hits: {both}");
            assert!(ours.retried <= other.retried, "failures: {both}");
            assert!(ours.failed <= other.failed, "failures: {both}");
        }
        let cheapest = run(&plan, Policy::Cheapest);
        assert!(ours.cost < cheapest.cost && ours.ttft_p99 < cheapest.ttft_p99, "{ours:#?}\n{cheapest:#?}");
    }
}
