//! Who has a free slot: a bit for each provider of a model, so that one can be found among many thousands that are full.
//!
//! A set bit is a hint, for whoever takes the slot must still win it. A cleared one is certain: it is cleared by whoever
//! takes the last slot, who looks again afterwards, and set by whoever gives one back.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// The bits, and how many jobs run in all.
#[derive(Debug, Default)]
pub struct Vacancies {
    words: Vec<AtomicU64>,
    running: AtomicI64,
}

impl Vacancies {
    /// For so many providers, none of whom has a free slot yet.
    pub fn new(providers: usize) -> Self {
        Self { words: (0..providers.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), running: AtomicI64::new(0) }
    }

    /// Number `at` has a free slot.
    pub fn set(&self, at: usize) {
        self.words[at / 64].fetch_or(1 << (at % 64), Ordering::SeqCst);
    }

    /// Number `at` has none.
    pub fn clear(&self, at: usize) {
        self.words[at / 64].fetch_and(!(1 << (at % 64)), Ordering::SeqCst);
    }

    /// More jobs run, or fewer.
    pub fn count(&self, jobs: i64) {
        self.running.fetch_add(jobs, Ordering::Relaxed);
    }

    /// Jobs that run now. Only an estimate: jobs that begin or end while this is being set up may be counted twice.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed).max(0) as u64
    }

    /// Those with a free slot among the numbers from `first` to before `end`, beginning with `from` and round to it again.
    pub fn free(&self, first: usize, end: usize, from: usize) -> impl Iterator<Item = usize> {
        let after = self.free_between(from.max(first), end);
        after.chain(self.free_between(first, from.clamp(first, end)))
    }

    fn free_between(&self, first: usize, end: usize) -> impl Iterator<Item = usize> {
        let words = first / 64..end.div_ceil(64).max(first / 64);
        words.flat_map(move |word| {
            let mut bits = self.words[word].load(Ordering::SeqCst);
            let low = word * 64;
            if low < first {
                bits &= u64::MAX << (first - low);
            }
            if low + 64 > end {
                bits &= u64::MAX.checked_shr((low + 64 - end) as u32).unwrap_or(0);
            }
            std::iter::from_fn(move || {
                let at = bits.trailing_zeros() as usize;
                bits &= bits.checked_sub(1)?;
                Some(low + at)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn free_slots_are_those_that_were_set(size in 1_usize..300, acts in proptest::collection::vec((any::<bool>(), 0_usize..300), 0..400), first in 0_usize..300, length in 0_usize..300, from in 0_usize..400) {
            let vacancies = Vacancies::new(size);
            let mut set = std::collections::BTreeSet::new();
            for (free, at) in acts {
                let at = at % size;
                if free { vacancies.set(at); set.insert(at); } else { vacancies.clear(at); set.remove(&at); }
            }
            let first = first.min(size);
            let end = (first + length).min(size);
            let found: Vec<usize> = vacancies.free(first, end, from).collect();
            let from = from.clamp(first, end);
            let expected: Vec<usize> = set.range(from..end).chain(set.range(first..from)).copied().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
