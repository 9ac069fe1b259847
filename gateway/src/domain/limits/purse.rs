//! Money against budgets: what is spent, what is in flight, and what this replica has set aside of what is left.

use lumbung_openapi::money::NanoUsd;

use super::exchange::{MoneyReply, MoneyReport};
use super::gauge::Denied;
use super::mode::{Mode, Share};
use super::{Budgets, Period, Spent};
use crate::domain::calendar::Day;

/// A refusal is believed for so long.
const BELIEVED_US: i64 = 250_000;
/// What is set aside ahead of need goes back after so long without a request.
const IDLE_US: i64 = 60_000_000;

/// The money of one key or account, nano-dollars.
#[derive(Clone, Debug, Default)]
pub(super) struct Purse {
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
    lease: Lease,
}

/// What the shared counter has set aside for this replica.
#[derive(Clone, Debug, Default)]
struct Lease {
    /// All of it: for what is in flight, and to spare.
    granted: i64,
    /// Of that, what is in the books and has not been told yet.
    posted: i64,
    /// The most that a request has taken lately.
    typical: i64,
    last_taken_us: i64,
    /// What was left of each budget when the shared counter was last heard of.
    left: Option<MoneyReply>,
    refused: Option<(i64, i64)>,
    /// Others are short of it: nothing is kept to spare until then.
    wanted_until_us: i64,
    /// The day on which this replica began to go on with its share.
    apart_since: Option<Day>,
}

impl Purse {
    /// How much must be asked for before `more` can be held.
    pub fn need(&mut self, budgets: &Budgets, more: i64, mode: Mode, now_us: i64) -> Result<i64, Denied> {
        if *budgets == Budgets::default() {
            return Ok(0);
        }
        let today = Day::of_us(now_us);
        match mode {
            Mode::Alone => self.afford(budgets, more, today).map(|()| 0),
            Mode::Apart(share) => {
                self.part(budgets, share, today);
                self.afford(budgets, more, today)?;
                match self.free() >= more {
                    true => Ok(0),
                    false => Err(self.denied(budgets, today)),
                }
            }
            Mode::Shared { .. } => {
                self.rejoin();
                let free = self.free();
                if free >= more {
                    return Ok(0);
                }
                match self.lease.refused.filter(|(amount, until)| now_us < *until && more - free >= *amount) {
                    Some(_) => Err(self.denied(budgets, today)),
                    None => Ok(more - free),
                }
            }
        }
    }

    /// Why there is no more: the budget that has the least left.
    pub fn denied(&self, budgets: &Budgets, today: Day) -> Denied {
        let used = |period: Period, budget: NanoUsd| {
            let known = self.spent(period, today).nanos().saturating_add(self.held);
            let left = self.lease.left.and_then(|reply| reply.left[period as usize]);
            let shared = left.map(|left| budget.nanos().saturating_sub(left).saturating_sub(self.free().max(0)));
            known.max(shared.unwrap_or(0))
        };
        let each = Period::ALL.into_iter().filter_map(|period| Some((period, budgets.of(period)?)));
        let tightest = each
            .map(|(period, budget)| (period, budget, used(period, budget)))
            .min_by_key(|(_, budget, used)| budget.nanos().saturating_sub(*used));
        let (period, budget, used) = tightest.unwrap_or((Period::Total, NanoUsd::ZERO, 0));
        Denied::Budget { period, budget, used: NanoUsd::from_nanos(used), resets: period.next_day(today) }
    }

    /// Whether `more` is within the budgets, beside what is known to be spent and in flight.
    fn afford(&self, budgets: &Budgets, more: i64, today: Day) -> Result<(), Denied> {
        for period in Period::ALL {
            let Some(budget) = budgets.of(period) else { continue };
            let used = self.spent(period, today).nanos().saturating_add(self.held);
            if used.saturating_add(more) > budget.nanos() {
                let (used, resets) = (NanoUsd::from_nanos(used), period.next_day(today));
                return Err(Denied::Budget { period, budget, used, resets });
            }
        }
        Ok(())
    }

