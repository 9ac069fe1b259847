//! Earnings whose holdback time is over become payable: each attempt's once, and only with its signed receipt.

use std::collections::BTreeMap;
use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use sqlx::{AnyConnection, Row};

use super::{Result, Store, StoreError, ledger, micros, sql};
use crate::domain::ids::ProviderId;
use crate::domain::posting::{LedgerId, Posting, PostingKind};

/// Attempts in one transaction.
const CHUNK: i64 = 2000;

impl Store {
    /// Makes payable what was settled longer than `holdback` ago, has its signed receipt, and was neither clawed back nor
    /// paid with promotional credit. Returns how many attempts that were; callers may run at the same time.
    pub async fn mature(&self, holdback: Duration) -> Result<u64> {
        let mut matured = 0;
        loop {
            let some = sql::retrying(|| self.mature_some(micros(holdback))).await?;
            matured += some;
            if some < CHUNK.unsigned_abs() {
                return Ok(matured);
            }
        }
    }

    async fn mature_some(&self, holdback_us: i64) -> Result<u64> {
        let clock = self.clock();
        let mut tx = self.transaction().await?;
        let now_us = turn(&mut tx, &clock).await?;
        let due = "receipt_batch IS NOT NULL AND state = 'settled' AND matured_at IS NULL AND settled_at < $1";
        let mark = format!(
            "UPDATE attempts SET matured_at = $2 WHERE {due} AND (job, attempt) IN
                (SELECT job, attempt FROM attempts WHERE {due} ORDER BY settled_at LIMIT {CHUNK})
             RETURNING provider, charge - fee - promotional_share - clawed_back"
        );
        let before = now_us.saturating_sub(holdback_us);
        let rows = sql::query(mark).bind(before).bind(now_us).fetch_all(&mut *tx).await?;
        let mut sums: BTreeMap<String, NanoUsd> = BTreeMap::new();
        for row in &rows {
            let sum = sums.entry(row.try_get(0)?).or_default();
            let share = NanoUsd::from_nanos(row.try_get(1)?);
            *sum = sum.checked_add(share).ok_or(StoreError::corrupt("shares overflow"))?;
        }
        let mut postings = Vec::with_capacity(sums.len());
        for (provider, amount) in sums.into_iter().filter(|(_, amount)| *amount != NanoUsd::ZERO) {
            let provider: ProviderId = provider.parse().map_err(|_| StoreError::corrupt("an id is malformed"))?;
            let (pending, payable) = (LedgerId::provider_pending(&provider), LedgerId::provider_payable(&provider));
            ledger::add_payable(&mut tx, &payable, amount).await?;
            let posting = Posting::from_source(PostingKind::Mature, "", pending, [(payable, amount)]);
            postings.push(posting.ok_or(StoreError::Invalid("more money than 64 bits hold"))?);
        }
        ledger::write(&mut tx, &clock, &postings).await?;
        tx.commit().await?;
        Ok(rows.len() as u64)
    }
}

/// Waits for a turn at what is payable: whoever makes something payable, takes it from there or takes it away before holds
/// this row. Returns the database's clock, later at each turn than at the last: the order of these times is the order in
/// which payouts saw the money, and a statement tells by it what went out with which.
pub(super) async fn turn(connection: &mut AnyConnection, clock: &str) -> Result<i64> {
    let turn = format!(
        "UPDATE counters SET value = CASE WHEN value < {clock} THEN {clock} ELSE value + 1 END WHERE name = 'earnings'
         RETURNING value"
    );
    Ok(sql::query(turn).fetch_one(connection).await?.try_get(0)?)
}
