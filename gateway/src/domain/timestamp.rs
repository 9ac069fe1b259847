//! Moments as RFC 3339 writes them.

use super::calendar::Day;

const SECOND_US: i64 = 1_000_000;

/// `2026-11-25T16:35:28.25Z`, from Unix microseconds; the fraction as short as it goes.
pub fn format(us: i64) -> String {
    let (day, of_day) = (Day::of_us(us), us.rem_euclid(86_400 * SECOND_US));
    let (secs, fraction) = (of_day / SECOND_US, of_day % SECOND_US);
    let fraction = match fraction {
        0 => String::new(),
        fraction => format!(".{fraction:06}").trim_end_matches('0').to_owned(),
    };
    format!("{day}T{:02}:{:02}:{:02}{fraction}Z", secs / 3600, secs / 60 % 60, secs % 60)
}

/// Unix microseconds, from a moment of the years 1970 to 9999 with its offset from UTC.
pub fn parse(text: &str) -> Option<i64> {
    let (day, time) = text.split_at_checked(10)?;
    let day: Day = day.parse().ok()?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let (time, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let at = time.len().checked_sub(6)?;
            let (time, offset) = time.split_at_checked(at)?;
            let sign = match offset.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            (time, sign * minutes(&offset[1..])? * 60)
        }
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (hours_minutes, seconds) = clock.rsplit_once(':')?;
    let seconds = two_digits(seconds, 59)?;
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{:0<6}", fraction.get(..6).unwrap_or(fraction)).parse().ok()?;
    Some(day.start_us() + (minutes(hours_minutes)? * 60 + seconds - offset) * SECOND_US + micros)
}

/// `16:35`, in minutes.
fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    Some(two_digits(hours, 23)? * 60 + two_digits(minutes, 59)?)
}

fn two_digits(text: &str, most: i64) -> Option<i64> {
    let is_two = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| is_two && *number <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read() {
        let us = 1_795_386_601_000_000;
        assert_eq!(format(us), "2026-11-22T22:30:01Z");
        assert_eq!(format(us + 250_000), "2026-11-22T22:30:01.25Z");
        assert_eq!(format(1_614_265_330_000_042), "2021-02-25T15:02:10.000042Z");
        for (text, expected) in [
            ("2026-11-22T22:30:01Z", us),
            ("2026-11-23T05:30:01+07:00", us),
            ("2026-11-22t20:30:01.000001-02:00", us + 1),
            ("2026-11-22T22:30:01.2500009Z", us + 250_000),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "2026-11-22",
            "2026-11-22T22:30Z",
            "2026-11-22T22:30:01",
            "2026-02-30T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T22:30:01.Z",
            "2026-11-22T+2:30:01Z",
            "2026-11-22T22:30:0éZ",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
