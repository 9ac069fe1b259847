//! A rate per minute as a token bucket: it holds a minute's worth, and fills evenly.
//!
//! OpenAI's headers are those of such a bucket: what remains, and the time until the limit "resets to its initial state"
//! (API reference, rate limit headers). A bucket keeps one number where an exact window would keep every request; in return
//! the first minute after a rest may pass up to twice the rate.

/// Microseconds in a minute: also the parts that one unit has, so that a rate of N per minute fills N parts per microsecond.
const MINUTE: i128 = 60_000_000;

/// What has been taken and has not flown back yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// In parts of a unit; above the limit where more was used than had been asked for.
    used: i128,
    /// When that was so, Unix microseconds.
    at_us: i64,
}

/// Where a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units in a minute.
    pub limit: u32,
    /// Units that can be taken now.
    pub remaining: u32,
    /// Microseconds until all of them can.
    pub reset_us: i64,
}

impl Bucket {
    /// Lets time pass. A clock that goes backwards lets none pass.
    pub fn advance(&mut self, limit: u32, now_us: i64) {
        let elapsed = i128::from(now_us) - i128::from(self.at_us);
        if elapsed > 0 {
            self.used = (self.used - elapsed * i128::from(limit)).max(0);
        }
        self.at_us = now_us;
    }

    /// Microseconds until so many units can be taken, after [`Self::advance`]; zero: now, `None`: never.
    pub fn wait_us(&self, limit: u32, units: u64) -> Option<i64> {
        if units > u64::from(limit) {
            return None;
        }
        let over = self.used + (i128::from(units) - i128::from(limit)) * MINUTE;
        Some(time_to_flow(over, limit))
    }

    /// Takes units, or gives them back where `units` is below zero.
    pub fn take(&mut self, units: i64) {
        self.used = (self.used + i128::from(units) * MINUTE).max(0);
    }

    /// Units in use, rounded up, after [`Self::advance`].
    pub fn used(&self) -> u64 {
        u64::try_from((self.used + MINUTE - 1) / MINUTE).unwrap_or(u64::MAX)
    }

    /// Forgets what it had, and has so many units in use.
    pub fn set(&mut self, used: u64, now_us: i64) {
        (self.used, self.at_us) = (i128::from(used) * MINUTE, now_us);
    }

    /// Where it stands, after [`Self::advance`].
    pub fn rate(&self, limit: u32) -> Rate {
        let remaining = (i128::from(limit) * MINUTE - self.used).max(0) / MINUTE;
        let remaining = u32::try_from(remaining).unwrap_or(limit);
        Rate { limit, remaining, reset_us: time_to_flow(self.used, limit) }
    }
}

/// Microseconds until so many parts have flown back; a limit of zero never lets them.
fn time_to_flow(parts: i128, limit: u32) -> i64 {
    match (parts, limit) {
        (..=0, _) => 0,
        (_, 0) => i64::MAX,
        (parts, limit) => i64::try_from((parts - 1) / i128::from(limit) + 1).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_minutes_worth_is_there_at_once_and_flows_back_evenly() {
        let mut bucket = Bucket::default();
        bucket.advance(60, 0);
        assert_eq!(bucket.rate(60), Rate { limit: 60, remaining: 60, reset_us: 0 });
        bucket.take(60);
        assert_eq!(bucket.rate(60), Rate { limit: 60, remaining: 0, reset_us: 60_000_000 });
        assert_eq!(bucket.wait_us(60, 1), Some(1_000_000));
        bucket.advance(60, 999_999);
        assert_eq!(bucket.wait_us(60, 1), Some(1));
        bucket.advance(60, 1_000_000);
        assert_eq!((bucket.wait_us(60, 1), bucket.rate(60).remaining), (Some(0), 1));
        bucket.advance(60, 500_000);
        assert_eq!(bucket.rate(60).remaining, 1, "a clock that goes back takes nothing away and gives nothing");
    }

    #[test]
    fn what_was_not_used_comes_back_and_what_was_used_beyond_is_owed() {
        let mut bucket = Bucket::default();
        bucket.advance(100, 0);
        bucket.take(80);
        bucket.take(-70);
        assert_eq!(bucket.rate(100).remaining, 90);
        bucket.take(190);
        assert_eq!((bucket.rate(100).remaining, bucket.rate(100).reset_us), (0, 120_000_000));
        assert_eq!((bucket.wait_us(100, 101), bucket.wait_us(0, 0)), (None, Some(i64::MAX)));
    }

    proptest! {
        /// Over any stretch, no more passes than what the bucket holds and what flows back meanwhile.
        #[test]
        fn no_more_passes_than_the_rate(limit in 1..1000u32, steps in proptest::collection::vec((0..5_000_000i64, 1..50u64), 1..200)) {
            let (mut bucket, mut now, mut passed) = (Bucket::default(), 0, 0u64);
            for (pause, units) in steps {
                now += pause;
                bucket.advance(limit, now);
                if bucket.wait_us(limit, units) == Some(0) {
                    bucket.take(units as i64);
                    passed += units;
                }
                let most = i128::from(limit) * MINUTE + i128::from(now) * i128::from(limit);
                prop_assert!(i128::from(passed) * MINUTE <= most, "{} in {} us", passed, now);
            }
        }

        /// Whoever waits as long as told can go on, and not a microsecond before.
        #[test]
        fn the_wait_is_exact(limit in 1..100_000u32, used in 0..200_000i64, units in 1..1000u64) {
            let mut bucket = Bucket::default();
            bucket.advance(limit, 0);
            bucket.take(used);
            if let Some(wait) = bucket.wait_us(limit, units) {
                let after = |us| { let mut later = bucket; later.advance(limit, us); later.wait_us(limit, units) };
                prop_assert_eq!(after(wait), Some(0));
                prop_assert!(wait == 0 || after(wait - 1) != Some(0));
            }
        }
    }
}
