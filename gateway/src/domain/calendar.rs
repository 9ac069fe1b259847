//! Days and months, UTC.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds in a day.
const DAY_US: i64 = 86_400_000_000;

/// A day, as `2026-11-25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

/// A month, as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: i64,
    month: i64,
}

/// Why a text is no day or month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {0}")]
pub struct ParseDateError(&'static str);

impl Day {
    /// The day that a time belongs to; Unix microseconds.
    pub fn of_us(us: i64) -> Self {
        Self(us.div_euclid(DAY_US))
    }

    /// From days since 1970.
    pub const fn from_number(days: i64) -> Self {
        Self(days)
    }

    /// Days since 1970.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// Its first moment, Unix microseconds.
    pub const fn start_us(self) -> i64 {
        self.0.saturating_mul(DAY_US)
    }

    /// The day after.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The month that it belongs to.
    pub fn month(self) -> Month {
        let (year, month, _) = civil(self.0);
        Month { year, month }
    }
}

impl Month {
    /// Its first day.
    pub fn first_day(self) -> Day {
        Day(days_before(self.year, self.month, 1))
    }

    /// The month after.
    pub fn next(self) -> Self {
        match self.month {
            12 => Self { year: self.year + 1, month: 1 },
            month => Self { month: month + 1, ..self },
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Day {
    type Err = ParseDateError;

    fn from_str(text: &str) -> Result<Self, ParseDateError> {
        let wrong = ParseDateError("day (2026-11-25)");
        let (month, day) = text.rsplit_once('-').ok_or(wrong)?;
        let month: Month = month.parse().map_err(|_| wrong)?;
        let day = Self(days_before(month.year, month.month, digits(day, 2).ok_or(wrong)?));
        // One spelling each, and no 31st of February.
        if day.to_string() == text { Ok(day) } else { Err(wrong) }
    }
}

impl FromStr for Month {
    type Err = ParseDateError;

    fn from_str(text: &str) -> Result<Self, ParseDateError> {
        let wrong = ParseDateError("month (2026-11)");
        let (year, month) = text.split_once('-').ok_or(wrong)?;
        let (year, month) = (digits(year, 4).ok_or(wrong)?, digits(month, 2).ok_or(wrong)?);
        match year >= 1 && (1..=12).contains(&month) {
            true => Ok(Self { year, month }),
            false => Err(wrong),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Day);
as_text!(Month);

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Year, month and day from days since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

/// Days from 1970 to a date (the same source, days_from_civil).
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_is_read_back_from_its_text() {
        for number in -30_000..60_000 {
            let day = Day(number);
            assert_eq!(day.to_string().parse(), Ok(day));
            assert!(day.month().first_day() <= day && day < day.month().next().first_day(), "{day}");
        }
        assert_eq!(Day(11_016).to_string(), "2000-02-29");
        assert_eq!(Day::of_us(1_795_386_601_000_000).to_string(), "2026-11-22");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for wrong in ["", "2026-02-29", "2026-13-01", "2026-1-01", "0000-12-31", "2026-11", "2026-11-25 ", "+026-11-25"]
        {
            assert!(wrong.parse::<Day>().is_err(), "{wrong:?}");
        }
        for wrong in ["", "2026", "2026-00", "2026-13", "2026-1", "2026-11-01", "0000-12"] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong:?}");
        }
        let month: Month = "2026-12".parse().expect("a month");
        assert_eq!(
            (month.next().to_string().as_str(), month.first_day().to_string().as_str()),
            ("2027-01", "2026-12-01")
        );
    }
}
