//! What one key or account has used of its limits: checked and taken in one step, corrected when the answer is over.

use lumbung_openapi::money::NanoUsd;

use super::bucket::Rate;
use super::exchange::{PlacesReport, Reply, Report};
use super::meter::Meter;
use super::mode::{Caps, Mode};
use super::places::Places;
use super::purse::Purse;
use super::{Period, Spent};
use crate::domain::calendar::Day;

/// How often the shared counters hear of places that they have given, and of money.
const CONFIRM_PLACES_US: i64 = 1_000_000;
const CONFIRM_MONEY_US: i64 = 15_000_000;

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

/// What must be asked for at the shared counters before a request may go ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Requests in a minute.
    pub requests: u64,
    /// Tokens in a minute.
    pub tokens: u64,
    /// Requests at a time.
    pub places: u32,
    /// Nano-dollars.
    pub money: i64,
}

impl Need {
    /// Whether all of it is in memory.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The counters of one key or account at this replica. Places and money count whether or not there is a limit, so that a
/// new limit finds what is in flight.
#[derive(Clone, Debug)]
pub struct Gauge {
    requests: Meter,
    tokens: Meter,
    places: Places,
    purse: Purse,
    /// When the shared counters began that were last heard of.
    born_us: i64,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            requests: Meter::of_requests(),
            tokens: Meter::default(),
            places: Places::default(),
            purse: Purse::default(),
            born_us: 0,
        }
    }
}

impl Gauge {
    /// What a request needs that this replica does not have, or why it is beyond a limit. Takes nothing.
    pub fn check(&mut self, caps: &Caps, ask: Ask, mode: Mode, now_us: i64) -> Result<Need, Denied> {
        let money = self.purse.need(&caps.budgets, ask.ceiling.nanos(), mode, now_us)?;
        let mut need = Need { money, ..Need::default() };
        if let Some(limit) = caps.requests {
            let wait = |wait_us: Option<i64>| Denied::Requests { limit, wait_us: wait_us.unwrap_or(i64::MAX) };
            need.requests = self.requests.need(limit, 1, mode, now_us).map_err(wait)?;
        }
        if let Some(limit) = caps.tokens {
            let wait = |wait_us| Denied::Tokens { limit, asked: ask.tokens, wait_us };
            need.tokens = self.tokens.need(limit, ask.tokens, mode, now_us).map_err(wait)?;
        }
        if let Some(limit) = caps.places {
            need.places = self.places.need(limit, mode, now_us).map_err(|()| Denied::Concurrent { limit })?;
        }
        Ok(need)
    }

    /// How much must be asked for before `more` of the budgets can be held, beside what is spent and in flight.
    pub fn afford(&mut self, caps: &Caps, more: NanoUsd, mode: Mode, now_us: i64) -> Result<Need, Denied> {
        Ok(Need { money: self.purse.need(&caps.budgets, more.nanos(), mode, now_us)?, ..Need::default() })
    }

    /// Counts a request in that [`Self::check`], or what was granted for it, has let pass.
    pub fn take(&mut self, caps: &Caps, ask: Ask, mode: Mode, now_us: i64) {
        // Without a limit nothing flows back, so nothing may be taken.
        if caps.requests.is_some() {
            self.requests.take(1, mode, now_us);
        }
        if caps.tokens.is_some() {
            self.tokens.take(ask.tokens, mode, now_us);
        }
        self.places.take();
        self.purse.note(ask.ceiling.nanos(), now_us);
        self.hold(ask.ceiling);
    }

    /// Holds more of the budgets for a request in flight.
    pub fn hold(&mut self, more: NanoUsd) {
        self.purse.hold(more.nanos());
    }

    /// Ends a request: it used so many tokens, of those that it asked for. Its money stays held.
    pub fn end(&mut self, caps: &Caps, asked: u64, used: u64, mode: Mode) {
        if caps.tokens.is_some() {
            self.tokens.correct(asked, used, mode);
        }
        self.places.end();
    }

    /// Lets go of what was held.
    pub fn release(&mut self, held: NanoUsd) {
        self.purse.release(held.nanos());
    }

    /// A charge is in the books.
    pub fn spend(&mut self, caps: &Caps, charge: NanoUsd, mode: Mode, now_us: i64) {
        self.purse.spend(&caps.budgets, charge, mode, now_us);
    }

    /// What was spent in the period that `today` belongs to, as far as this replica knows.
    pub fn spent(&self, period: Period, today: Day) -> NanoUsd {
        self.purse.spent(period, today)
    }

    /// Charges of this replica that it has counted: read before the books are, see [`Self::learn`].
    pub fn own(&self) -> Spent {
        self.purse.own()
    }

    /// Takes over what the books have `since` a day: other replicas' charges, those of the `recent` past apart, and this
    /// one's, of which it had counted `counted` just before they were read. What came to the books in between is counted
    /// twice, never left out.
    pub fn learn(&mut self, since: Day, others: Spent, recent: Spent, own: &Spent, counted: &Spent) {
        self.purse.learn(since, others, recent, own, counted);
    }

    /// Takes over what has come since: charges of others that are not `recent` any more, and those that are.
    pub fn follow(&mut self, others: &Spent, recent: Spent, now_us: i64) {
        self.purse.follow(others, recent, now_us);
    }

