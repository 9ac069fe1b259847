//! The hours that a provider works in, as its owner says them: `22:00-08:00`, `mon-fri 18:00-08:00`, `sat-sun`.

use std::str::FromStr;

use chrono::{Datelike, Local, Timelike};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u16 = 24 * 60;

/// A time of the week by the clock on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallTime {
    /// Days since Monday.
    pub day: u8,
    /// Minutes since midnight.
    pub minute: u16,
}

impl WallTime {
    /// Now, where this machine says that it is (`TZ`, or `/etc/localtime`).
    pub fn now() -> Self {
        let now = Local::now();
        Self { day: now.weekday().num_days_from_monday() as u8, minute: (now.hour() * 60 + now.minute()) as u16 }
    }
}

/// Hours on some days of the week. Those that end before they begin last into the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// On which days they begin; the first bit is Monday's.
    days: u8,
    from: u16,
    to: u16,
}

impl Hours {
    /// Whether they are on at that time.
    pub fn include(&self, at: WallTime) -> bool {
        let begins_on = |day: u8| self.days & (1 << (day % 7)) != 0;
        match self.from < self.to {
            true => begins_on(at.day) && (self.from..self.to).contains(&at.minute),
            false => (begins_on(at.day) && at.minute >= self.from) || (begins_on(at.day + 6) && at.minute < self.to),
        }
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("'{text}' is no hours such as 22:00-08:00, mon-fri 18:00-08:00 or sat-sun");
        let (mut days, mut times) = (None, None);
        for word in text.split_whitespace() {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            match (parse_day(from), parse_day(to), parse_time(from), parse_time(to)) {
                (Some(from), Some(to), ..) if days.is_none() && times.is_none() => days = Some(days_between(from, to)),
                (.., Some(from), Some(to)) if times.is_none() && from != to && from < DAY => times = Some((from, to)),
                _ => return Err(expected()),
            }
        }
        if days.is_none() && times.is_none() {
            return Err(expected());
        }
        let (from, to) = times.unwrap_or((0, DAY));
        Ok(Self { days: days.unwrap_or(0x7f), from, to })
    }
}

fn parse_day(text: &str) -> Option<u8> {
    let day = DAYS.iter().position(|day| text.eq_ignore_ascii_case(day))?;
    Some(day as u8)
}

/// Both included, over the weekend if need be.
fn days_between(from: u8, to: u8) -> u8 {
    let count = (to + 7 - from) % 7;
    (0..=count).fold(0, |days, further| days | 1 << ((from + further) % 7))
}

fn parse_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let is_number = |text: &str| text.len() <= 2 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(hour) || minute.len() != 2 || !is_number(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let time = hour * 60 + minute;
    (minute < 60 && time <= DAY).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str, time: &str) -> WallTime {
        WallTime { day: parse_day(day).unwrap(), minute: parse_time(time).unwrap() }
    }

    #[test]
    fn hours_are_on_when_they_say() {
        for (hours, on, off) in [
            ("22:00-08:00", &["mon 22:00", "sun 23:59", "mon 00:00", "wed 07:59"][..], &["mon 21:59", "mon 08:00"][..]),
            ("9:00-17:30", &["sat 09:00", "sun 17:29"], &["sat 08:59", "sat 17:30", "sat 00:00"]),
            ("mon-fri 18:00-08:00", &["fri 18:00", "sat 07:59", "mon 18:00"], &["sat 18:00", "mon 07:59", "sun 23:00"]),
            ("sat-sun", &["sat 00:00", "sun 23:59"], &["fri 23:59", "mon 00:00"]),
            ("fri-mon 00:00-24:00", &["fri 00:00", "sun 12:00", "mon 23:59"], &["tue 00:00", "thu 23:59"]),
            ("sun 20:00-02:00", &["sun 20:00", "mon 01:59"], &["mon 20:00", "sun 01:00"]),
            ("Tue", &["tue 12:00"], &["wed 00:00", "mon 23:59"]),
        ] {
            let parsed: Hours = hours.parse().unwrap();
            for (times, is_on) in [(on, true), (off, false)] {
                for time in times {
                    let (day, time_of_day) = time.split_once(' ').unwrap();
                    assert_eq!(parsed.include(at(day, time_of_day)), is_on, "{hours} at {time}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_hours_is_refused() {
        for wrong in ["", "always", "22:00", "22-8", "25:00-08:00", "22:60-08:00", "08:00-08:00", "24:00-08:00"] {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
        for wrong in ["mon fri", "18:00-20:00 mon", "mon-fri 1:00-2:00 3:00-4:00", "mon-", "22:00 - 08:00", "1:0-2:00"]
        {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }
}
