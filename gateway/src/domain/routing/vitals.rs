//! How fast and how reliable one provider is with one model, measured by the gateway from its own jobs.
//!
//! Kept per provider and model, longer than a tunnel or an offer: whoever returns is known. Readings are single atomic
//! loads, for they stand in a request's way; learning takes the lock of this provider and model only.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use super::cost::{BEGINNING_TOKENS, Work, slowdown};
use super::prefix::Prefix;
use super::quantiles::Quantiles;
use super::vacancies::Vacancies;

/// Share of the past that a new job leaves: about the last twenty count.
const KEEP: f64 = 0.95;
/// Jobs that what is known beforehand counts for.
const PRIOR_JOBS: f64 = 2.0;
/// How long a provider that came (again) takes to be drawn like any other, unless it has shown enough jobs before.
const WARM_UP_US: f64 = 120e6;
/// Jobs that make it warm sooner.
const WARM_UP_JOBS: f64 = 20.0;
/// What it begins with.
const COLDEST: f64 = 0.1;
/// Beginnings of prompts that a provider is remembered to have read lately.
const REMEMBERED: usize = 64;
/// Share of a prompt that is expected to be cached where its beginning is known, before it has been measured.
const CACHED_SHARE: f64 = 0.5;
/// Share of jobs that are expected to fail before any has been seen.
const FAILURES: f64 = 0.02;
/// Figures that no measurement leaves, so that none can upset a comparison.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.1..=100_000.0;
const PROMPT_SECS: std::ops::RangeInclusive<f64> = 1e-6..=1.0;

/// What is known of a provider for this request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Seconds for a token of a prompt, at an idle provider.
    pub secs_per_prompt_token: f64,
    /// Tokens per second of one answer, at an idle provider.
    pub tokens_per_sec: f64,
    /// Seconds to the provider and back.
    pub round_trip_secs: f64,
    /// Tokens of the prompt that it need not read again.
    pub cached_tokens: f64,
    /// Share of its jobs that fail.
    pub failures: f64,
}

/// What is assumed of whoever has not been measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Seconds for a token of a prompt.
    pub secs_per_prompt_token: f64,
    /// Tokens per second.
    pub tokens_per_sec: f64,
    /// Seconds to the provider and back.
    pub round_trip_secs: f64,
}

impl Default for Prior {
    /// A modest machine on a home connection.
    fn default() -> Self {
        Self { secs_per_prompt_token: 0.001, tokens_per_sec: 30.0, round_trip_secs: 0.05 }
    }
}

/// One job, as the gateway saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many the provider had cached.
    pub cached_tokens: u32,
    /// Whether it was expected to have some.
    pub expected_cached: bool,
    /// From asking to the first token, seconds.
    pub first_token_secs: Option<f64>,
    /// Prompts that were ahead of it.
    pub ahead: u32,
    /// Tokens of the answer after those that came first.
    pub later_tokens: u32,
    /// How long they took, seconds.
    pub later_secs: f64,
    /// Share of the provider's slots that was taken.
    pub crowd: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Vitals {
    learned: Mutex<Learned>,
    secs_per_prompt_token: Figure,
    tokens_per_sec: Figure,
    round_trip_secs: Figure,
    /// Until then: what is usual where it is.
    supposed_round_trip_secs: Figure,
    cached_share: Figure,
    failures: Figure,
    /// Jobs that have been learned from since it came.
    jobs: AtomicU32,
    /// When it came, Unix microseconds.
    since_us: AtomicI64,
    /// Jobs that have no token yet: their prompts are read one after the other.
    unread: AtomicU32,
    prefixes: [AtomicU32; REMEMBERED],
    place: ArcSwapOption<Place>,
}

/// Where a provider stands among the others of its model.
#[derive(Debug)]
struct Place {
    vacancies: Arc<Vacancies>,
    at: usize,
    slots: u32,
}

/// Sums over the past, the latest counting most.
#[derive(Debug)]
struct Learned {
    prompt_secs: f64,
    prompt_tokens: f64,
    output_tokens: f64,
    output_secs: f64,
    first_token: Quantiles,
    speed: Quantiles,
}

/// A figure that one thread writes and others read; unknown until then.
#[derive(Debug)]
struct Figure(AtomicU32);

impl Figure {
    fn unknown() -> Self {
        Self(AtomicU32::new(f32::NAN.to_bits()))
    }

    fn get(&self) -> Option<f64> {
        let figure = f32::from_bits(self.0.load(Ordering::Relaxed));
        (!figure.is_nan()).then_some(f64::from(figure))
    }

    fn set(&self, figure: f64) {
        self.0.store((figure as f32).to_bits(), Ordering::Relaxed);
    }
}

