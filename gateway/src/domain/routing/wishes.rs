//! Whether a provider is what the client has asked for, in OpenRouter's words ([`Routing`]).

use lumbung_openapi::chat::routing::{Routing, Sort};
use lumbung_openapi::money::NanoUsd;

use super::Candidate;
use super::cost::Worth;
use super::vitals::{Prior, Vitals};

/// A wish that leaves a provider out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `only` does not name it.
    Only,
    /// `order` does not name it, and nobody else may serve.
    Order,
    /// `ignore` names it.
    Ignore,
    /// Its weights are quantized otherwise.
    Quantizations,
}

impl Wish {
    /// All of them, in the order that they are told of.
    pub const ALL: [Self; 4] = [Self::Only, Self::Order, Self::Ignore, Self::Quantizations];

    /// The request's member.
    pub fn param(self) -> &'static str {
        match self {
            Self::Only => "provider.only",
            Self::Order => "provider.order",
            Self::Ignore => "provider.ignore",
            Self::Quantizations => "provider.quantizations",
        }
    }

    /// Whether it allows this provider.
    pub fn allows(self, routing: &Routing, candidate: &impl Candidate) -> bool {
        let is_called =
            |name: &str| name == candidate.provider().as_str() || candidate.name().is_some_and(|own| own.is(name));
        let named = |names: &[String]| names.iter().any(|name| is_called(name));
        match self {
            Self::Only => routing.only.is_empty() || named(&routing.only),
            Self::Order => routing.allow_fallbacks || routing.order.is_empty() || named(&routing.order),
            Self::Ignore => !named(&routing.ignore),
            Self::Quantizations => {
                routing.quantizations.is_empty() || routing.quantizations.contains(&known(candidate.quantization()))
            }
        }
    }
}

/// Whether nothing speaks against this provider.
pub fn allows(routing: &Routing, candidate: &impl Candidate) -> bool {
    Wish::ALL.into_iter().all(|wish| wish.allows(routing, candidate))
}

/// The first wish that leaves none of `candidates`, where one does.
pub fn nobody<'a, S: Candidate + 'a>(routing: &Routing, candidates: impl Iterator<Item = &'a S>) -> Option<Wish> {
    let mut left: Vec<&S> = candidates.collect();
    Wish::ALL.into_iter().find(|wish| {
        left.retain(|candidate| wish.allows(routing, *candidate));
        left.is_empty()
    })
}

/// Whether a provider is as fast as the client would like; one that has not been measured is taken for an average one.
pub fn is_fast_enough(routing: &Routing, vitals: &Vitals, prior: &Prior, first_token_secs: f64) -> bool {
    let speed = |share| vitals.reached_tokens_per_sec(share).unwrap_or(prior.tokens_per_sec);
    let latency = |share| vitals.first_token_secs(share).unwrap_or(first_token_secs);
    routing.preferred_min_throughput.iter().all(|(share, least)| speed(share) >= least)
        && routing.preferred_max_latency.iter().all(|(share, most)| latency(share) <= most)
}

/// What a second is worth to whoever asks like this; `second`, where nothing else is said.
pub fn worth(sort: Option<Sort>, second: NanoUsd) -> Worth {
    match sort {
        None => Worth::balanced(second),
        Some(Sort::Price) => Worth::price(),
        Some(Sort::Throughput) => Worth::throughput(),
        Some(Sort::Latency) => Worth::latency(),
    }
}

/// A quantization by OpenRouter's name for it; `unknown` where it has none.
pub fn known(quantization: &str) -> &'static str {
    let lower = quantization.to_ascii_lowercase();
    let name = match lower.as_str() {
        "f32" => "fp32",
        "f16" => "fp16",
        other => other,
    };
    lumbung_openapi::chat::routing::QUANTIZATIONS.into_iter().find(|known| *known == name).unwrap_or("unknown")
}
