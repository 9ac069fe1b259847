//! Ways to choose a provider: the gateway's, and simpler ones to compare it with.

use std::sync::Arc;

use lumbung_gateway::domain::routing::Candidate;
use lumbung_gateway::domain::routing::cost::Work;
use lumbung_gateway::domain::routing::dice::{Dice, mix};
use lumbung_gateway::domain::routing::prefix::Prefix;
use lumbung_gateway::domain::routing::roster::{Errand, Roster};
use lumbung_openapi::chat::routing::Routing;
use lumbung_openapi::money::NanoUsd;

use crate::world::{Request, Stand};

/// What a second of the client's time counts for: the gateway's default.
pub const SECOND: NanoUsd = NanoUsd::from_nanos(20_000);
/// How often providers are weighed anew: as the gateway does it.
const WEIGH_EVERY_SECS: f64 = 5.0;
/// Tokens of the answer that the gateway reckons with: it cannot know how long it will be.
const LIKELY_COMPLETION_TOKENS: u32 = 512;

/// How a provider is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As the gateway does it.
    Lumbung,
    /// Any that has room.
    Random,
    /// One after the other.
    RoundRobin,
    /// The smallest share of slots taken; looks at everyone.
    LeastLoaded,
    /// The lowest price; looks at everyone.
    Cheapest,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lumbung, Self::Random, Self::RoundRobin, Self::LeastLoaded, Self::Cheapest];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lumbung => "lumbung",
            Self::Random => "random",
            Self::RoundRobin => "round robin",
            Self::LeastLoaded => "least loaded",
            Self::Cheapest => "cheapest",
        }
    }
}

/// A way to choose, at work.
pub struct Chooser {
    policy: Policy,
    stands: Vec<Arc<Stand>>,
    roster: Roster<Stand>,
    weighed_at: f64,
    next: usize,
    routing: Routing,
}

impl Chooser {
    pub fn new(policy: Policy, stands: &[Arc<Stand>]) -> Self {
        let (stands, routing) = (stands.to_vec(), Routing::default());
        Self { policy, roster: Roster::new(stands.clone(), SECOND), stands, weighed_at: 0.0, next: 0, routing }
    }

    /// What the gateway assumes of those that it has not measured.
    pub fn roster(&self) -> &Roster<Stand> {
        &self.roster
    }

    /// Who gets the request: one that has room and has not failed it already, if there is one.
    pub fn choose(&mut self, now: f64, request: &Request, tried: &[usize], dice: &mut Dice) -> Option<Arc<Stand>> {
        let is_new = |stand: &Stand| !tried.iter().any(|at| std::ptr::eq(&*self.stands[*at], stand));
        let can = |stand: &&Arc<Stand>| stand.has_room() && is_new(stand);
        match self.policy {
            Policy::Lumbung => {
                if now - self.weighed_at > WEIGH_EVERY_SECS {
                    self.roster = Roster::new(self.stands.clone(), SECOND);
                    self.weighed_at = now;
                }
                let errand = Errand {
                    work: Work {
                        prompt_tokens: request.prompt_tokens,
                        prefix_tokens: request.prefix_tokens.min(256),
                        completion_tokens: LIKELY_COMPLETION_TOKENS,
                    },
                    prefix: Prefix { hash: mix(request.prefix), tokens: request.prefix_tokens.clamp(1, 256) },
                    routing: &self.routing,
                    second: SECOND,
                    now_us: (now * 1e6) as i64,
                };
                let chosen = self.roster.choose(&errand, dice, is_new, |_| {})?;
                Some(self.roster[chosen.at].clone())
            }
            Policy::Random => {
                let lucky = (0..32).find_map(|_| {
                    let stand = &self.stands[dice.below(self.stands.len() as u64) as usize];
                    can(&stand).then(|| stand.clone())
                });
                lucky.or_else(|| self.stands.iter().find(can).cloned())
            }
            Policy::RoundRobin => {
                let (before, after) = self.stands.split_at(self.next);
                let found = after.iter().chain(before).enumerate().find(|(_, stand)| can(stand));
                let (passed, stand) = found.map(|(passed, stand)| (passed, stand.clone()))?;
                self.next = (self.next + passed + 1) % self.stands.len();
                Some(stand)
            }
            Policy::LeastLoaded => {
                self.stands.iter().filter(can).min_by(|a, b| a.crowd().total_cmp(&b.crowd())).cloned()
            }
            Policy::Cheapest => self.stands.iter().filter(can).min_by_key(|stand| stand.ask().completion).cloned(),
        }
    }
}