impl Default for Vitals {
    /// Of a provider that came long ago.
    fn default() -> Self {
        Self::new(0)
    }
}

impl Vitals {
    /// Of a provider that comes now.
    pub fn new(now_us: i64) -> Self {
        let learned = Learned {
            prompt_secs: 0.0,
            prompt_tokens: 0.0,
            output_tokens: 0.0,
            output_secs: 0.0,
            first_token: Quantiles::new(1e-3),
            speed: Quantiles::new(1e-1),
        };
        Self {
            learned: Mutex::new(learned),
            secs_per_prompt_token: Figure::unknown(),
            tokens_per_sec: Figure::unknown(),
            round_trip_secs: Figure::unknown(),
            supposed_round_trip_secs: Figure::unknown(),
            cached_share: Figure::unknown(),
            failures: Figure::unknown(),
            jobs: AtomicU32::new(0),
            since_us: AtomicI64::new(now_us),
            unread: AtomicU32::new(0),
            prefixes: std::array::from_fn(|_| AtomicU32::new(0)),
            place: ArcSwapOption::empty(),
        }
    }

    /// It came again: it is warmed up anew, and what its machine had cached may be gone.
    pub fn returned(&self, now_us: i64) {
        self.since_us.store(now_us, Ordering::Relaxed);
        self.jobs.store(0, Ordering::Relaxed);
        self.prefixes.iter().for_each(|prefix| prefix.store(0, Ordering::Relaxed));
    }

    /// How far it is warmed up: from a tenth to 1.
    pub fn warmth(&self, now_us: i64) -> f64 {
        let here = now_us.saturating_sub(self.since_us.load(Ordering::Relaxed)) as f64 / WARM_UP_US;
        let jobs = f64::from(self.jobs.load(Ordering::Relaxed)) / WARM_UP_JOBS;
        here.max(jobs).clamp(COLDEST, 1.0)
    }

    /// What is known, for a prompt with this beginning. `is_owner`: other prompts with it come here too.
    pub fn read(&self, prior: &Prior, work: &Work, prefix: u64, is_owner: bool) -> Reading {
        let cached = match (self.has_read(prefix), is_owner) {
            (true, _) => work.prompt_tokens,
            (false, true) => work.prefix_tokens,
            (false, false) => 0,
        };
        let round_trip = self.round_trip_secs.get().or_else(|| self.supposed_round_trip_secs.get());
        Reading {
            secs_per_prompt_token: self.secs_per_prompt_token.get().unwrap_or(prior.secs_per_prompt_token),
            tokens_per_sec: self.tokens_per_sec.get().unwrap_or(prior.tokens_per_sec),
            round_trip_secs: round_trip.unwrap_or(prior.round_trip_secs),
            cached_tokens: f64::from(cached) * self.cached_share.get().unwrap_or(CACHED_SHARE),
            failures: self.failures.get().unwrap_or(FAILURES),
        }
    }

    /// Measured speeds, where there are any: seconds per prompt token, tokens per second.
    pub fn speeds(&self) -> Option<(f64, f64)> {
        Some((self.secs_per_prompt_token.get()?, self.tokens_per_sec.get()?))
    }

    /// Seconds to the first token that a share of the jobs, 0 to 1, did not exceed.
    pub fn first_token_secs(&self, share: f64) -> Option<f64> {
        self.lock().first_token.at_most(share)
    }

    /// Tokens per second that a share of the jobs, 0 to 1, reached.
    pub fn reached_tokens_per_sec(&self, share: f64) -> Option<f64> {
        self.lock().speed.at_most(1.0 - share)
    }

    /// How its times to the first token, in seconds, and its tokens per second are spread.
    pub fn spreads(&self) -> (Quantiles, Quantiles) {
        let learned = self.lock();
        (learned.first_token.clone(), learned.speed.clone())
    }

    /// How much of a prompt's beginning that it has read before it does not read again, 0 to 1, where that has been measured.
    pub fn cached_share(&self) -> Option<f64> {
        self.cached_share.get()
    }

