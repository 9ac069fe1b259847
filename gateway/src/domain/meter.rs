//! What this gateway counts of itself, for Prometheus: numbers that only grow and times. What is so at a moment is asked of
//! whoever knows it when Prometheus asks (`http/metrics.rs`).

use lumbung_openapi::money::NanoUsd;
use lumbung_telemetry::genai::{DURATION_US, FIRST_TOKEN_US, PER_TOKEN_US};
use lumbung_telemetry::metric::{Counter, Histogram, Tally};

use super::settlement::{Charge, Counted};

/// From an answer's end to its charge in the books, in microseconds.
static LAG_US: [u64; 12] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 15_000_000, 60_000_000];
/// A wait in line, in microseconds.
static WAIT_US: [u64; 9] = [10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// Of one model of the catalogue.
pub struct ModelMeter {
    /// Requests that were admitted, by how they ended: `complete`, `client_gone`, or an error's kind.
    pub outcomes: Tally,
    /// Providers' attempts, by how they ended: `complete`, or why they broke off.
    pub attempts: Tally,
    /// Attempts that went on with what another had begun.
    pub continued: Counter,
    /// Prompt tokens charged.
    pub prompt_tokens: Counter,
    /// How many of them came from a prefix cache.
    pub cached_tokens: Counter,
    /// Completion tokens charged.
    pub completion_tokens: Counter,
    /// How many of them were spent on reasoning.
    pub reasoning_tokens: Counter,
    /// What clients were charged, in nano-dollars…
    pub charged: Counter,
    /// …and the operator's part of it.
    pub fees: Counter,
    /// From request to end.
    pub duration: Histogram,
    /// From request to the first token.
    pub first_token: Histogram,
    /// Of each token after the first, one value for each answer.
    pub per_token: Histogram,
    /// In line for a slot, of those that had to wait.
    pub waits: Histogram,
    /// What became of counts that were checked, by the tokens' own kind of outcome.
    pub recounts: Tally,
}

impl Default for ModelMeter {
    fn default() -> Self {
        Self {
            outcomes: Tally::of(&["complete", "client_gone", "provider_failed", "all_busy", "books_unavailable"]),
            attempts: Tally::of(&["complete", "client_gone", "declined", "provider_failed", "gateway_lost"]),
            continued: Counter::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            completion_tokens: Counter::default(),
            reasoning_tokens: Counter::default(),
            charged: Counter::default(),
            fees: Counter::default(),
            duration: Histogram::new(&DURATION_US),
            first_token: Histogram::new(&FIRST_TOKEN_US),
            per_token: Histogram::new(&PER_TOKEN_US),
            waits: Histogram::new(&WAIT_US),
            recounts: Tally::of(&["counted", "lower", "late", "failed"]),
        }
    }
}

impl ModelMeter {
    /// Money that was charged.
    pub fn charge(&self, charge: &Charge) {
        let nanos = |amount: NanoUsd| u64::try_from(amount.nanos()).unwrap_or(0);
        self.charged.add(nanos(charge.amount));
        self.fees.add(nanos(charge.fee));
    }
}

/// Of the fleet.
pub struct FleetMeter {
    /// Tunnels that were opened.
    pub tunnels_opened: Counter,
    /// Tunnels that ended, by why.
    pub tunnels_ended: Tally,
    /// Offers that did not come.
    pub missed_offers: Counter,
}

impl Default for FleetMeter {
    fn default() -> Self {
        Self {
            tunnels_opened: Counter::default(),
            tunnels_ended: Tally::of(&["closed", "broken", "silent", "made_way"]),
            missed_offers: Counter::default(),
        }
    }
}

/// Of the gateway as a whole.
pub struct GatewayMeter {
    /// Requests that were told no, by the error's kind.
    pub refusals: Tally,
    /// Requests by endpoint.
    pub endpoints: Tally,
    /// From an answer's end to its charge in the books.
    pub settlement_lag: Histogram,
    /// Batches that the books did not take at once.
    pub settlement_failures: Counter,
    /// Attempts settled at no charge, because their allowance had been released.
    pub uncovered: Counter,
    /// Background work that failed, by its name.
    pub background_failures: Tally,
}

impl Default for GatewayMeter {
    fn default() -> Self {
        Self {
            refusals: Tally::of(&["all_busy", "no_provider", "overloaded", "books_unavailable", "provider_failed"]),
            endpoints: Tally::default(),
            settlement_lag: Histogram::new(&LAG_US),
            settlement_failures: Counter::default(),
            uncovered: Counter::default(),
            background_failures: Tally::of(&["lease", "follow", "give_back", "roll_up", "mature"]),
        }
    }
}

impl Counted {
    /// The mean time of each token after the first, in microseconds; `None` where there was no second one.
    pub fn per_token_us(&self) -> Option<u64> {
        let later = u64::from(self.completion_tokens.checked_sub(1)?);
        let us = u64::try_from(self.finished_us - self.first_token_us?).ok()?;
        us.checked_div(later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_per_token_is_that_after_the_first() {
        let counted = |completion_tokens, first_token_us| Counted {
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens,
            delivered_sha256: None,
            finish_reason: "stop".into(),
            received_us: 0,
            started_us: 100,
            first_token_us,
            finished_us: 10_000,
        };
        assert_eq!(counted(5, Some(2000)).per_token_us(), Some(2000));
        for none in [counted(0, Some(2000)), counted(1, Some(2000)), counted(5, None)] {
            assert_eq!(none.per_token_us(), None);
        }
    }
}
