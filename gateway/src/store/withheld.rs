//! Shares whose receipt was never handed in: a provider that does not sign for what it did is not paid for it.

use std::collections::BTreeMap;

use lumbung_openapi::money::NanoUsd;
use sqlx::Row;

use super::settle::now;
use super::usage::{self, Use, Used};
use super::{Result, Store, StoreError, ledger, promotional, sql};
use crate::domain::ids::{AccountId, ProviderId};
use crate::domain::posting::{LedgerId, Posting, PostingKind};

/// Attempts in one transaction.
const CHUNK: i64 = 500;

impl Store {
    /// Gives providers' shares back to the accounts' credit where no signed receipt has come by the ticket's claim-by; the
    /// operator's fee stays. Returns how many attempts that were; callers may run at the same time.
    pub async fn reclaim_withheld(&self) -> Result<u64> {
        let mut reclaimed = 0;
        loop {
            let some = sql::retrying(|| self.reclaim_some()).await?;
            reclaimed += some;
            if some < CHUNK.unsigned_abs() {
                return Ok(reclaimed);
            }
        }
    }

    async fn reclaim_some(&self) -> Result<u64> {
        let clock = self.clock();
        let overdue = format!("receipt_batch IS NULL AND state = 'settled' AND claim_by < {clock}");
        // The condition twice: another reaper may have been there between the two.
        let mark = format!(
            "UPDATE attempts SET state = 'withheld' WHERE {overdue} AND (job, attempt) IN
                (SELECT job, attempt FROM attempts WHERE {overdue} ORDER BY claim_by, job, attempt LIMIT {CHUNK})
             RETURNING job, attempt, account, provider, charge, fee, COALESCE(api_key, ''), model,
                       promotional_share"
        );
        let mut tx = self.transaction().await?;
        let rows = sql::query(mark).fetch_all(&mut *tx).await?;
        let (mut postings, mut refunds) = (Vec::new(), BTreeMap::<AccountId, NanoUsd>::new());
        let (mut less, mut restored) = (Vec::new(), BTreeMap::<AccountId, NanoUsd>::new());
        for row in &rows {
            let damaged = || StoreError::corrupt("an attempt's row is malformed");
            let (job, attempt): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let account: AccountId = row.try_get::<String, _>(2)?.parse().map_err(|_| damaged())?;
            let provider: ProviderId = row.try_get::<String, _>(3)?.parse().map_err(|_| damaged())?;
            let (charge, fee): (i64, i64) = (row.try_get(4)?, row.try_get(5)?);
            let share = NanoUsd::from_nanos(charge.checked_sub(fee).ok_or_else(damaged)?);
            let refund = refunds.entry(account).or_default();
            *refund = refund.checked_add(share).ok_or_else(damaged)?;
            let given = NanoUsd::from_nanos(row.try_get(8)?);
            promotional::add(&mut restored, account, given)?;
            let taken = |amount: NanoUsd| NanoUsd::ZERO.checked_sub(amount).ok_or_else(damaged);
            let paid = share.checked_sub(given).ok_or_else(damaged)?;
            let parts = [
                (LedgerId::provider_pending(&provider), taken(paid)?),
                (LedgerId::provider_promotional(&provider), taken(given)?),
            ];
            let credit = LedgerId::credit(account);
            let posting = Posting::from_source(PostingKind::Withheld, format!("{job}/{attempt}"), credit, parts);
            postings.push(posting.ok_or_else(damaged)?);
            let which = Use {
                account: account.to_string(),
                api_key: row.try_get(6)?,
                model: row.try_get(7)?,
                provider: provider.to_string(),
            };
            let charge = NanoUsd::ZERO.checked_sub(share).ok_or_else(damaged)?;
            less.push((which, Used { charge, ..Used::default() }));
        }
        for (account, refund) in refunds {
            ledger::add_credit(&mut tx, &LedgerId::credit(account), refund).await?;
        }
        promotional::restore(&mut tx, &restored).await?;
        let now_us = now(&mut tx, &clock).await?;
        ledger::write_at(&mut tx, now_us, &postings).await?;
        usage::count(&mut tx, now_us, less).await?;
        tx.commit().await?;
        Ok(rows.len() as u64)
    }
}
