//! What one key or account has used of its limits: checked and taken in one step, corrected when the answer is over.

use lumbung_openapi::money::NanoUsd;

use super::bucket::{Bucket, Rate};
use super::{Limits, Period, Spent};
use crate::domain::calendar::Day;

/// What a request may come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Prompt and completion tokens, estimated.
    pub tokens: u64,
    /// The most that it may cost.
    pub ceiling: NanoUsd,
}

/// Which limit a request is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// What was spent, what is in flight and this come to more than the budget.
    Budget {
        /// Which one.
        period: Period,
        /// How much it is.
        budget: NanoUsd,
        /// How much of it is spent or in flight.
        used: NanoUsd,
        /// When the next period begins; never for all time.
        resets: Option<Day>,
    },
    /// Too many requests in a minute.
    Requests {
        /// The limit.
        limit: u32,
        /// Microseconds until there is room.
        wait_us: i64,
    },
    /// Too many tokens in a minute.
    Tokens {
        /// The limit.
        limit: u32,
        /// How many this request may come to.
        asked: u64,
        /// Microseconds until there is room; `None`: it is larger than the limit.
        wait_us: Option<i64>,
    },
    /// Too many requests at a time.
    Concurrent {
        /// The limit.
        limit: u32,
    },
}

/// Where the rates per minute stand, of those that are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests.
    pub requests: Option<Rate>,
    /// Tokens.
    pub tokens: Option<Rate>,
}

impl Rates {
    /// Of each rate the one with less left.
    pub fn tighter(self, other: Self) -> Self {
        let tighter = |a: Option<Rate>, b: Option<Rate>| [a, b].into_iter().flatten().min_by_key(|rate| rate.remaining);
        Self { requests: tighter(self.requests, other.requests), tokens: tighter(self.tokens, other.tokens) }
    }
}

/// The counters of one key or account at this replica. They count whether or not there is a limit, so that a new limit
/// finds what is in flight.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    requests: Bucket,
    tokens: Bucket,
    running: u32,
    /// What answers in flight may cost, and what ended ones did cost and the books do not have yet.
    held: i64,
    /// Charges of this replica that are in the books, as far as it has been counting.
    own: Spent,
    /// What the books had of others, and of this replica before it counted; what can still change is in `recent`.
    others: Spent,
    /// What the books had of others' last minute, when they were last read.
    recent: Spent,
    /// The days that `others` reaches back to; `None`: the books have not been read.
    since: Option<Day>,
}

