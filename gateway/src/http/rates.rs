//! OpenAI's `x-ratelimit-*` headers: where the caller's rates per minute stand. None for a rate that is not limited.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::limits::{Rate, Rates};

/// The headers of requests per minute: limit, remaining, reset.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
/// The headers of tokens per minute.
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// All of them, for scripts in browsers.
pub fn names() -> impl Iterator<Item = HeaderName> {
    REQUESTS.into_iter().chain(TOKENS)
}

/// Writes them.
pub fn write(rates: &Rates, headers: &mut HeaderMap) {
    for (rate, names) in [(rates.requests, REQUESTS), (rates.tokens, TOKENS)] {
        let Some(Rate { limit, remaining, reset_us }) = rate else { continue };
        let [limit_name, remaining_name, reset_name] = names;
        headers.insert(limit_name, HeaderValue::from(limit));
        headers.insert(remaining_name, HeaderValue::from(remaining));
        if let Ok(reset) = HeaderValue::try_from(duration(reset_us)) {
            headers.insert(reset_name, reset);
        }
    }
}

/// As Go writes durations and OpenAI therefore does (`6m0s`, `1.5s`, `20ms`), rounded up to the millisecond.
fn duration(us: i64) -> String {
    let ms = us.max(0).unsigned_abs().div_ceil(1000);
    let (hours, minutes, ms_left) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = match (ms_left / 1000, ms_left % 1000) {
        (whole, 0) => whole.to_string(),
        (whole, part) => format!("{whole}.{part:03}").trim_end_matches('0').to_owned(),
    };
    match (hours, minutes) {
        (0, 0) if ms > 0 && ms < 1000 => format!("{ms}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (us, text) in [
            (0, "0s"),
            (1, "1ms"),
            (20_000, "20ms"),
            (1_000_000, "1s"),
            (1_500_000, "1.5s"),
            (59_999_001, "1m0s"),
            (360_000_000, "6m0s"),
            (3_661_250_000, "1h1m1.25s"),
        ] {
            assert_eq!(duration(us), text, "{us}");
        }
    }

    #[test]
    fn only_what_is_limited_is_told() {
        let mut headers = HeaderMap::new();
        write(
            &Rates { requests: Some(Rate { limit: 60, remaining: 59, reset_us: 1_000_000 }), tokens: None },
            &mut headers,
        );
        assert_eq!(headers.len(), 3);
        assert_eq!(
            (&headers["x-ratelimit-limit-requests"], &headers["x-ratelimit-reset-requests"]),
            (&"60".parse().expect("text"), &"1s".parse().expect("text"))
        );
    }
}
