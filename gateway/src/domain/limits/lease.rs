//! A replica's portion of a rate that all replicas share. It is set aside in the background, ahead of need, so that a
//! request takes from memory; a limit that is small or nearly used up is asked for unit by unit.

use super::bucket::Bucket;
use super::exchange::{RateReply, RateReport};
use super::log::{EXACT_BELOW, Log};
use super::mode::{advance, is_low};

/// A refusal is believed for so long, so that a caller who does not wait costs nothing.
const BELIEVED_US: i64 = 250_000;
/// At most this part of a limit is set aside for one replica.
const PORTION: u32 = 20;

/// The portion.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// Units set aside and not used yet.
    left: u64,
    /// Units used without having been set aside, to be told.
    debt: u64,
    /// Units that were asked for and not used, to be told.
    refund: u64,
    /// Units taken since the last tick, and the most of recent ticks.
    taken: u64,
    pace: u64,
    /// Where the shared counter stood.
    known: Option<Known>,
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    used: u64,
    at_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    units: u64,
    until_us: i64,
    fits_at_us: i64,
}

impl Lease {
    /// How many units must be asked for before so many can be taken; or in how many microseconds it is worth trying again.
    pub fn need(&self, limit: u32, units: u64, replicas: u32, now_us: i64) -> Result<u64, i64> {
        if let Some(refused) = self.refused.filter(|refused| now_us < refused.until_us && units >= refused.units) {
            return Err((refused.fits_at_us - now_us).max(1));
        }
        let short = units.saturating_sub(self.left);
        let in_advance = short > 0 && !self.is_low(limit, now_us) && self.debt + short <= advance(limit, replicas);
        Ok(if in_advance { 0 } else { short })
    }

    /// Takes units: from what is set aside, the rest to be told.
    pub fn take(&mut self, units: u64) {
        let from_left = self.left.min(units);
        self.left -= from_left;
        self.debt += units - from_left;
        self.taken = self.taken.saturating_add(units);
    }

    /// A request has used so many units of those that it took.
    pub fn correct(&mut self, taken: u64, used: u64) {
        match used.checked_sub(taken) {
            Some(more) => self.debt += more,
            None => self.refund += taken - used,
        }
    }

    /// Whether there is something to tell or to set aside.
    pub fn is_due(&self, limit: u32, now_us: i64) -> bool {
        let target = self.target(limit, now_us);
        let is_ahead = limit >= EXACT_BELOW && (self.pace > 0 || self.taken > 0);
        self.debt > 0 || self.refund > 0 || self.left > target || is_ahead
    }

    /// A moment has passed: what was taken in it says how much to set aside for the next.
    pub fn tick(&mut self) {
        self.pace = self.taken.max(self.pace / 2);
        self.taken = 0;
    }

    /// What to tell and to ask for: `need` for a request, `more` for those that wait behind it.
    pub fn report(&mut self, limit: u32, need: Option<u64>, more: u64, now_us: i64) -> RateReport {
        let (target, is_small) = (self.target(limit, now_us), limit < EXACT_BELOW);
        // What a request has found here is its own, though it needs something else beside.
        let spare = if need.is_some() { 0 } else { self.left.saturating_sub(target) };
        let need = need.unwrap_or(0);
        self.left -= spare;
        let welcome = if is_small { 0 } else { more.saturating_add(target.saturating_sub(self.left)) };
        let even = self.debt.min(self.refund);
        let report = RateReport {
            give_back: spare + self.refund - even,
            add: self.debt - even,
            min: need,
            max: need.saturating_add(welcome),
        };
        (self.debt, self.refund) = (0, 0);
        report
    }

    /// Takes over what came of a report.
    pub fn reply(&mut self, report: &RateReport, reply: &RateReply, now_us: i64) {
        self.known = Some(Known { used: reply.used, at_us: now_us });
        self.refused = (reply.wait_us > 0).then(|| Refused {
            units: self.left + report.min,
            until_us: now_us + reply.wait_us.min(BELIEVED_US),
            fits_at_us: now_us.saturating_add(reply.wait_us),
        });
        self.left += reply.granted;
    }

    /// It is not known whether a report has come through: what was used is told again.
    pub fn lost(&mut self, report: &RateReport) {
        self.debt += report.add;
    }

    /// Tells later that so many more units are in use.
    pub fn owe(&mut self, units: u64) {
        self.debt += units;
    }

    /// The shared counter is out of reach: nothing is set aside any more.
    pub fn forget(&mut self) {
        *self = Self { debt: self.debt, refund: self.refund, known: self.known, ..Self::default() };
    }

    /// Units in use by all replicas, as far as is known: those that are set aside here do not count.
    pub fn used(&self, limit: u32, now_us: i64) -> u64 {
        let Some(known) = self.known else { return self.debt };
        let mut bucket = Bucket::default();
        bucket.set(known.used, known.at_us);
        bucket.advance(limit, now_us);
        (bucket.used() + self.debt).saturating_sub(self.left + self.refund)
    }

    /// The same where units are counted one by one: a log whose entries are as old as what is known.
    pub fn logged(&self, now_us: i64) -> Log {
        let mut log = Log::default();
        if let Some(known) = self.known {
            log.set(known.used.saturating_sub(self.left), known.at_us);
        }
        log.advance(now_us);
        log
    }

    fn is_low(&self, limit: u32, now_us: i64) -> bool {
        is_low(self.used(limit, now_us).saturating_add(self.left), limit)
    }

    fn target(&self, limit: u32, now_us: i64) -> u64 {
        if limit < EXACT_BELOW || self.is_low(limit, now_us) {
            return 0;
        }
        self.pace.max(self.taken).saturating_mul(2).min(u64::from(limit / PORTION))
    }
}
