//! How long a model's providers take to their first token, and so how long to wait for one: learned from every answer, as
//! TCP learns its retransmission timeout (RFC 6298), and scaled by the request's length.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A request of so many bytes may take twice as long as an empty one, and so on in proportion.
const BYTES_PER_SCALE: f64 = 4096.0;
/// Deviations beyond the mean that are still ordinary, and how much longer than the ordinary is waited for.
const DEVIATIONS: f64 = 4.0;
const SLACK: f64 = 2.0;

/// Mean and mean deviation of the times to the first token, for a request of no length. Shared without a lock.
#[derive(Debug, Default)]
pub struct Pace {
    /// Mean (high half) and deviation, in microseconds; 0 while nothing is known.
    learned: AtomicU64,
}

impl Pace {
    /// An answer to a request of so many bytes took so long to its first token, or had not begun when it was given up.
    pub fn learn(&self, bytes: usize, took: Duration) {
        let sample = took.as_micros() as f64 / scale(bytes);
        let learn = |learned: u64| {
            let (mean, deviation) = unpack(learned);
            Some(match learned {
                0 => pack(sample, sample / 2.0),
                _ => pack(mean + (sample - mean) / 8.0, deviation + ((sample - mean).abs() - deviation) / 4.0),
            })
        };
        let _ = self.learned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, learn); // never refused
    }

    /// How long to wait for the first token of an answer to a request of so many bytes: between `floor` and `cap`, and as
    /// long as `cap` while nothing is known.
    pub fn patience(&self, bytes: usize, floor: Duration, cap: Duration) -> Duration {
        match self.learned.load(Ordering::Relaxed) {
            0 => cap,
            learned => {
                let (mean, deviation) = unpack(learned);
                let micros = (mean + DEVIATIONS * deviation) * SLACK * scale(bytes);
                Duration::from_micros(micros as u64).max(floor).min(cap)
            }
        }
    }
}

fn scale(bytes: usize) -> f64 {
    1.0 + bytes as f64 / BYTES_PER_SCALE
}

/// What is known is never 0.
fn pack(mean: f64, deviation: f64) -> u64 {
    (mean.max(1.0) as u32 as u64) << 32 | u64::from(deviation as u32)
}

fn unpack(learned: u64) -> (f64, f64) {
    ((learned >> 32) as f64, (learned & u64::from(u32::MAX)) as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOOR: Duration = Duration::from_millis(50);
    const CAP: Duration = Duration::from_secs(60);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn patience_follows_what_is_usual_for_the_model() {
        let pace = Pace::default();
        assert_eq!(pace.patience(0, FLOOR, CAP), CAP, "nothing is known");
        (0..100).for_each(|_| pace.learn(0, ms(300)));
        let usual = pace.patience(0, FLOOR, CAP);
        assert!((ms(600)..ms(700)).contains(&usual), "{usual:?}");
        let long = pace.patience(40_960, FLOOR, CAP);
        assert!((usual * 10..usual * 12).contains(&long), "eleven times the length: {long:?}");
        (0..100).for_each(|turn| pace.learn(0, ms(if turn % 2 == 0 { 100 } else { 500 })));
        assert!(pace.patience(0, FLOOR, CAP) > ms(1500), "who varies is given more");
        assert_eq!(pace.patience(1 << 30, FLOOR, CAP), CAP);
        (0..100).for_each(|_| pace.learn(0, ms(1)));
        assert_eq!(pace.patience(0, FLOOR, CAP), FLOOR);
    }

    #[test]
    fn a_fleet_that_has_become_slow_is_given_more_time() {
        let pace = Pace::default();
        (0..100).for_each(|_| pace.learn(0, ms(100)));
        let mut turns = 0;
        while pace.patience(0, FLOOR, CAP) < ms(2000) {
            pace.learn(0, pace.patience(0, FLOOR, CAP)); // given up, again and again
            turns += 1;
        }
        assert!(turns < 20, "{turns} turns");
    }

    proptest! {
        #[test]
        fn patience_is_within_its_bounds(samples in proptest::collection::vec((0..10_000_000usize, 0..600_000u64), 0..50), bytes in 0..10_000_000usize) {
            let pace = Pace::default();
            samples.into_iter().for_each(|(bytes, took)| pace.learn(bytes, ms(took)));
            let patience = pace.patience(bytes, FLOOR, CAP);
            prop_assert!((FLOOR..=CAP).contains(&patience));
        }
    }
}
