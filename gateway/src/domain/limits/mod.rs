//! What a key or an account may do: budgets, rates, models, expiry. Pure; `now` is passed in.
//!
//! A request passes the limits of its key and of its account, so the tighter one decides.

mod bucket;
mod exchange;
mod gauge;
mod lease;
mod log;
mod meter;
mod mode;
mod places;
mod purse;
mod spent;
#[cfg(test)]
mod together;

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;

use super::calendar::Day;
use super::ids::AccountId;
use super::ids::{KeyId, ModelId};
pub use bucket::Rate;
pub use exchange::{
    LineOwner, MoneyReply, MoneyReport, PlacesReply, PlacesReport, RateReply, RateReport, Reply, Report,
};
pub use gauge::{Ask, Denied, Gauge, Need, Rates};
pub use log::EXACT_BELOW;
pub use mode::{Caps, Mode, Share};
pub use spent::Spent;

/// Whose limits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitOwner {
    /// An account's, over all its keys.
    Account(AccountId),
    /// A key's.
    Key(KeyId),
}

impl std::fmt::Display for LimitOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Account(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
        }
    }
}

/// Limits; `None`: there is no such limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// What may be spent, by period.
    #[serde(flatten)]
    pub budgets: Budgets,
    /// The catalogue's models that may be asked for, by their ids.
    pub models: Option<Vec<ModelId>>,
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    pub concurrent_requests: Option<u32>,
    /// From then on nothing is served; Unix microseconds.
    pub expires_at_us: Option<i64>,
    /// Whether providers on probation may serve.
    pub allow_probation: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            budgets: Budgets::default(),
            models: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrent_requests: None,
            expires_at_us: None,
            allow_probation: true,
        }
    }
}

impl Limits {
    /// Whether this model may be asked for.
    pub fn allows(&self, model: &ModelId) -> bool {
        self.models.as_ref().is_none_or(|models| models.contains(model))
    }

    /// Those that are counted.
    pub fn caps(&self) -> Caps {
        Caps {
            requests: self.requests_per_minute,
            tokens: self.tokens_per_minute,
            places: self.concurrent_requests,
            budgets: self.budgets,
        }
    }

    /// Whether they have run out at `now_us` (Unix microseconds).
    pub fn has_expired(&self, now_us: i64) -> bool {
        self.expires_at_us.is_some_and(|at| at <= now_us)
    }
}

/// What may be spent in a period: days, weeks (from Monday) and months of the calendar, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Budgets {
    /// In a day.
    #[serde(rename = "budget_day_usd")]
    pub day: Option<NanoUsd>,
    /// In a week.
    #[serde(rename = "budget_week_usd")]
    pub week: Option<NanoUsd>,
    /// In a month.
    #[serde(rename = "budget_month_usd")]
    pub month: Option<NanoUsd>,
    /// In all.
    #[serde(rename = "budget_total_usd")]
    pub total: Option<NanoUsd>,
}

impl Budgets {
    /// A period's budget.
    pub fn of(&self, period: Period) -> Option<NanoUsd> {
        match period {
            Period::Day => self.day,
            Period::Week => self.week,
            Period::Month => self.month,
            Period::Total => self.total,
        }
    }

    /// Sets a period's budget.
    pub fn set(&mut self, period: Period, budget: Option<NanoUsd>) {
        match period {
            Period::Day => self.day = budget,
            Period::Week => self.week = budget,
            Period::Month => self.month = budget,
            Period::Total => self.total = budget,
        }
    }

    /// The first day whose spending matters at `today`; `None`: there is no budget.
    pub fn first_day(&self, today: Day) -> Option<Day> {
        Period::ALL.into_iter().filter(|period| self.of(*period).is_some()).map(|period| period.first_day(today)).min()
    }
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day, UTC.
    Day,
    /// A week, from Monday, UTC.
    Week,
    /// A month, UTC.
    Month,
    /// All time.
    Total,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    /// As an adjective.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Total => "total",
        }
    }

    /// The first day of the one that `today` belongs to.
    pub fn first_day(self, today: Day) -> Day {
        match self {
            Self::Day => today,
            // 1970 began on a Thursday.
            Self::Week => Day::from_number(today.number() - (today.number() + 3).rem_euclid(7)),
            Self::Month => today.month().first_day(),
            Self::Total => Day::from_number(0),
        }
    }

    /// The day on which the next one begins; all time has no next.
    pub fn next_day(self, today: Day) -> Option<Day> {
        match self {
            Self::Day => Some(today.next()),
            Self::Week => Some(Day::from_number(self.first_day(today).number() + 7)),
            Self::Month => Some(today.month().next().first_day()),
            Self::Total => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_and_end_with_the_calendar() {
        let day = |text: &str| text.parse::<Day>().expect("a day");
        let today = day("2026-11-25"); // a Wednesday
        let period = |period: Period| (period.first_day(today), period.next_day(today));
        assert_eq!(period(Period::Day), (today, Some(day("2026-11-26"))));
        assert_eq!(period(Period::Week), (day("2026-11-23"), Some(day("2026-11-30"))));
        assert_eq!(period(Period::Month), (day("2026-11-01"), Some(day("2026-12-01"))));
        assert_eq!(period(Period::Total), (Day::from_number(0), None));
        assert_eq!(Period::Week.first_day(day("2026-11-23")), day("2026-11-23"), "Monday begins its own week");
        assert_eq!(Period::Week.first_day(day("2026-11-22")), day("2026-11-16"), "Sunday ends it");
    }

    #[test]
    fn no_limits_allow_everything() {
        let limits = Limits::default();
        assert!(limits.allow_probation && !limits.has_expired(i64::MAX));
        let model = "a/b".parse().expect("a model");
        assert!(limits.allows(&model));
        let none = Limits { models: Some(vec![]), expires_at_us: Some(5), ..limits };
        assert!(!none.allows(&model) && !none.has_expired(4) && none.has_expired(5));
    }
}
