//! One answer afterwards, for the account that paid for it.

use lumbung_openapi::money::NanoUsd;
use sqlx::Row;

use super::{Result, Store, StoreError, compact};
use crate::domain::ids::AccountId;
use crate::domain::posting::LedgerId;

/// What the books have of one answer, its attempts together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationRecord {
    /// The catalogue's model.
    pub model: String,
    /// The last provider that was asked.
    pub provider: String,
    /// When the client asked, Unix seconds.
    pub created_secs: i64,
    /// Prompt tokens charged.
    pub prompt_tokens: u32,
    /// How many of them came from a prefix cache.
    pub cached_tokens: u32,
    /// Completion tokens charged.
    pub completion_tokens: u32,
    /// What the client paid.
    pub charge: NanoUsd,
    /// How the last attempt ended.
    pub finish_reason: String,
    /// When the client asked, Unix microseconds; nothing where its gateway died.
    pub received_us: Option<i64>,
    /// When the first provider was asked, Unix microseconds; nothing where its gateway died.
    pub started_us: Option<i64>,
    /// When the first token came, Unix microseconds; nothing where none did, or its gateway died.
    pub first_token_us: Option<i64>,
    /// When the last attempt ended, Unix microseconds; nothing where its gateway died.
    pub finished_us: Option<i64>,
    /// The last attempt's ticket.
    pub ticket: String,
    /// How many attempts there were.
    pub attempts: u32,
}

impl Store {
    /// The answer that an account's client knows as `public_id`; `None` if the account has no such answer, or it is not
    /// settled yet.
    pub async fn generation(&self, account: &AccountId, public_id: &str) -> Result<Option<GenerationRecord>> {
        // `|| ''`: SQLite would rather go through all that the account ever asked.
        let select = "SELECT model, provider, created, prompt_tokens, cached_tokens, completion_tokens,
                CASE state WHEN 'withheld' THEN fee ELSE charge END, finish_reason, received_at, started_at,
                first_token_at, finished_at, ticket
            FROM attempts WHERE public_id = $1 AND account || '' = $2 ORDER BY job, attempt";
        let rows = sqlx::query(select).bind(public_id).bind(account.to_string()).fetch_all(&self.reader).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        let damaged = || StoreError::corrupt("an attempt's row is malformed");
        let sum = |column: usize| {
            let sum = rows.iter().try_fold(0i64, |sum, row| sum.checked_add(row.try_get(column).ok()?));
            sum.ok_or_else(damaged)
        };
        let tokens = |column: usize| u32::try_from(sum(column)?).map_err(|_| damaged());
        let earliest = |column: usize| -> Result<Option<i64>> {
            let moments =
                rows.iter().map(|row| Ok(row.try_get::<Option<i64>, _>(column)?)).collect::<Result<Vec<_>>>()?;
            Ok(moments.into_iter().flatten().min())
        };
        Ok(Some(GenerationRecord {
            model: last.try_get(0)?,
            provider: last.try_get(1)?,
            created_secs: last.try_get(2)?,
            prompt_tokens: tokens(3)?,
            cached_tokens: tokens(4)?,
            completion_tokens: tokens(5)?,
            charge: NanoUsd::from_nanos(sum(6)?),
            finish_reason: last.try_get(7)?,
            received_us: earliest(8)?,
            started_us: earliest(9)?,
            first_token_us: earliest(10)?,
            finished_us: last.try_get(11)?,
            ticket: compact::whole(last.try_get(12)?)?,
            attempts: u32::try_from(rows.len()).map_err(|_| damaged())?,
        }))
    }

    /// Whether an account has ever paid for credit.
    pub async fn has_paid(&self, account: &AccountId) -> Result<bool> {
        // The second condition is the index's own.
        let select = "SELECT p.id FROM entries e JOIN postings p ON p.id = e.posting
            WHERE e.account = $1 AND e.account LIKE 'credit:%' AND p.kind = 'credit_paid' LIMIT 1";
        let credit = LedgerId::credit(*account);
        Ok(sqlx::query(select).bind(credit.as_str()).fetch_optional(&self.reader).await?.is_some())
    }
}
