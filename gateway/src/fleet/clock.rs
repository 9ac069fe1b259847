//! Wall-clock time, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub fn unix_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Seconds since 1970.
pub fn unix_secs() -> u64 {
    unix_micros() as u64 / 1_000_000
}
