//! How many retries a model's traffic may cause: a share of its requests, and a few a second beside. When all providers
//! fail, retries must not make twice the load of it. Time is passed in.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What a request adds to the budget, in thousandths of a retry: one retry for five requests.
const EARNED: i64 = 200;
/// What a retry costs.
const RETRY: i64 = 1000;
/// What can be saved up: as much as a burst of failures may use at once.
const MOST: i64 = 200 * RETRY;
/// Retries that are allowed in every second whatever the traffic, so that few requests can be retried too.
const ALWAYS: u64 = 25;

/// A budget for retries. Shared without a lock.
#[derive(Debug, Default)]
pub struct RetryBudget {
    saved: AtomicI64,
    /// A second, and how many retries it has had beyond what was saved: shifted by 16 bits, and added.
    second: AtomicU64,
}

impl RetryBudget {
    /// A request has come.
    pub fn earn(&self) {
        let more = |saved: i64| (saved < MOST).then(|| (saved + EARNED).min(MOST));
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more); // full already
    }

    /// Takes a retry out of the budget, if there is one.
    pub fn spend(&self, now_secs: u64) -> bool {
        let less = |saved: i64| (saved >= RETRY).then(|| saved - RETRY);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() || self.spend_of_second(now_secs)
    }

    fn spend_of_second(&self, now_secs: u64) -> bool {
        let next = |state: u64| {
            let used = if state >> 16 == now_secs { state & 0xFFFF } else { 0 };
            (used < ALWAYS).then_some(now_secs << 16 | (used + 1))
        };
        self.second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_the_traffic_and_a_few_a_second() {
        let budget = RetryBudget::default();
        assert_eq!((0..100).filter(|_| budget.spend(7)).count() as u64, ALWAYS, "without any traffic");
        (0..50).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend(7)).count(), 10);
        assert_eq!((0..100).filter(|_| budget.spend(8)).count() as u64, ALWAYS);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..1000).filter(|_| budget.spend(8)).count(), 200, "no more is saved up");
    }

    proptest! {
        #[test]
        fn there_is_never_a_storm(steps in proptest::collection::vec((0..40u32, 0..40u32, 0..3u64), 0..100)) {
            let (budget, mut now) = (RetryBudget::default(), 1000);
            let (mut requests, mut retries) = (0u64, 0u64);
            for (earned, tried, pause) in steps {
                now += pause;
                (0..earned).for_each(|_| budget.earn());
                requests += u64::from(earned);
                retries += (0..tried).filter(|_| budget.spend(now)).count() as u64;
                prop_assert!(retries <= requests / 5 + ALWAYS * (now - 1000 + 1));
            }
        }
    }
}
