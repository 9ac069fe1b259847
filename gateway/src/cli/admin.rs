//! `admin`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;

use super::Report;
use crate::admin::token;
use crate::domain::role::Role;
use crate::store::Store;

/// The longest that a token may be good for, in seconds: a year.
const MAX_TTL_SECS: u64 = 366 * 86_400;

/// `admin …`
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Make a token for the API under /admin/v1. It is shown this once, and works until it expires.
    Token {
        /// What it allows: admin, billing or read-only.
        #[arg(long)]
        role: Role,
        /// How long it is good for, such as 15m, 1h or 30d; a year at most.
        #[arg(long, default_value = "1h", value_parser = ttl)]
        ttl: u64,
        /// Whom it is for: what the audit log will say.
        #[arg(long)]
        subject: String,
    },
}

pub(super) async fn run(action: Admin, store: &Store) -> anyhow::Result<Report> {
    let Admin::Token { role, ttl, subject } = action;
    if subject.is_empty() || subject.len() > 256 || subject.chars().any(char::is_control) {
        bail!("a subject has 1 to 256 characters, none of them a control character");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token = token::mint(&store.signing_keys().await?, &subject, role, ttl, now);
    let details = json!({ "token": token, "role": role, "subject": subject, "expires_at": now + ttl });
    Report::new(token, details)
}

/// Seconds, from a number and `s`, `m`, `h` or `d`.
fn ttl(text: &str) -> Result<u64, String> {
    let wrong = || "a number and s, m, h or d, such as 1h; a year at most".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let number = text.strip_suffix(unit).unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|secs| (1..=MAX_TTL_SECS).contains(secs)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_has_a_unit() {
        assert_eq!(ttl("90s"), Ok(90));
        assert_eq!(ttl("1h"), Ok(3600));
        assert_eq!(ttl("30d"), Ok(2_592_000));
        for wrong in ["", "1", "h", "0s", "-1h", "400d", "1 h", "1ö"] {
            assert!(ttl(wrong).is_err(), "{wrong}");
        }
    }
}
