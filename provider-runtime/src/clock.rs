//! The gateway's time. Tickets and receipts are dated by the gateway, so a provider whose clock is off by a minute
//! must not refuse every job: it keeps the difference that it saw when it joined.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// This machine's time, Unix seconds.
pub fn local_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The gateway's clock as this machine knows it.
#[derive(Debug, Default)]
pub struct GatewayClock {
    ahead_secs: AtomicI64,
}

impl GatewayClock {
    /// The gateway's time, Unix seconds; this machine's own until the gateway has told its time.
    pub fn now_secs(&self) -> u64 {
        local_secs().saturating_add_signed(self.ahead_secs.load(Ordering::Relaxed))
    }

    /// Takes the time from a `Date` header that has just arrived. Returns how many seconds the gateway is ahead.
    pub fn learn(&self, date: &str) -> Option<i64> {
        let ahead = parse_http_date(date)?.checked_signed_diff(local_secs())?;
        // A header names whole seconds: a difference of one says nothing.
        let ahead = if ahead.abs() <= 1 { 0 } else { ahead };
        self.ahead_secs.store(ahead, Ordering::Relaxed);
        Some(ahead)
    }
}

/// Unix seconds of an HTTP date in the only form that may be sent today: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
fn parse_http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let [day, month, year, time] = date.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>().try_into().ok()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let (hour, minute, second): (u64, u64, u64) = (hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?);
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days before a date, counted from 1 March so that the leap day comes last (Howard Hinnant, "days_from_civil").
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted_year + shifted_year / 4 - shifted_year / 100
        + shifted_year / 400
        + (153 * shifted_month + 2) / 5
        + day
        - 1;
    const DAYS_TO_1970: u64 = 719_468;
    Some((days - DAYS_TO_1970) * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        for bad in
            ["", "now", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT"]
        {
            assert_eq!(parse_http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_gateways_time_is_kept() {
        let clock = GatewayClock::default();
        assert!(clock.now_secs().abs_diff(local_secs()) <= 1);
        let ahead = clock.learn("Thu, 29 Feb 2024 23:59:59 GMT").expect("a date");
        assert!(ahead < 0);
        assert!(clock.now_secs().abs_diff(1_709_251_199) <= 1);
    }
}
