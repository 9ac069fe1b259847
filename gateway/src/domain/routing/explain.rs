//! Taking note of who was compared, for a client that asks why.

use lumbung_openapi::chat::routing::Sort;
use lumbung_openapi::explain::{ExplainedCandidate, Explanation, MAX_EXPLAINED};

use super::Candidate;
use super::roster::{Considered, Errand, Roster, Source};

/// Who was compared: the best few, and how many in all.
#[derive(Debug, Default)]
pub struct Notes {
    best: Vec<Considered>,
    compared: usize,
}

impl Notes {
    /// Takes note of one.
    pub fn take(&mut self, considered: &Considered) {
        self.compared += 1;
        if self.best.iter().any(|known| known.at == considered.at) {
            return; // it was drawn twice
        }
        let place = self.best.partition_point(|known| known.compare(considered).is_le());
        if place < MAX_EXPLAINED {
            self.best.truncate(MAX_EXPLAINED - 1);
            self.best.insert(place, *considered);
        }
    }

    /// Tells of them: the best is the one that was chosen.
    pub fn explain<S: Candidate>(
        &self,
        roster: &Roster<S>,
        errand: &Errand<'_>,
        model: &str,
        attempt: u32,
    ) -> Explanation {
        let candidate = |considered: &Considered| {
            let (seat, cost) = (&*roster[considered.at], considered.cost);
            ExplainedCandidate {
                provider: seat.provider().to_string(),
                from: source(considered.source).into(),
                newcomer: seat.standing() == crate::domain::provider::Standing::Newcomer,
                price_usd: cost.price,
                first_token_secs: milliseconds(cost.first_token_secs),
                cached_secs: milliseconds(cost.cached_secs),
                output_secs: milliseconds(cost.output_secs),
                risk_secs: milliseconds(cost.risk_secs),
                running: seat.running(),
                slots: seat.slots(),
            }
        };
        let by = match errand.routing.sort {
            None => "balance",
            Some(Sort::Price) => "price",
            Some(Sort::Throughput) => "throughput",
            Some(Sort::Latency) => "latency",
        };
        Explanation {
            model: model.into(),
            attempt,
            providers: roster.len(),
            compared: self.compared,
            by: by.into(),
            second_usd: errand.second,
            candidates: self.best.iter().map(candidate).collect(),
        }
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Prefix => "prefix",
        Source::Draw => "draw",
        Source::Vacancy => "vacancy",
        Source::All => "all",
    }
}

fn milliseconds(secs: f64) -> f64 {
    (secs * 1000.0).round() / 1000.0
}
