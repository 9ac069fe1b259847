//! What was spent, by day: enough to tell any period's sum.

use std::collections::BTreeMap;

use lumbung_openapi::money::NanoUsd;

use super::Period;
use crate::domain::calendar::Day;

/// What was spent, by day and in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    total: i64,
    /// Since the beginning of this week or month, whichever is earlier.
    days: BTreeMap<Day, i64>,
}

impl Spent {
    /// Adds what was spent on a day. A sum beyond 64 bits stays at the largest: no budget is larger.
    pub fn add(&mut self, day: Day, amount: NanoUsd) {
        self.total = self.total.saturating_add(amount.nanos());
        let sum = self.days.entry(day).or_default();
        *sum = sum.saturating_add(amount.nanos());
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &Self) {
        let dated = other.days.values().fold(0i64, |sum, day| sum.saturating_add(*day));
        self.total = self.total.saturating_add(other.total.saturating_sub(dated));
        for (day, amount) in &other.days {
            self.add(*day, NanoUsd::from_nanos(*amount));
        }
    }

    /// What is in here and not in `part`, day by day; never below zero.
    pub fn without(&self, part: &Self) -> Self {
        let mut rest = Self::default();
        for (day, amount) in &self.days {
            let less = part.days.get(day).copied().unwrap_or(0);
            rest.add(*day, NanoUsd::from_nanos(amount.saturating_sub(less).max(0)));
        }
        rest.total = self.total.saturating_sub(part.total).max(rest.total);
        rest
    }

    /// The sum of the period that `today` belongs to.
    pub fn within(&self, period: Period, today: Day) -> NanoUsd {
        let sum = match period {
            Period::Total => self.total,
            period => self.days.range(period.first_day(today)..).fold(0i64, |sum, (_, day)| sum.saturating_add(*day)),
        };
        NanoUsd::from_nanos(sum)
    }

    /// Forgets days that no period of `today` reaches back to; their sum stays.
    pub fn forget(&mut self, today: Day) {
        let first = Period::Week.first_day(today).min(Period::Month.first_day(today));
        if self.days.first_key_value().is_some_and(|(day, _)| *day < first) {
            self.days = self.days.split_off(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        text.parse().expect("a day")
    }

    #[test]
    fn each_period_has_its_own_sum() {
        let mut spent = Spent::default();
        for (on, nanos) in [("2026-10-31", 1000), ("2026-11-01", 100), ("2026-11-23", 10), ("2026-11-25", 1)] {
            spent.add(day(on), NanoUsd::from_nanos(nanos));
        }
        let sums = |spent: &Spent, today| Period::ALL.map(|period| spent.within(period, day(today)).nanos());
        assert_eq!(sums(&spent, "2026-11-25"), [1, 11, 111, 1111]);
        assert_eq!(sums(&spent, "2026-12-01"), [0, 0, 0, 1111]);
        spent.forget(day("2026-11-25"));
        assert_eq!(sums(&spent, "2026-11-25"), [1, 11, 111, 1111], "what is forgotten is in no period");
        let mut both = spent.clone();
        both.add_all(&spent);
        assert_eq!(sums(&both, "2026-11-25"), [2, 22, 222, 2222]);
        assert_eq!(both.without(&spent), spent);
    }

    #[test]
    fn sums_never_wrap() {
        let mut spent = Spent::default();
        spent.add(day("2026-11-25"), NanoUsd::MAX);
        spent.add(day("2026-11-25"), NanoUsd::MAX);
        assert_eq!(spent.within(Period::Day, day("2026-11-25")), NanoUsd::MAX);
    }
}
