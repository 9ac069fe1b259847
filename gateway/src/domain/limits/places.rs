//! Requests at a time.

use super::exchange::{PlacesReply, PlacesReport};
use super::log::EXACT_BELOW;
use super::mode::{Mode, advance, is_low};

/// A refusal is believed for so long: another replica may have a place to give at any moment.
const BELIEVED_US: i64 = 50_000;
/// At most this part of a limit is set aside for one replica.
const PORTION: u32 = 20;

/// What runs at this replica, and what it may run.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    running: u32,
    /// Places that the shared counter has given.
    leased: u32,
    /// The most that ran at once lately beyond what runs now: how many to set aside.
    pace: u32,
    peak: u32,
    total: u32,
    refused_until_us: i64,
}

impl Places {
    /// How many places must be asked for before another request may run.
    pub fn need(&self, limit: u32, mode: Mode, now_us: i64) -> Result<u32, ()> {
        let replicas = match mode {
            Mode::Alone if self.running < limit => return Ok(0),
            Mode::Apart(share) if self.running < share.of(limit) => return Ok(0),
            Mode::Alone | Mode::Apart(_) => return Err(()),
            Mode::Shared { replicas } => replicas,
        };
        if self.running < self.leased {
            return Ok(0);
        }
        if limit == 0 || now_us < self.refused_until_us {
            return Err(());
        }
        let ahead = u64::from(self.running + 1 - self.leased);
        let in_advance = !is_low(u64::from(self.total) + ahead, limit) && ahead <= advance(limit, replicas);
        Ok(if in_advance { 0 } else { self.running + 1 - self.leased })
    }

    /// Another request runs.
    pub fn take(&mut self) {
        self.running += 1;
        self.peak = self.peak.max(self.running);
    }

    /// One has ended.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Whether nothing runs.
    pub fn is_idle(&self) -> bool {
        self.running == 0
    }

    /// Whether the shared counter has given this replica places.
    pub fn is_leasing(&self) -> bool {
        self.leased > 0
    }

    /// Whether there is something to tell or to set aside.
    pub fn is_due(&self, limit: u32) -> bool {
        self.leased != self.running + self.target(limit)
    }

    /// A moment has passed.
    pub fn tick(&mut self) {
        self.pace = self.peak.saturating_sub(self.running).max(self.pace / 2);
        self.peak = self.running;
    }

    /// What to tell and to ask for: `need` for a request, `more` for those that wait behind it.
    pub fn report(&mut self, limit: u32, need: Option<u32>, more: u32) -> PlacesReport {
        let target = self.target(limit);
        let idle = self.leased.saturating_sub(self.running);
        // What a request has found here is its own, though it needs something else beside.
        let idle = if need.is_some() { idle } else { idle.min(target) };
        let need = need.unwrap_or(0);
        let keep = self.running + idle;
        self.leased = keep;
        let welcome = if limit < EXACT_BELOW { 0 } else { more.saturating_add(target.saturating_sub(idle)) };
        // What runs beyond the places given is in `keep`: a request needs one of its own.
        PlacesReport { keep, min: need.min(1), max: need.min(1).saturating_add(welcome) }
    }

    /// Takes over what came of a report.
    pub fn reply(&mut self, reply: &PlacesReply, now_us: i64) {
        self.total = reply.total;
        self.leased += reply.granted;
        self.refused_until_us = if reply.fits { 0 } else { now_us + BELIEVED_US };
    }

    fn target(&self, limit: u32) -> u32 {
        match limit < EXACT_BELOW || is_low(u64::from(self.total), limit) {
            true => 0,
            false => self.pace.max(self.peak.saturating_sub(self.running)).min(limit / PORTION),
        }
    }
}