impl Gauge {
    /// Whether a request is within `limits` now. Changes nothing but lets time pass.
    pub fn check(&mut self, limits: &Limits, ask: Ask, now_us: i64) -> Result<(), Denied> {
        self.afford(limits, ask.ceiling, now_us)?;
        if let Some(limit) = limits.requests_per_minute {
            self.requests.advance(limit, now_us);
            match self.requests.wait_us(limit, 1) {
                Some(0) => {}
                wait_us => return Err(Denied::Requests { limit, wait_us: wait_us.unwrap_or(i64::MAX) }),
            }
        }
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.advance(limit, now_us);
            match self.tokens.wait_us(limit, ask.tokens) {
                Some(0) => {}
                wait_us => return Err(Denied::Tokens { limit, asked: ask.tokens, wait_us }),
            }
        }
        match limits.concurrent_requests {
            Some(limit) if self.running >= limit => Err(Denied::Concurrent { limit }),
            _ => Ok(()),
        }
    }

    /// Whether `more` is within the budgets, beside what is spent and in flight.
    pub fn afford(&mut self, limits: &Limits, more: NanoUsd, now_us: i64) -> Result<(), Denied> {
        let today = Day::of_us(now_us);
        for period in Period::ALL {
            let Some(budget) = limits.budgets.of(period) else { continue };
            let used = self.spent(period, today).nanos().saturating_add(self.held);
            if used.saturating_add(more.nanos()) > budget.nanos() {
                let (used, resets) = (NanoUsd::from_nanos(used), period.next_day(today));
                return Err(Denied::Budget { period, budget, used, resets });
            }
        }
        Ok(())
    }

    /// Counts a request in that [`Self::check`] has let pass.
    pub fn take(&mut self, limits: &Limits, ask: Ask) {
        // Without a limit nothing flows back, so nothing may be taken.
        if limits.requests_per_minute.is_some() {
            self.requests.take(1);
        }
        if limits.tokens_per_minute.is_some() {
            self.tokens.take(i64::try_from(ask.tokens).unwrap_or(i64::MAX));
        }
        self.running += 1;
        self.hold(ask.ceiling);
    }

    /// Holds more of the budgets for a request in flight.
    pub fn hold(&mut self, more: NanoUsd) {
        self.held = self.held.saturating_add(more.nanos());
    }

    /// Ends a request: it used so many tokens, of those that it asked for. Its money stays held.
    pub fn end(&mut self, limits: &Limits, asked: u64, used: u64) {
        let signed = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        if limits.tokens_per_minute.is_some() {
            self.tokens.take(signed(used) - signed(asked));
        }
        self.running = self.running.saturating_sub(1);
    }

    /// Lets go of what was held.
    pub fn release(&mut self, held: NanoUsd) {
        self.held = self.held.saturating_sub(held.nanos());
    }

    /// A charge is in the books.
    pub fn spend(&mut self, charge: NanoUsd, now_us: i64) {
        let today = Day::of_us(now_us);
        self.own.add(today, charge);
        self.own.forget(today);
    }

    /// What was spent in the period that `today` belongs to, as far as this replica knows.
    pub fn spent(&self, period: Period, today: Day) -> NanoUsd {
        let parts = [&self.own, &self.others, &self.recent];
        let sum = parts.into_iter().fold(0i64, |sum, part| sum.saturating_add(part.within(period, today).nanos()));
        NanoUsd::from_nanos(sum)
    }

    /// Charges of this replica that it has counted: read before the books are, see [`Self::learn`].
    pub fn own(&self) -> Spent {
        self.own.clone()
    }

    /// Takes over what the books have `since` a day: other replicas' charges, those of the `recent` past apart, and this
    /// one's, of which it had counted `counted` just before they were read. What came to the books in between is counted
    /// twice, never left out.
    pub fn learn(&mut self, since: Day, mut others: Spent, recent: Spent, own: &Spent, counted: &Spent) {
        others.add_all(&own.without(counted));
        (self.since, self.others, self.recent) = (Some(since), others, recent);
    }

    /// Takes over what has come since: charges of others that are not `recent` any more, and those that are.
    pub fn follow(&mut self, others: &Spent, recent: Spent, now_us: i64) {
        self.others.add_all(others);
        self.others.forget(Day::of_us(now_us));
        self.recent = recent;
    }

    /// Whether it knows what was spent from that day on.
    pub fn knows(&self, since: Day) -> bool {
        self.since.is_some_and(|known| known <= since)
    }

    /// Where the rates stand.
    pub fn rates(&mut self, limits: &Limits, now_us: i64) -> Rates {
        let rate = |bucket: &mut Bucket, limit: Option<u32>| {
            limit.map(|limit| {
                bucket.advance(limit, now_us);
                bucket.rate(limit)
            })
        };
        Rates {
            requests: rate(&mut self.requests, limits.requests_per_minute),
            tokens: rate(&mut self.tokens, limits.tokens_per_minute),
        }
    }

    /// Whether nothing is in flight, so that all it knows of money is in the books.
    pub fn is_idle(&self) -> bool {
        self.running == 0 && self.held == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_795_386_601_000_000; // 2026-11-22, a Sunday

    fn usd(nanos: i64) -> NanoUsd {
        NanoUsd::from_nanos(nanos)
    }

    fn budget(period: Period, nanos: i64) -> Limits {
        let mut limits = Limits::default();
        limits.budgets.set(period, Some(usd(nanos)));
        limits
    }

    fn ask(ceiling: i64) -> Ask {
        Ask { tokens: 10, ceiling: usd(ceiling) }
    }

    #[test]
    fn what_is_in_flight_counts_against_the_budget_until_it_is_known() {
        let (mut gauge, limits) = (Gauge::default(), budget(Period::Day, 100));
        assert_eq!(gauge.check(&limits, ask(60), NOW), Ok(()));
        gauge.take(&limits, ask(60));
        let resets = Some("2026-11-23".parse().expect("a day"));
        let denied = Denied::Budget { period: Period::Day, budget: usd(100), used: usd(60), resets };
        assert_eq!(gauge.check(&limits, ask(60), NOW), Err(denied));
        gauge.end(&limits, 10, 5); // it cost 30 of the 60
        gauge.release(usd(30));
        assert!(gauge.check(&limits, ask(71), NOW).is_err(), "what the books do not have yet counts");
        gauge.release(usd(30));
        gauge.spend(usd(30), NOW);
        assert_eq!(gauge.check(&limits, ask(70), NOW), Ok(()));
        let tomorrow = NOW + 86_400_000_000;
        assert_eq!(gauge.check(&limits, ask(100), tomorrow), Ok(()), "a new day, a new budget");
        assert!(gauge.check(&budget(Period::Total, 100), ask(71), tomorrow).is_err());
    }

    #[test]
    fn the_books_are_counted_once() {
        let mut gauge = Gauge::default();
        let (today, limits) = (Day::of_us(NOW), budget(Period::Month, 1000));
        gauge.spend(usd(5), NOW);
        let counted = gauge.own();
        gauge.spend(usd(7), NOW); // reaches the books before they are read
        let spent = |nanos| {
            let mut spent = Spent::default();
            spent.add(today, usd(nanos));
            spent
        };
        gauge.learn(Period::Month.first_day(today), spent(100), spent(3), &spent(52), &counted);
        assert_eq!(gauge.spent(Period::Month, today), usd(100 + 3 + 52 + 7), "never less than it was");
        gauge.follow(&spent(3), Spent::default(), NOW);
        assert_eq!(gauge.spent(Period::Month, today), usd(100 + 3 + 52 + 7), "what is not recent any more is kept");
        assert!(gauge.knows(today) && !gauge.knows(Day::from_number(0)));
        assert_eq!(gauge.check(&limits, ask(838), NOW), Ok(()));
        assert!(gauge.check(&limits, ask(839), NOW).is_err());
    }

    #[test]
    fn rates_and_places_are_limited_and_given_back() {
        let limits = Limits {
            requests_per_minute: Some(3),
            tokens_per_minute: Some(25),
            concurrent_requests: Some(2),
            ..Limits::default()
        };
        let mut gauge = Gauge::default();
        for _ in 0..2 {
            assert_eq!(gauge.check(&limits, ask(0), NOW), Ok(()));
            gauge.take(&limits, ask(0));
        }
        let denied = gauge.check(&limits, ask(0), NOW);
        assert_eq!(denied, Err(Denied::Tokens { limit: 25, asked: 10, wait_us: Some(12_000_000) }));
        gauge.end(&limits, 10, 2);
        assert_eq!(gauge.check(&limits, ask(0), NOW), Ok(()), "eight tokens came back, and a place");
        gauge.take(&limits, Ask { tokens: 1, ..ask(0) });
        let denied = gauge.check(&limits, Ask { tokens: 1, ..ask(0) }, NOW);
        assert_eq!(denied, Err(Denied::Requests { limit: 3, wait_us: 20_000_000 }));
        let later = NOW + 20_000_000;
        assert_eq!(gauge.check(&limits, Ask { tokens: 1, ..ask(0) }, later), Err(Denied::Concurrent { limit: 2 }));
        let huge = Denied::Tokens { limit: 25, asked: 26, wait_us: None };
        assert_eq!(gauge.check(&limits, Ask { tokens: 26, ..ask(0) }, later), Err(huge));
        let rates = gauge.rates(&limits, later);
        assert_eq!(rates.requests.map(|rate| rate.remaining), Some(1));
    }

    proptest! {
        /// Whatever ends in whichever order, the budget is not overrun, and all that is not spent comes back.
        #[test]
        fn a_budget_is_never_overrun(budget_nanos in 0..500i64, jobs in proptest::collection::vec((0..100i64, 0..100i64, any::<bool>()), 0..100)) {
            let (mut gauge, limits) = (Gauge::default(), budget(Period::Week, budget_nanos));
            let (mut flying, mut spent) = (Vec::new(), 0);
            for (ceiling, cost, end_one) in jobs {
                if gauge.check(&limits, ask(ceiling), NOW).is_ok() {
                    gauge.take(&limits, ask(ceiling));
                    flying.push((ceiling, cost.min(ceiling)));
                }
                if end_one && !flying.is_empty() {
                    let (ceiling, cost) = flying.swap_remove(flying.len() / 2);
                    gauge.end(&limits, 10, 3);
                    gauge.release(usd(ceiling));
                    gauge.spend(usd(cost), NOW);
                    spent += cost;
                }
                let in_flight: i64 = flying.iter().map(|(ceiling, _)| ceiling).sum();
                prop_assert!(spent + in_flight <= budget_nanos);
                prop_assert_eq!(gauge.held, in_flight);
            }
            prop_assert_eq!(gauge.spent(Period::Week, Day::of_us(NOW)), usd(spent));
            prop_assert_eq!(gauge.is_idle(), flying.is_empty());
        }
    }
}