    /// Takes a job that came to its end, or was left by its client, into account.
    pub fn learn(&self, sample: &Sample, prior: &Prior) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut learned = self.lock();
        if let Some(first_token_secs) = sample.first_token_secs {
            learned.first_token.add(first_token_secs);
            let round_trip = self.round_trip_secs.get().unwrap_or(0.0);
            let read = f64::from(sample.prompt_tokens.saturating_sub(sample.cached_tokens)) + BEGINNING_TOKENS;
            let secs = (first_token_secs - round_trip).max(0.0) / f64::from(sample.ahead + 1);
            learned.prompt_secs = learned.prompt_secs * KEEP + secs;
            learned.prompt_tokens = learned.prompt_tokens * KEEP + read;
            let (known_tokens, known) = (PRIOR_JOBS * BEGINNING_TOKENS, prior.secs_per_prompt_token);
            let figure = (learned.prompt_secs + known_tokens * known) / (learned.prompt_tokens + known_tokens);
            self.secs_per_prompt_token.set(figure.clamp(*PROMPT_SECS.start(), *PROMPT_SECS.end()));
        }
        if sample.later_tokens > 0 && sample.later_secs > 0.0 {
            learned.speed.add(f64::from(sample.later_tokens) / sample.later_secs);
            learned.output_tokens = learned.output_tokens * KEEP + f64::from(sample.later_tokens);
            learned.output_secs = learned.output_secs * KEEP + sample.later_secs / slowdown(sample.crowd);
            let known_secs = PRIOR_JOBS;
            let figure =
                (learned.output_tokens + known_secs * prior.tokens_per_sec) / (learned.output_secs + known_secs);
            self.tokens_per_sec.set(figure.clamp(*SPEEDS.start(), *SPEEDS.end()));
        }
        if sample.expected_cached && sample.prompt_tokens > 0 {
            let share = f64::from(sample.cached_tokens) / f64::from(sample.prompt_tokens);
            let before = self.cached_share.get().unwrap_or(CACHED_SHARE);
            self.cached_share.set(before * 0.9 + share.min(1.0) * 0.1);
        }
        self.failures.set(self.failures.get().unwrap_or(FAILURES) * KEEP);
    }

    /// A job failed, by the provider's own fault.
    pub fn failed(&self) {
        let _one_at_a_time = self.lock();
        self.failures.set(self.failures.get().unwrap_or(FAILURES) * KEEP + (1.0 - KEEP));
    }

    /// It took so long to the provider and back.
    pub fn round_trip(&self, secs: f64) {
        let before = self.round_trip_secs.get().unwrap_or(secs);
        // Waiting makes a round trip longer, never shorter: what is less counts for more.
        let weight = if secs < before { 0.5 } else { 0.1 };
        self.round_trip_secs.set(before + (secs - before) * weight);
    }

    /// It takes so long there and back for others who are where it says it is; counts until it has been measured.
    pub fn suppose_round_trip(&self, secs: f64) {
        self.supposed_round_trip_secs.set(secs);
    }

    /// Whether it has read a prompt with this beginning lately.
    pub fn has_read(&self, prefix: u64) -> bool {
        let (at, mark) = remembered(prefix);
        self.prefixes[at].load(Ordering::Relaxed) == mark
    }

    /// Prompts that wait for their first token.
    pub fn unread(&self) -> u32 {
        self.unread.load(Ordering::Relaxed)
    }

    /// Gives it a number among the providers of its model. Its bit is set where it has room: [`Self::look`].
    pub fn stand(&self, vacancies: &Arc<Vacancies>, at: usize, slots: u32, running: impl Fn() -> u32) {
        self.place.store(Some(Arc::new(Place { vacancies: vacancies.clone(), at, slots })));
        vacancies.count(i64::from(running().min(slots)));
        self.look(running);
    }

    /// Sets its bit by whether it has room, which is asked again after a bit was cleared: a slot may have come free.
    pub fn look(&self, running: impl Fn() -> u32) {
        let place = self.place.load();
        let Some(place) = &*place else { return };
        let has_room = || running() < place.slots; // by the latest offer, which the caller may not know yet
        if !has_room() {
            place.vacancies.clear(place.at);
        }
        if has_room() {
            place.vacancies.set(place.at);
        }
    }

    /// A job began or ended here.
    pub fn count(&self, jobs: i64) {
        if let Some(place) = &*self.place.load() {
            place.vacancies.count(jobs);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's prompt, from the moment that it is sent until its first token.
#[derive(Debug)]
pub struct Unread {
    vitals: Arc<Vitals>,
    /// Prompts that were ahead of it.
    pub ahead: u32,
    /// Whether the provider had read one with the same beginning.
    pub expected_cached: bool,
    is_over: AtomicBool,
}

impl Unread {
    /// Sends a prompt.
    pub fn send(vitals: &Arc<Vitals>, prefix: Prefix) -> Self {
        let ahead = vitals.unread.fetch_add(1, Ordering::Relaxed);
        let (at, mark) = remembered(prefix.hash);
        let expected_cached = vitals.prefixes[at].swap(mark, Ordering::Relaxed) == mark;
        Self { vitals: vitals.clone(), ahead, expected_cached, is_over: AtomicBool::new(false) }
    }

    /// Its first token is there, or it has failed.
    pub fn end(&self) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.vitals.unread.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a beginning is remembered, and as what; never as nothing.
fn remembered(prefix: u64) -> (usize, u32) {
    ((prefix % REMEMBERED as u64) as usize, ((prefix >> 32) as u32).max(1))
}
