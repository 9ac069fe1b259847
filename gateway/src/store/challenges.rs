//! Challenges that were answered: each is good for one answer, whichever gateway it comes to.

use super::{Result, Store, sql};

/// How long an answered challenge is remembered beyond its end, in microseconds: gateways' clocks differ from the database's.
const MARGIN_US: i64 = 600 * 1_000_000;
/// Rows forgotten by one statement.
const FORGET_AT_ONCE: usize = 10_000;

impl Store {
    /// Takes note that a challenge was answered; `false` if it was before. `expires_at`: Unix seconds after which no
    /// gateway takes an answer to it.
    pub async fn answer_challenge(&self, nonce: &str, expires_at: u64) -> Result<bool> {
        let insert =
            "INSERT INTO answered_challenges (nonce, expires_at) VALUES ($1, $2) ON CONFLICT (nonce) DO NOTHING";
        let expires_at_us = i64::try_from(expires_at).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Ok(sqlx::query(insert).bind(nonce).bind(expires_at_us).execute(&self.writer).await?.rows_affected() == 1)
    }

    /// Forgets what nobody can answer any more; how many.
    pub async fn forget_challenges(&self) -> Result<u64> {
        let forget = format!(
            "DELETE FROM answered_challenges WHERE nonce IN (SELECT nonce FROM answered_challenges
             WHERE expires_at < {} - $1 ORDER BY expires_at LIMIT {FORGET_AT_ONCE})",
            self.clock()
        );
        Ok(sql::query(forget).bind(MARGIN_US).execute(&self.writer).await?.rows_affected())
    }
}
