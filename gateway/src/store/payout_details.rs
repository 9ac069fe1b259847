//! Where providers want to be paid: what each signed with its own key, every version kept.

use std::time::Duration;

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Result, Store, StoreError, sql};
use crate::domain::ids::ProviderId;

/// Bytes of details at most.
pub const MAX_DETAILS: usize = 512;
/// How soon details may be changed again: the table only grows.
const CHANGE_AFTER: Duration = Duration::from_secs(60);

/// Where a provider wants to be paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PayoutDetails {
    /// Counted from one.
    pub version: i64,
    /// In its own words: an IBAN, a wallet.
    pub details: String,
    /// Unix microseconds.
    pub set_at_us: i64,
}

impl Store {
    /// Sets where a provider that has joined wants to be paid. The same details again change nothing. Fails with `Missing`
    /// for a provider that never joined, with `Invalid` for details that are empty, too long or not one line, and with
    /// `Conflict` within a minute of the last change.
    pub async fn set_payout_details(&self, provider: &ProviderId, details: &str) -> Result<PayoutDetails> {
        let details = details.trim();
        if details.is_empty() || details.len() > MAX_DETAILS || details.chars().any(char::is_control) {
            return Err(StoreError::Invalid("payout details must be one line of 1 to 512 bytes"));
        }
        sql::retrying(|| self.try_set_payout_details(provider, details)).await
    }

    async fn try_set_payout_details(&self, provider: &ProviderId, details: &str) -> Result<PayoutDetails> {
        let mut tx = self.transaction().await?;
        // The provider's row is the lock: versions come one after the other.
        let lock = "UPDATE providers SET first_seen = first_seen WHERE id = $1";
        if sqlx::query(lock).bind(provider.as_str()).execute(&mut *tx).await?.rows_affected() == 0 {
            return Err(StoreError::Missing("provider"));
        }
        let now_us: i64 = sql::query(format!("SELECT {}", self.clock())).fetch_one(&mut *tx).await?.try_get(0)?;
        let known = sqlx::query(CURRENT).bind(provider.as_str()).fetch_optional(&mut *tx).await?;
        let known = known.as_ref().map(row).transpose()?;
        match &known {
            Some(known) if known.details == details => return Ok(known.clone()),
            Some(known) if now_us < known.set_at_us + CHANGE_AFTER.as_micros() as i64 => {
                return Err(StoreError::Conflict("payout details were changed less than a minute ago".into()));
            }
            _ => {}
        }
        let version = known.map_or(1, |known| known.version + 1);
        let insert = "INSERT INTO payout_details (provider, version, details, set_at) VALUES ($1, $2, $3, $4)";
        let insert = sqlx::query(insert).bind(provider.as_str()).bind(version).bind(details).bind(now_us);
        insert.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(PayoutDetails { version, details: details.to_owned(), set_at_us: now_us })
    }

    /// Where a provider wants to be paid, as it said last.
    pub async fn payout_details(&self, provider: &ProviderId) -> Result<Option<PayoutDetails>> {
        let found = sqlx::query(CURRENT).bind(provider.as_str()).fetch_optional(&self.reader).await?;
        found.as_ref().map(row).transpose()
    }
}

const CURRENT: &str = "SELECT version, details, set_at FROM payout_details WHERE provider = $1
                       ORDER BY version DESC LIMIT 1";

fn row(row: &AnyRow) -> Result<PayoutDetails> {
    Ok(PayoutDetails { version: row.try_get(0)?, details: row.try_get(1)?, set_at_us: row.try_get(2)? })
}
