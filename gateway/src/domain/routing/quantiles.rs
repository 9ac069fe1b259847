//! How a figure is spread, in little memory, the latest counting most.

/// Buckets over six powers of ten: neighbours differ by a third.
const BUCKETS: usize = 48;
const DECADES: f64 = 6.0;
/// When so many have been counted, all counts are halved: what is old fades.
const FADE_AT: u32 = 512;

/// Counts of positive figures from `least` to a million times as much.
#[derive(Clone, Debug)]
pub struct Quantiles {
    least: f64,
    counts: [u16; BUCKETS],
    total: u32,
}

impl Quantiles {
    /// Nothing counted.
    pub fn new(least: f64) -> Self {
        Self { least, counts: [0; BUCKETS], total: 0 }
    }

    /// Counts one.
    pub fn add(&mut self, figure: f64) {
        if self.total >= FADE_AT {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
        let at = (figure / self.least).log10() / DECADES * BUCKETS as f64;
        self.counts[(at.max(0.0) as usize).min(BUCKETS - 1)] += 1; // what is no number counts as the least
        self.total += 1;
    }

    /// What a share of the figures, 0 to 1, do not exceed; none where nothing has been counted.
    pub fn at_most(&self, share: f64) -> Option<f64> {
        let wanted = (share * f64::from(self.total)).ceil().max(1.0) as u32;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += u32::from(*count);
            seen >= wanted
        })?;
        Some(self.least * 10_f64.powf((bucket as f64 + 0.5) * DECADES / BUCKETS as f64))
    }
}
