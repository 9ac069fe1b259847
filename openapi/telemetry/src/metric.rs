//! Counters and histograms for places where requests pass: no lock, no allocation, and threads do not meet.
//!
//! Each figure is kept in [`SHARDS`] parts on cache lines of their own; a thread adds to its part, with relaxed ordering,
//! and whoever reads adds the parts up. So a reader may see one figure of a request and not yet another of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Parts of a figure: threads beyond so many share.
pub const SHARDS: usize = 8;
/// The most bounds that a histogram has.
pub const MAX_BOUNDS: usize = 16;
/// The most names of a [`Tally`]; what comes beyond is counted as [`OTHER`].
const MAX_NAMES: usize = 48;
/// The name of what has no name of its own any more.
pub const OTHER: &str = "other";

/// The part that this thread adds to.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    OWN.with(|own| *own)
}

/// A value on cache lines of its own (two, because processors fetch them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// A number that only grows.
#[derive(Default)]
pub struct Counter([Apart<AtomicU64>; SHARDS]);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0[shard()].0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.iter().fold(0, |sum, part| sum.wrapping_add(part.0.load(Ordering::Relaxed)))
    }
}

/// How often times fell below each of some bounds.
pub struct Histogram {
    /// In microseconds, ascending.
    bounds: &'static [u64],
    parts: [Apart<Part>; SHARDS],
}

#[derive(Default)]
struct Part {
    /// By bucket; the last is for what is above every bound.
    counts: [AtomicU64; MAX_BOUNDS + 1],
    /// Microseconds.
    sum: AtomicU64,
}

/// A histogram's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Upper bound in microseconds and how many were at most that, but above the one before; `None` is above all.
    pub buckets: Vec<(Option<u64>, u64)>,
    /// Of all of them, microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// Bounds are in microseconds, ascending, [`MAX_BOUNDS`] at most.
    pub fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= MAX_BOUNDS && bounds.is_sorted(), "bounds of a histogram");
        Self { bounds, parts: Default::default() }
    }

    /// Takes a time into account.
    pub fn observe_us(&self, us: u64) {
        let part = &self.parts[shard()].0;
        let bucket = self.bounds.partition_point(|bound| *bound < us);
        part.counts[bucket].fetch_add(1, Ordering::Relaxed);
        part.sum.fetch_add(us, Ordering::Relaxed);
    }

    /// The state now.
    pub fn read(&self) -> Reading {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let count = |bucket: usize| self.parts.iter().map(|part| part.0.counts[bucket].load(Ordering::Relaxed)).sum();
        Reading {
            buckets: bounds.enumerate().map(|(bucket, bound)| (bound, count(bucket))).collect(),
            sum_us: self.parts.iter().fold(0, |sum, part| sum.wrapping_add(part.0.sum.load(Ordering::Relaxed))),
        }
    }
}

/// A number for each of a few names, which the code itself gives: never a name that somebody sends.
pub struct Tally([(OnceLock<&'static str>, AtomicU64); MAX_NAMES]);

impl Default for Tally {
    fn default() -> Self {
        Self([const { (OnceLock::new(), AtomicU64::new(0)) }; MAX_NAMES])
    }
}

impl Tally {
    /// These are told from the beginning, as nothing yet: what appears with its first event has not risen, for Prometheus.
    pub fn of(names: &[&'static str]) -> Self {
        let tally = Self::default();
        names.iter().for_each(|name| tally.add(name, 0));
        tally
    }

    /// Counts one more.
    pub fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    /// Counts so many more.
    pub fn add(&self, name: &'static str, more: u64) {
        let (last, slots) = self.0.split_last().expect("a tally has slots");
        let slot = slots.iter().find(|(known, _)| *known.get_or_init(|| name) == name).unwrap_or(last);
        slot.0.get_or_init(|| OTHER);
        slot.1.fetch_add(more, Ordering::Relaxed);
    }

    /// Every name that was counted, and how often.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().filter_map(|(name, count)| Some((*name.get()?, count.load(Ordering::Relaxed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_many_threads_count() {
        let (counter, tally, histogram) = (Counter::default(), Tally::default(), Histogram::new(&[10, 100]));
        std::thread::scope(|scope| {
            for thread in 0..12_u64 {
                let (counter, tally, histogram) = (&counter, &tally, &histogram);
                scope.spawn(move || {
                    for _ in 0..1000 {
                        counter.add(2);
                        tally.count(if thread % 2 == 0 { "even" } else { "odd" });
                        histogram.observe_us(10 * (thread % 3 + 1)); // 10, 20, 30
                    }
                });
            }
        });
        assert_eq!(counter.get(), 24_000);
        let mut read: Vec<_> = tally.read().collect();
        read.sort_unstable();
        assert_eq!(read, [("even", 6000), ("odd", 6000)]);
        let reading = histogram.read();
        assert_eq!(reading.buckets, [(Some(10), 4000), (Some(100), 8000), (None, 0)]);
        assert_eq!(reading.sum_us, 4000 * (10 + 20 + 30));
    }

    #[test]
    fn a_tally_that_is_full_counts_the_rest_together() {
        let tally = Tally::default();
        for number in 0..MAX_NAMES + 5 {
            tally.count(Box::leak(format!("name {number}").into_boxed_str()));
        }
        let read: Vec<_> = tally.read().collect();
        assert_eq!(read.len(), MAX_NAMES);
        assert_eq!(read.last(), Some(&(OTHER, 6)));
    }

    /// `cargo test --release -p lumbung-telemetry -- --ignored --nocapture` says what counting costs.
    #[test]
    #[ignore = "a measurement, not a check"]
    fn what_it_costs() {
        let (counter, tally) = (Counter::default(), Tally::default());
        let histogram = Histogram::new(&crate::genai::DURATION_US);
        for (name, count) in [("other", 1), ("complete", 1)] {
            tally.add(name, count);
        }
        let per = |what: &str, work: &dyn Fn(u64)| {
            let began = std::time::Instant::now();
            (0..10_000_000).for_each(work);
            println!("{what}: {:.1} ns", began.elapsed().as_nanos() as f64 / 1e7);
        };
        per("counter", &|n| counter.add(n));
        per("tally", &|_| tally.count("complete"));
        per("histogram", &|n| histogram.observe_us(n % 5_000_000));
    }
}
