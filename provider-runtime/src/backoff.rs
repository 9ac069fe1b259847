//! How long to wait before trying again.

use std::time::Duration;

/// Exponential backoff with full jitter: a random time up to a bound that doubles with each failure.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is up to `base`, none is above `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// How long to wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.base.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rand::random_range(0.0..=1.0))
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_start_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        for failures in 0..100 {
            let bound = Duration::from_millis(200 << failures.min(6)).min(Duration::from_secs(10));
            assert!(backoff.next_wait() <= bound, "after {failures} failures");
        }
        let longest = (0..200).map(|_| backoff.next_wait()).max().expect("200 waits");
        assert!(longest > Duration::from_secs(5), "jitter covers the whole range: {longest:?}");
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(200));
    }
}
