//! The gateway's time. Tickets and receipts are dated by the gateway, so a provider whose clock is off by a minute, or is set
//! while it runs, must not refuse every job: it goes by what the gateway said when it joined, and by what has passed since.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// This machine's time, Unix seconds.
pub fn local_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The gateway's clock as this machine knows it.
#[derive(Debug, Default)]
pub struct GatewayClock {
    /// The gateway's time, Unix seconds, and when it was that.
    told: Mutex<Option<(u64, Instant)>>,
}

impl GatewayClock {
    /// The gateway's time, Unix seconds; this machine's own until the gateway has told its time.
    pub fn now_secs(&self) -> u64 {
        self.at(Instant::now()).unwrap_or_else(local_secs)
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.map(|(secs, then)| secs.saturating_add(now.saturating_duration_since(then).as_secs()))
    }

    /// Takes the time from a `Date` header that has just arrived. Returns how many seconds the gateway is ahead of this machine.
    pub fn learn(&self, date: &str) -> Option<i64> {
        let local = local_secs();
        let ahead = parse_http_date(date)?.checked_signed_diff(local)?;
        // A header names whole seconds: a difference of one says nothing.
        let ahead = if ahead.abs() <= 1 { 0 } else { ahead };
        let told = (local.saturating_add_signed(ahead), Instant::now());
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
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
        // What this machine's own clock says meanwhile does not matter.
        let later = clock.at(Instant::now() + std::time::Duration::from_secs(3600)).expect("it was told");
        assert!(later.abs_diff(1_709_251_199 + 3600) <= 1);
    }
}
