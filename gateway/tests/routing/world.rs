//! Providers and requests that are made up, the same ones for the same seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::provider::Standing;
use lumbung_gateway::domain::routing::Candidate;
use lumbung_gateway::domain::routing::cost::{BEGINNING_TOKENS, slowdown};
use lumbung_gateway::domain::routing::dice::Dice;
use lumbung_gateway::domain::routing::names::ProviderName;
use lumbung_gateway::domain::routing::vitals::Vitals;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};

/// A provider, as it is and not as it is believed to be.
pub struct Stand {
    id: ProviderId,
    ask: TokenPrice,
    slots: u32,
    running: AtomicU32,
    vitals: Arc<Vitals>,
    /// Seconds to read a token of a prompt.
    pub secs_per_prompt_token: f64,
    /// Tokens per second of an answer, alone.
    pub tokens_per_sec: f64,
    /// Seconds there and back.
    pub round_trip_secs: f64,
    /// Share of jobs that it fails.
    pub failures: f64,
    /// How many beginnings of prompts fit into its cache.
    pub cache: usize,
}

/// A request.
#[derive(Clone, Copy)]
pub struct Request {
    /// Seconds since the beginning.
    pub at: f64,
    /// How its prompt begins.
    pub prefix: u64,
    /// Tokens of that beginning.
    pub prefix_tokens: u32,
    /// Tokens of the whole prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}

impl Stand {
    /// A machine of some kind: a few are fast, most are modest; dear and cheap ones are among both.
    pub fn new(number: usize, dice: &mut Dice) -> Self {
        let size = normal(dice); // how big a machine it is
        let like =
            |middle: f64, spread: f64, dice: &mut Dice| middle * (spread * (0.8 * size + 0.6 * normal(dice))).exp();
        let ask = (0.30 * (0.4 * normal(dice)).exp() * 1e9) as i64;
        Self {
            id: Hash::of(&number.to_le_bytes()).to_string().parse().expect("a thumbprint"),
            ask: TokenPrice { prompt: NanoUsd::from_nanos(ask / 4), completion: NanoUsd::from_nanos(ask) },
            slots: like(6.0, 0.7, dice).clamp(1.0, 64.0) as u32,
            running: AtomicU32::new(0),
            vitals: Arc::new(Vitals::new(0)),
            secs_per_prompt_token: 1.0 / like(2000.0, 0.8, dice).clamp(100.0, 20_000.0),
            tokens_per_sec: like(40.0, 0.5, dice).clamp(5.0, 250.0),
            round_trip_secs: 0.04 * (0.7 * normal(dice)).exp(),
            failures: if dice.unit() < 0.1 { 0.05 + 0.15 * dice.unit() } else { 0.002 },
            cache: like(30.0, 0.7, dice).clamp(4.0, 200.0) as usize,
        }
    }

    /// Takes a slot.
    pub fn take(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.vitals.count(1);
        if !self.has_room() {
            self.vitals.look(|| self.running());
        }
    }

    /// Gives it back.
    pub fn give_back(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.vitals.count(-1);
        self.vitals.look(|| self.running());
    }

    /// What is believed of it.
    pub fn shared_vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// Seconds that it takes to read a prompt of which so much is cached.
    pub fn reading_secs(&self, prompt_tokens: u32, cached_tokens: u32) -> f64 {
        self.secs_per_prompt_token * (f64::from(prompt_tokens - cached_tokens) + BEGINNING_TOKENS)
    }

    /// Seconds that it takes to answer.
    pub fn writing_secs(&self, completion_tokens: u32) -> f64 {
        f64::from(completion_tokens) / self.tokens_per_sec * slowdown(self.crowd())
    }

    /// A clean copy.
    pub fn afresh(&self) -> Self {
        Self { id: self.id.clone(), running: AtomicU32::new(0), vitals: Arc::new(Vitals::new(0)), ..*self }
    }
}

impl Candidate for Stand {
    fn provider(&self) -> &ProviderId {
        &self.id
    }

    fn name(&self) -> Option<&ProviderName> {
        None
    }

    fn standing(&self) -> Standing {
        Standing::Trusted
    }

    fn ask(&self) -> TokenPrice {
        self.ask
    }

    fn quantization(&self) -> &str {
        "bf16"
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn running(&self) -> u32 {
        self.running.load(Ordering::SeqCst)
    }

    fn vitals(&self) -> &Vitals {
        &self.vitals
    }
}

/// Requests that come at random, `per_sec` of them on average. Half belong to applications with long instructions, some of
/// which are far more popular than others; half to conversations of some turns.
pub fn requests(number: usize, per_sec: f64, dice: &mut Dice) -> Vec<Request> {
    let (mut at, mut open) = (0.0, VecDeque::<(u64, u32)>::new());
    let mut conversation = 1 << 40;
    (0..number)
        .map(|_| {
            at -= (1.0 - dice.unit()).ln() / per_sec;
            let own = (150.0 * normal(dice).exp()).clamp(10.0, 4000.0) as u32;
            let (prefix, prefix_tokens) = if dice.unit() < 0.5 {
                // By Zipf's law: the tenth most popular of 2000 is asked a tenth as often as the first.
                let application = (2000_f64.powf(dice.unit())) as u64;
                (application, 300 + (application % 17) as u32 * 150)
            } else if let Some((conversation, so_far)) = (dice.unit() < 0.75).then(|| open.pop_front()).flatten() {
                (conversation, so_far)
            } else {
                conversation += 1;
                (conversation, 0)
            };
            let completion_tokens = (180.0 * (0.8 * normal(dice)).exp()).clamp(5.0, 2000.0) as u32;
            let prompt_tokens = prefix_tokens + own;
            if prefix > 1 << 40 {
                open.push_back((prefix, prompt_tokens + completion_tokens));
            }
            Request { at, prefix, prefix_tokens, prompt_tokens, completion_tokens }
        })
        .collect()
}

/// Normally distributed, about 0 with a deviation of 1 (Box and Muller).
fn normal(dice: &mut Dice) -> f64 {
    (-2.0 * (1.0 - dice.unit()).ln()).sqrt() * (std::f64::consts::TAU * dice.unit()).cos()
}
