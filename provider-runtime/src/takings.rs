//! What this provider's receipts claim, by its own reckoning: the gateway's statement says what is paid. Kept by model since
//! the start, and for all of them over the last hour.

use std::sync::{Mutex, PoisonError};

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;

use crate::status::Counter;

/// Minutes that are kept one by one.
const MINUTES: usize = 60;

/// What one model has done since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Jobs that are over, however they ended.
    pub jobs: Counter,
    /// Completion tokens that were sent.
    pub tokens: Counter,
    /// What the receipts claim, in nano-dollars.
    claimed: Counter,
    /// Microseconds that slots were taken, added up over all slots.
    busy_us: Counter,
}

impl Tally {
    /// A job is over.
    pub fn note(&self, tokens: u32, claimed: NanoUsd, took_us: u64) {
        self.jobs.add(1);
        self.tokens.add(u64::from(tokens));
        self.claimed.add(u64::try_from(claimed.nanos()).unwrap_or(0));
        self.busy_us.add(took_us);
    }

    /// What its receipts claim.
    pub fn claimed(&self) -> NanoUsd {
        NanoUsd::from_nanos(i64::try_from(self.claimed.get()).unwrap_or(i64::MAX))
    }

    /// What an hour would bring with every slot taken, as jobs went so far. `None` before there were any.
    pub fn per_busy_hour(&self, slots: u32) -> Option<NanoUsd> {
        const HOUR_US: i128 = 3_600_000_000;
        let all = i128::from(self.claimed().nanos()) * HOUR_US * i128::from(slots);
        let nanos = all.checked_div(i128::from(self.busy_us.get()))?;
        Some(NanoUsd::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX)))
    }
}

/// What receipts claimed in each of the last minutes.
#[derive(Debug)]
pub struct Takings(Mutex<[(u64, i64); MINUTES]>);

impl Default for Takings {
    fn default() -> Self {
        Self(Mutex::new([(0, 0); MINUTES]))
    }
}

impl Takings {
    /// So much is claimed at that time (Unix seconds).
    pub fn add(&self, claimed: NanoUsd, now_secs: u64) {
        let minute = now_secs / 60;
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut minutes[(minute % MINUTES as u64) as usize];
        if kept.0 != minute {
            *kept = (minute, 0);
        }
        kept.1 = kept.1.saturating_add(claimed.nanos());
    }

    /// What was claimed in the hour up to that time.
    pub fn last_hour(&self, now_secs: u64) -> NanoUsd {
        let now = now_secs / 60;
        let minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = minutes.iter().filter(|(minute, _)| now.saturating_sub(*minute) < MINUTES as u64);
        NanoUsd::from_nanos(latest.fold(0, |sum: i64, (_, nanos)| sum.saturating_add(*nanos)))
    }
}

/// What a receipt claims for so many tokens: the ticket's price up to its ceiling, less the operator's fee.
pub fn claim(ticket: &Ticket, prompt_tokens: u32, completion_tokens: u32) -> NanoUsd {
    let (prompt, completion) =
        (prompt_tokens.min(ticket.max_prompt_tokens), completion_tokens.min(ticket.max_completion_tokens));
    let gross = ticket.price.cost(prompt, completion).map_or(ticket.ceiling, |cost| cost.min(ticket.ceiling));
    gross.checked_sub(gross.basis_points(ticket.fee_bps)).unwrap_or(NanoUsd::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> NanoUsd {
        text.parse().unwrap()
    }

    #[test]
    fn an_hour_is_what_was_claimed_in_its_sixty_minutes() {
        let takings = Takings::default();
        let begun = 1_795_564_800;
        takings.add(usd("0.25"), begun);
        takings.add(usd("0.25"), begun + 59);
        takings.add(usd("1"), begun + 1800);
        assert_eq!(takings.last_hour(begun + 1800), usd("1.5"));
        assert_eq!(takings.last_hour(begun + 3599), usd("1.5"));
        assert_eq!(takings.last_hour(begun + 3600), usd("1"), "the first minute is too long ago");
        takings.add(usd("2"), begun + 3600);
        assert_eq!(takings.last_hour(begun + 3600), usd("3"), "its place is taken by the latest");
        assert_eq!(takings.last_hour(begun + 86_400), NanoUsd::ZERO);
    }

    #[test]
    fn a_busy_hour_is_extrapolated_from_jobs_that_ran() {
        let tally = Tally::default();
        assert_eq!(tally.per_busy_hour(4), None);
        tally.note(100, usd("0.001"), 2_000_000);
        tally.note(50, usd("0.002"), 4_000_000);
        assert_eq!((tally.jobs.get(), tally.tokens.get(), tally.claimed()), (2, 150, usd("0.003")));
        // 0.003 dollars in 6 seconds of one slot
        assert_eq!(tally.per_busy_hour(1), Some(usd("1.8")));
        assert_eq!(tally.per_busy_hour(4), Some(usd("7.2")));
    }
}
