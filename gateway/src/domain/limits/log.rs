//! A small rate per minute, counted exactly: when each unit of the last minute was taken.
//!
//! A bucket lets up to twice its rate pass in the first minute after a rest. For a handful of requests that is the
//! difference between the limit and its double, and remembering a handful of moments costs nothing.

use std::collections::VecDeque;

use super::bucket::Rate;

/// Limits below this are counted exactly, and always at the counter that all replicas share.
pub const EXACT_BELOW: u32 = 60;
/// Microseconds in a minute.
const MINUTE: i64 = 60_000_000;

/// When the units of the last minute were taken, Unix microseconds, the oldest first; of those the last few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    taken: VecDeque<i64>,
}

impl Log {
    /// Lets time pass. Moments that a clock set back has left in the future are moved to now.
    pub fn advance(&mut self, now_us: i64) {
        if self.taken.back().is_some_and(|at| *at > now_us) {
            self.taken.iter_mut().for_each(|at| *at = now_us.min(*at));
        }
        while self.taken.front().is_some_and(|at| *at <= now_us - MINUTE) {
            self.taken.pop_front();
        }
    }

    /// Microseconds until so many units can be taken, after [`Self::advance`]; zero: now, `None`: never.
    pub fn wait_us(&self, limit: u32, units: u64, now_us: i64) -> Option<i64> {
        if units > u64::from(limit) {
            return None;
        }
        let over = (self.taken.len() as u64 + units).saturating_sub(u64::from(limit));
        let Some(last) = usize::try_from(over).ok().and_then(|over| over.checked_sub(1)) else { return Some(0) };
        self.taken.get(last).map(|at| (at + MINUTE - now_us).max(1))
    }

    /// Takes units. More than can matter are not remembered.
    pub fn take(&mut self, units: u64, now_us: i64) {
        for _ in 0..units.min(u64::from(EXACT_BELOW)) {
            self.taken.push_back(now_us);
        }
        while self.taken.len() > EXACT_BELOW as usize {
            self.taken.pop_front();
        }
    }

    /// Units taken in the last minute, after [`Self::advance`].
    pub fn used(&self) -> u64 {
        self.taken.len() as u64
    }

    /// Forgets what it had, and takes so many units.
    pub fn set(&mut self, used: u64, now_us: i64) {
        self.taken.clear();
        self.take(used, now_us);
    }

    /// Where it stands, after [`Self::advance`].
    pub fn rate(&self, limit: u32, now_us: i64) -> Rate {
        let used = u32::try_from(self.used()).unwrap_or(u32::MAX);
        let reset_us = self.taken.back().map_or(0, |at| (at + MINUTE - now_us).max(0));
        Rate { limit, remaining: limit.saturating_sub(used), reset_us }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_unit_comes_back_a_minute_after_it_was_taken() {
        let mut log = Log::default();
        log.take(1, 0);
        log.take(1, 5_000_000);
        log.advance(6_000_000);
        assert_eq!(log.wait_us(2, 1, 6_000_000), Some(54_000_000));
        assert_eq!(log.wait_us(2, 2, 6_000_000), Some(59_000_000));
        assert_eq!((log.wait_us(3, 1, 6_000_000), log.wait_us(2, 3, 6_000_000)), (Some(0), None));
        assert_eq!(log.rate(2, 6_000_000), Rate { limit: 2, remaining: 0, reset_us: 59_000_000 });
        log.advance(60_000_000);
        assert_eq!((log.used(), log.wait_us(2, 1, 60_000_000)), (1, Some(0)));
        log.advance(1_000_000);
        assert_eq!(
            log.wait_us(1, 1, 1_000_000),
            Some(60_000_000),
            "a clock set back keeps nobody longer than a minute"
        );
    }

    proptest! {
        /// No minute, wherever it begins, has more than the limit; and whoever waits as long as told can go on.
        #[test]
        fn no_minute_has_more(limit in 1..EXACT_BELOW, pauses in proptest::collection::vec(0..4_000_000i64, 1..300)) {
            let (mut log, mut now, mut passed) = (Log::default(), 0, Vec::new());
            for pause in pauses {
                now += pause;
                log.advance(now);
                let wait = log.wait_us(limit, 1, now).expect("within the limit");
                if wait == 0 {
                    log.take(1, now);
                    passed.push(now);
                } else {
                    let mut later = log.clone();
                    later.advance(now + wait);
                    prop_assert_eq!(later.wait_us(limit, 1, now + wait), Some(0));
                }
                let lately = passed.iter().filter(|at| **at > now - MINUTE).count();
                prop_assert!(lately <= limit as usize);
            }
        }
    }
}
