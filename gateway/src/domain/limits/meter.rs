//! A rate per minute in each of the three modes: alone, with a portion of a shared counter, or with a share of the limit.

use super::bucket::{Bucket, Rate};
use super::exchange::{RateReply, RateReport};
use super::lease::Lease;
use super::log::{EXACT_BELOW, Log};
use super::mode::{Mode, Share};

/// How long whoever asks for more than a share waits: until then the shared counter may be back.
const BEYOND_SHARE_US: i64 = 1_000_000;

/// The counter of one rate.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    bucket: Bucket,
    /// Of requests, which are counted one by one where the limit is small. Tokens come in heaps and are corrected.
    log: Option<Log>,
    lease: Lease,
    /// Counts with a share: what it takes is told later.
    is_apart: bool,
}

impl Meter {
    /// A counter of requests.
    pub fn of_requests() -> Self {
        Self { log: Some(Log::default()), ..Self::default() }
    }

    /// How many units must be asked for before so many can be taken; or the wait in microseconds, `None`: they never can.
    pub fn need(&mut self, limit: u32, units: u64, mode: Mode, now_us: i64) -> Result<u64, Option<i64>> {
        if units > u64::from(limit) {
            return Err(None);
        }
        let own = match mode {
            Mode::Shared { replicas } => {
                self.rejoin();
                return self.lease.need(limit, units, replicas, now_us).map_err(Some);
            }
            Mode::Alone => limit,
            Mode::Apart(share) => {
                self.part(limit, share, now_us);
                share.of(limit)
            }
        };
        self.advance(own, now_us);
        let wait = match self.log.as_ref().filter(|_| self.is_exact(limit)) {
            Some(log) => log.wait_us(own, units, now_us),
            None => self.bucket.wait_us(own, units),
        };
        match wait {
            Some(0) => Ok(0),
            wait => Err(wait.or(Some(BEYOND_SHARE_US))),
        }
    }

    /// Takes units, after [`Self::need`] or its grant.
    pub fn take(&mut self, units: u64, mode: Mode, now_us: i64) {
        if let Mode::Shared { .. } = mode {
            return self.lease.take(units);
        }
        self.bucket.take(i64::try_from(units).unwrap_or(i64::MAX));
        if let Some(log) = &mut self.log {
            log.take(units, now_us);
        }
        if self.is_apart {
            self.lease.owe(units);
        }
    }

    /// A request has used so many units of those that it took.
    pub fn correct(&mut self, taken: u64, used: u64, mode: Mode) {
        if mode != Mode::Alone {
            self.lease.correct(taken, used);
        }
        if !matches!(mode, Mode::Shared { .. }) {
            let signed = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
            self.bucket.take(signed(used) - signed(taken));
        }
    }

    /// Where the rate stands.
    pub fn rate(&mut self, limit: u32, mode: Mode, now_us: i64) -> Rate {
        let own = match mode {
            Mode::Alone => limit,
            Mode::Apart(share) => share.of(limit),
            Mode::Shared { .. } if self.is_exact(limit) => return self.lease.logged(now_us).rate(limit, now_us),
            Mode::Shared { .. } => {
                let mut bucket = Bucket::default();
                bucket.set(self.lease.used(limit, now_us), now_us);
                return bucket.rate(limit);
            }
        };
        self.advance(own, now_us);
        let rate = match self.log.as_ref().filter(|_| self.is_exact(limit)) {
            Some(log) => log.rate(own, now_us),
            None => self.bucket.rate(own),
        };
        Rate { limit, ..rate }
    }

    /// Whether there is something to tell the shared counter, or to set aside.
    pub fn is_due(&self, limit: u32, now_us: i64) -> bool {
        self.lease.is_due(limit, now_us)
    }

    /// A moment has passed.
    pub fn tick(&mut self) {
        self.lease.tick();
    }

    /// What to tell and to ask for; `need` is of a request, which gives nothing back.
    pub fn report(&mut self, limit: u32, need: Option<u64>, more: u64, now_us: i64) -> RateReport {
        let report = self.lease.report(limit, need, more, now_us);
        match self.is_apart {
            true => RateReport { min: 0, max: 0, ..report },
            false => report,
        }
    }

    /// Takes over what came of a report. A counter that has forgotten everything is told what is known here.
    pub fn reply(&mut self, limit: u32, report: &RateReport, reply: &RateReply, is_fresh: bool, now_us: i64) {
        self.lease.reply(report, reply, now_us);
        if is_fresh && self.is_apart {
            let used = match self.log.as_ref().filter(|_| self.is_exact(limit)) {
                Some(log) => log.used(),
                None => self.bucket.used(),
            };
            self.lease.owe(used.saturating_sub(report.add));
        }
    }

    /// It is not known whether a report has come through.
    pub fn lost(&mut self, report: &RateReport) {
        self.lease.lost(report);
    }

    /// Counts with the others again.
    pub fn rejoin(&mut self) {
        self.is_apart = false;
    }

    /// Begins to count with a share: of what was left when the shared counter was last heard of. Together the replicas
    /// then let pass what the shared one would have.
    fn part(&mut self, limit: u32, share: Share, now_us: i64) {
        if std::mem::replace(&mut self.is_apart, true) {
            return;
        }
        let used = match self.is_exact(limit) {
            true => self.lease.logged(now_us).used(),
            false => self.lease.used(limit, now_us),
        };
        // Each of the others may have taken one since, which few requests would not forgive.
        let unknown = if self.is_exact(limit) { u64::from(share.replicas.saturating_sub(1)) } else { 0 };
        let left = u64::from(limit).saturating_sub(used + unknown);
        let own_left = share.of(u32::try_from(left).unwrap_or(u32::MAX));
        let used = u64::from(share.of(limit).saturating_sub(own_left));
        self.bucket.set(used, now_us);
        if let Some(log) = &mut self.log {
            log.set(used, now_us);
        }
        self.lease.forget();
    }

    /// Whether units are counted one by one.
    fn is_exact(&self, limit: u32) -> bool {
        self.log.is_some() && limit < EXACT_BELOW
    }

    fn advance(&mut self, limit: u32, now_us: i64) {
        self.bucket.advance(limit, now_us);
        if let Some(log) = &mut self.log {
            log.advance(now_us);
        }
    }
}
