//! A rate for each of any number of strangers, in memory that never grows.
//!
//! A count-min sketch of token buckets. Each bucket is one number: the moment at which it will be full again (GCRA, ITU-T
//! I.371). Everyone has a bucket in each row, shared with whoever hashes to the same; the least used of them is believed. So a
//! stranger is never let through more often than its rate, and one who shares all its buckets with floods waits with them.
//! The hash is keyed afresh in each process: nobody can choose whom to share with. No lock, no clock: `now` is passed in.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

const ROWS: usize = 3;
/// Buckets in a row: 384 KiB together. With 2,000 floods at a time, one in 670 others shares all three of its buckets.
const BUCKETS: usize = 1 << 14;

/// So many at a time, and so many a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one to the next, in microseconds.
    interval_us: u64,
    /// How far ahead of time a full bucket lets one run, in microseconds.
    burst_us: u64,
}

impl Rate {
    /// `per_minute` at once, and as many every minute.
    pub fn per_minute(per_minute: u32) -> Self {
        let interval_us = 60_000_000 / u64::from(per_minute.max(1));
        Self { interval_us, burst_us: interval_us * u64::from(per_minute.max(1)) }
    }

    /// What a bucket that is full again at `full_at_us` holds after one more is taken; `Err`: microseconds to wait for it.
    fn take(&self, full_at_us: u64, now_us: u64) -> Result<u64, u64> {
        let full_at_us = full_at_us.max(now_us) + self.interval_us;
        match full_at_us.checked_sub(now_us + self.burst_us) {
            None | Some(0) => Ok(full_at_us),
            Some(wait_us) => Err(wait_us),
        }
    }
}

/// One bucket for all together.
pub struct Shared {
    rate: Rate,
    full_at_us: AtomicU64,
}

impl Shared {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at_us: AtomicU64::new(0) }
    }

    /// Takes one; `Err`: microseconds until there is one.
    pub fn take(&self, now_us: u64) -> Result<(), u64> {
        let mut full_at_us = self.full_at_us.load(Ordering::Relaxed);
        loop {
            let taken = self.rate.take(full_at_us, now_us)?;
            match self.full_at_us.compare_exchange_weak(full_at_us, taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at_us = other,
            }
        }
    }
}

/// A bucket for each.
pub struct Each {
    rate: Rate,
    hasher: RandomState,
    buckets: Box<[AtomicU64]>,
}

impl Each {
    /// Full buckets.
    pub fn new(rate: Rate) -> Self {
        let buckets = (0..ROWS * BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { rate, hasher: RandomState::new(), buckets }
    }

    /// Takes one of `whose`; `Err`: microseconds until there is one. Several at the same instant may all get the last one.
    pub fn take(&self, whose: &impl Hash, now_us: u64) -> Result<(), u64> {
        let mine = self.buckets_of(whose);
        let taken = self.rate.take(least(&mine), now_us)?;
        for bucket in mine {
            bucket.fetch_max(taken, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether one of `whose` could be taken; `Err`: microseconds until then.
    pub fn look(&self, whose: &impl Hash, now_us: u64) -> Result<(), u64> {
        self.rate.take(least(&self.buckets_of(whose)), now_us).map(drop)
    }

    fn buckets_of(&self, whose: &impl Hash) -> [&AtomicU64; ROWS] {
        let hash = self.hasher.hash_one(whose);
        std::array::from_fn(|row| {
            let column = (hash >> (row * 21)) as usize % BUCKETS;
            &self.buckets[row * BUCKETS + column]
        })
    }
}

fn least(buckets: &[&AtomicU64; ROWS]) -> u64 {
    buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const NOW: u64 = 1_700_000_000 * SECOND;

    #[test]
    fn a_burst_passes_then_the_rate() {
        let each = Each::new(Rate::per_minute(60));
        assert!((0..60).all(|_| each.take(&"a", NOW).is_ok()), "a minute's worth at once");
        assert_eq!(each.take(&"a", NOW), Err(SECOND));
        assert_eq!((each.look(&"a", NOW + SECOND / 4), each.look(&"b", NOW)), (Err(SECOND * 3 / 4), Ok(())));
        assert_eq!(each.take(&"a", NOW + SECOND), Ok(()));
        assert_eq!(each.take(&"a", NOW + SECOND), Err(SECOND));
        let later = NOW + 3600 * SECOND;
        assert_eq!((0..100).filter(|_| each.take(&"a", later).is_ok()).count(), 60, "no more than a burst is saved up");
    }

    #[test]
    fn two_thousand_floods_are_in_hardly_anyones_way() {
        let each = Each::new(Rate::per_minute(60));
        for flood in 0..2000_u32 {
            while each.take(&flood, NOW).is_ok() {}
        }
        let kept_out = (1_000_000..1_020_000_u32).filter(|other| each.look(other, NOW).is_err()).count();
        assert!(kept_out < 100, "{kept_out} of 20,000"); // 30 are expected: (1 - e^(-2000/16384))³
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_its_rate(gaps in proptest::collection::vec(0..5 * SECOND, 1..300)) {
            let (each, shared) = (Each::new(Rate::per_minute(30)), Shared::new(Rate::per_minute(30)));
            let (mut now, mut passed, mut at_the_gate) = (NOW, 0, 0);
            for gap in gaps {
                now += gap;
                passed += u64::from(each.take(&1, now).is_ok());
                at_the_gate += u64::from(shared.take(now).is_ok());
            }
            let most = 30 + (now - NOW) / (2 * SECOND);
            prop_assert!(passed <= most && at_the_gate <= most, "{passed} and {at_the_gate} of {most}");
            prop_assert_eq!(passed, at_the_gate);
        }
    }
}