    /// Holds more, after [`Self::need`] or its grant.
    pub fn hold(&mut self, more: i64) {
        self.held = self.held.saturating_add(more);
    }

    /// Remembers what a request took at its admission.
    pub fn note(&mut self, taken: i64, now_us: i64) {
        let is_first = now_us.saturating_sub(self.lease.last_taken_us) > IDLE_US;
        self.lease.typical = if is_first { taken } else { self.lease.typical.max(taken) };
        self.lease.last_taken_us = now_us;
    }

    /// Lets go of what was held.
    pub fn release(&mut self, held: i64) {
        self.held = self.held.saturating_sub(held);
    }

    /// A charge is in the books.
    pub fn spend(&mut self, budgets: &Budgets, charge: NanoUsd, mode: Mode, now_us: i64) {
        let today = Day::of_us(now_us);
        self.own.add(today, charge);
        self.own.forget(today);
        if mode != Mode::Alone && *budgets != Budgets::default() {
            self.lease.posted = self.lease.posted.saturating_add(charge.nanos());
        }
    }

    /// What was spent in the period that `today` belongs to, as far as this replica knows.
    pub fn spent(&self, period: Period, today: Day) -> NanoUsd {
        let parts = [&self.own, &self.others, &self.recent];
        let sum = parts.into_iter().fold(0i64, |sum, part| sum.saturating_add(part.within(period, today).nanos()));
        NanoUsd::from_nanos(sum)
    }

    /// Charges of this replica that it has counted.
    pub fn own(&self) -> Spent {
        self.own.clone()
    }

    /// See [`super::Gauge::learn`].
    pub fn learn(&mut self, since: Day, mut others: Spent, recent: Spent, own: &Spent, counted: &Spent) {
        others.add_all(&own.without(counted));
        (self.since, self.others, self.recent) = (Some(since), others, recent);
    }

    /// See [`super::Gauge::follow`].
    pub fn follow(&mut self, others: &Spent, recent: Spent, now_us: i64) {
        self.others.add_all(others);
        self.others.forget(Day::of_us(now_us));
        self.recent = recent;
    }

    /// Whether it knows what was spent from that day on.
    pub fn knows(&self, since: Day) -> bool {
        self.since.is_some_and(|known| known <= since)
    }

    /// How much is held.
    pub fn held(&self) -> i64 {
        self.held
    }

    /// Whether the shared counter has set something aside for this replica, or must be told something.
    pub fn is_leasing(&self) -> bool {
        self.lease.granted > 0 || self.lease.posted > 0
    }

    /// Whether there is something to tell, or to set aside.
    pub fn is_due(&mut self, budgets: &Budgets, replicas: u32, now_us: i64) -> bool {
        if *budgets == Budgets::default() {
            self.lease = Lease::default(); // the budgets have been taken away
            return false;
        }
        let (target, free) = (self.target(budgets, replicas, now_us), self.free());
        self.lease.posted > 0 || free > target.saturating_mul(2) || free < target / 2
    }

    /// Counts with the others again.
    pub fn rejoin(&mut self) {
        self.lease.apart_since = None;
    }

    /// A refusal is not believed: others are about to give back.
    pub fn doubt(&mut self) {
        self.lease.refused = None;
    }

    /// Others are short of this money: what is to spare goes back, and stays away for a moment.
    pub fn is_wanted(&mut self, now_us: i64) {
        self.lease.wanted_until_us = now_us + BELIEVED_US;
    }