    /// Whether it knows what was spent from that day on.
    pub fn knows(&self, since: Day) -> bool {
        self.purse.knows(since)
    }

    /// Where the rates stand.
    pub fn rates(&mut self, caps: &Caps, mode: Mode, now_us: i64) -> Rates {
        Rates {
            requests: caps.requests.map(|limit| self.requests.rate(limit, mode, now_us)),
            tokens: caps.tokens.map(|limit| self.tokens.rate(limit, mode, now_us)),
        }
    }

    /// Whether nothing is in flight, so that all it knows of money is in the books.
    pub fn is_idle(&self) -> bool {
        self.places.is_idle() && self.purse.held() == 0 && !self.purse.is_leasing()
    }

    /// A moment has passed: what was taken in it says how much to set aside for the next. Whether there is something to
    /// tell the shared counters, or to ask of them.
    pub fn tick(&mut self, caps: &Caps, mode: Mode, replicas: u32, now_us: i64) -> bool {
        if let Mode::Shared { .. } = mode {
            self.requests.rejoin();
            self.tokens.rejoin();
            self.purse.rejoin();
        }
        let is_due = caps.requests.is_some_and(|limit| self.requests.is_due(limit, now_us))
            || caps.tokens.is_some_and(|limit| self.tokens.is_due(limit, now_us))
            || caps.places.is_some_and(|limit| self.places.is_due(limit))
            || self.purse.is_due(&caps.budgets, replicas, now_us);
        self.requests.tick();
        self.tokens.tick();
        self.places.tick();
        is_due
    }

    /// How often the shared counters must hear of it, microseconds: what it has there would else be given to others.
    pub fn confirm_us(&self, caps: &Caps) -> Option<i64> {
        match caps.places.is_some() && self.places.is_leasing() {
            true => Some(CONFIRM_PLACES_US),
            false => self.purse.is_leasing().then_some(CONFIRM_MONEY_US),
        }
    }

    /// Others are short of this money: what is to spare goes back with the next report.
    pub fn is_wanted(&mut self, now_us: i64) {
        self.purse.is_wanted(now_us);
    }

    /// What to tell the shared counters and to ask of them: `need` for a request, as much again for each of those that
    /// are `waiting` behind it. [`Self::reply`] or [`Self::lost`] must follow before the next.
    pub fn report(&mut self, caps: &Caps, need: Need, waiting: u32, replicas: u32, now_us: i64) -> Report {
        let (is_asking, more) = (!need.is_none(), u64::from(waiting));
        let rate = |meter: &mut Meter, limit: Option<u32>, need: u64| {
            meter.report(limit.unwrap_or(0), is_asking.then_some(need), need.saturating_mul(more), now_us)
        };
        let places = match caps.places {
            Some(limit) => {
                self.places.report(limit, is_asking.then_some(need.places), waiting.saturating_mul(need.places.min(1)))
            }
            None => PlacesReport::default(),
        };
        let (money, behind) = (is_asking.then_some(need.money), need.money.saturating_mul(i64::from(waiting)));
        Report {
            caps: *caps,
            today: Day::of_us(now_us),
            requests: rate(&mut self.requests, caps.requests, need.requests),
            tokens: rate(&mut self.tokens, caps.tokens, need.tokens),
            places,
            money: self.purse.report(&caps.budgets, money, behind, replicas, now_us),
            trusting: false,
        }
    }

    /// Takes over what came of a report.
    pub fn reply(&mut self, report: &Report, reply: &Reply, now_us: i64) {
        let is_fresh = std::mem::replace(&mut self.born_us, reply.born_us) != reply.born_us;
        if let Some(limit) = report.caps.requests {
            self.requests.reply(limit, &report.requests, &reply.requests, is_fresh, now_us);
        }
        if let Some(limit) = report.caps.tokens {
            self.tokens.reply(limit, &report.tokens, &reply.tokens, is_fresh, now_us);
        }
        if report.caps.places.is_some() {
            self.places.reply(&reply.places, now_us);
        }
        if report.caps.budgets != Default::default() {
            self.purse.reply(&report.money, &reply.money, now_us);
        }
    }

    /// A refusal is not believed: others are about to give back.
    pub fn doubt(&mut self) {
        self.purse.doubt();
    }

    /// It is not known whether a report has come through.
    pub fn lost(&mut self, report: &Report) {
        self.requests.lost(&report.requests);
        self.tokens.lost(&report.tokens);
    }

    /// Why a request that needed more than it got is refused, in the order in which limits are checked.
    pub fn refusal(&self, report: &Report, reply: &Reply, asked: u64) -> Option<Denied> {
        let caps = &report.caps;
        if !reply.money.fits && report.money.min > 0 {
            return Some(self.purse.denied(&caps.budgets, report.today));
        }
        if let Some(limit) = caps.requests.filter(|_| reply.requests.wait_us > 0) {
            return Some(Denied::Requests { limit, wait_us: reply.requests.wait_us });
        }
        if let Some(limit) = caps.tokens.filter(|_| reply.tokens.wait_us > 0) {
            return Some(Denied::Tokens { limit, asked, wait_us: Some(reply.tokens.wait_us) });
        }
        caps.places.filter(|_| !reply.places.fits).map(|limit| Denied::Concurrent { limit })
    }
}

#[cfg(test)]
mod tests;
