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

/// Figures of several, counted together.
#[derive(Clone, Debug)]
pub struct Together {
    least: f64,
    counts: [u64; BUCKETS],
    total: u64,
}

impl Together {
    /// Of all of these, which begin at the same figure; none where nothing has been counted.
    pub fn of(all: impl IntoIterator<Item = Quantiles>) -> Option<Self> {
        let mut together: Option<Self> = None;
        for one in all {
            let sum = together.get_or_insert(Self { least: one.least, counts: [0; BUCKETS], total: 0 });
            sum.total += u64::from(one.total);
            sum.counts.iter_mut().zip(one.counts).for_each(|(sum, count)| *sum += u64::from(count));
        }
        together.filter(|together| together.total > 0)
    }

    /// What a share of the figures, 0 to 1, do not exceed.
    pub fn at_most(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let bucket = bucket.unwrap_or(BUCKETS - 1) as f64; // all of them are seen by then
        self.least * 10_f64.powf((bucket + 0.5) * DECADES / BUCKETS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_are_counted_together() {
        let of = |figures: &[f64]| {
            let mut quantiles = Quantiles::new(1e-3);
            figures.iter().for_each(|figure| quantiles.add(*figure));
            quantiles
        };
        assert!(Together::of([]).is_none() && Together::of([of(&[])]).is_none());
        let together = Together::of([of(&[0.1, 0.1]), of(&[]), of(&[10.0])]).expect("three figures");
        let is_about = |figure: f64, expected: f64| (figure / expected).log10().abs() < DECADES / BUCKETS as f64;
        assert!(is_about(together.at_most(0.5), 0.1) && is_about(together.at_most(0.99), 10.0));
        assert_eq!(Some(together.at_most(0.5)), of(&[0.1, 0.1, 10.0]).at_most(0.5));
    }

    #[test]
    fn quantiles_are_near_and_fade() {
        let mut quantiles = Quantiles::new(1e-3);
        assert_eq!(quantiles.at_most(0.5), None);
        (1..=500).for_each(|n| quantiles.add(f64::from(n) / 100.0));
        let near = |share, expected: f64, quantiles: &Quantiles| {
            let found = quantiles.at_most(share).expect("counted");
            assert!((expected / 1.35..expected * 1.35).contains(&found), "{share}: {found}, not {expected}");
        };
        near(0.5, 2.5, &quantiles);
        near(0.99, 4.95, &quantiles);
        (0..2000).for_each(|_| quantiles.add(0.02));
        near(0.5, 0.02, &quantiles);
        near(0.9, 0.02, &quantiles);
        [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300].into_iter().for_each(|odd| quantiles.add(odd));
        assert!(quantiles.at_most(1.0).is_some_and(f64::is_finite));
    }
}