    /// What to tell and to ask for: `need` for a request, `more` for those that wait behind it.
    pub fn report(
        &mut self,
        budgets: &Budgets,
        need: Option<i64>,
        more: i64,
        replicas: u32,
        now_us: i64,
    ) -> MoneyReport {
        let (target, free, is_apart) =
            (self.target(budgets, replicas, now_us), self.free(), self.lease.apart_since.is_some());
        // What a request has found here is its own, though it needs something else beside.
        let idle = if need.is_some() || is_apart { free.max(0) } else { free.clamp(0, target) };
        let need = need.unwrap_or(0);
        let (keep, posted) = (self.held.max(0).saturating_add(idle), self.lease.posted);
        // What goes back must not be taken any more; what is posted stays in the sum until it has been told.
        self.lease.granted = keep.saturating_add(posted);
        if is_apart {
            return MoneyReport { posted, keep, min: 0, max: 0 };
        }
        let welcome = if self.is_low(budgets) { 0 } else { more.max(0).saturating_add((target - idle).max(0)) };
        // What is held beyond what was granted (for a budget that is new) is in `keep`.
        let min = if need > 0 { need.saturating_add(free.min(0)).max(0) } else { 0 };
        MoneyReport { posted, keep, min, max: min.saturating_add(welcome) }
    }

    /// Takes over what came of a report.
    pub fn reply(&mut self, report: &MoneyReport, reply: &MoneyReply, now_us: i64) {
        let lease = &mut self.lease;
        lease.posted = lease.posted.saturating_sub(report.posted);
        lease.granted = lease.granted.saturating_sub(report.posted).saturating_add(reply.granted);
        lease.refused = (!reply.fits && !reply.unread).then_some((report.min, now_us + BELIEVED_US));
        lease.left = Some(*reply);
    }

    /// What can be held without asking; below zero where more is in flight than was granted.
    fn free(&self) -> i64 {
        self.lease.granted.saturating_sub(self.held).saturating_sub(self.lease.posted)
    }

    /// How much to keep to spare: a few requests' worth, and never much of what is left.
    fn target(&self, budgets: &Budgets, replicas: u32, now_us: i64) -> i64 {
        let lease = &self.lease;
        let is_idle = now_us.saturating_sub(lease.last_taken_us) > IDLE_US || now_us < lease.wanted_until_us;
        let left = lease.left.as_ref().and_then(MoneyReply::tightest).map_or(0, |(_, left)| left);
        match is_idle || lease.apart_since.is_some() || self.is_low(budgets) {
            true => 0,
            false => {
                let ahead = lease.typical.saturating_mul(4).min(left / 20 / i64::from(replicas.max(1)));
                if ahead < lease.typical { 0 } else { ahead } // less than a request is of no use
            }
        }
    }

    /// Whether a budget is in its last tenth: from there on nothing is set aside ahead of need.
    fn is_low(&self, budgets: &Budgets) -> bool {
        let Some(reply) = &self.lease.left else { return false };
        let mut each = Period::ALL.into_iter().zip(reply.left);
        each.any(|(period, left)| left.zip(budgets.of(period)).is_some_and(|(left, all)| left <= all.nanos() / 10))
    }

    /// Goes on with a share of what was left when the shared counter was last heard of; on a new day, of what is left then.
    fn part(&mut self, budgets: &Budgets, share: Share, today: Day) {
        if self.lease.apart_since == Some(today) {
            return;
        }
        let by_books = |period| Some(budgets.of(period)?.nanos().saturating_sub(self.spent(period, today).nanos()));
        let by_books = Period::ALL.into_iter().filter_map(by_books).min().unwrap_or(0).saturating_sub(self.held);
        let last_heard = self.lease.left.as_ref().and_then(MoneyReply::tightest).map(|(_, left)| left);
        let base = match self.lease.apart_since {
            None => self.lease.granted,
            Some(_) => self.held.saturating_add(self.lease.posted), // a new day: what was granted was of the old one
        };
        let left = last_heard.filter(|_| self.lease.apart_since.is_none()).map_or(by_books, |left| left.min(by_books));
        self.lease.granted = base.saturating_add(share.of_nanos(left));
        self.lease.apart_since = Some(today);
    }
}
