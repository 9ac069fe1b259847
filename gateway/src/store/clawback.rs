//! Taking back what a provider has earned and cannot be paid yet, for a reason that it will read in its statement.

use std::collections::{BTreeMap, BTreeSet};

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::mature::turn;
use super::sql::{MAX_ROWS, query, rows_of};
use super::{Result, Store, StoreError, ledger, sql};
use crate::domain::ids::{AccountId, ClawbackId, JobId, ProviderId};
use crate::domain::posting::{LedgerId, Posting, PostingKind};

/// Attempts that one clawback takes from at most.
const MOST: usize = 10_000;
/// Jobs that one clawback names at most.
const MAX_JOBS: usize = 500;
/// Bytes of a reason at most.
const MAX_REASON: usize = 1000;
/// Bytes of evidence at most.
const MAX_EVIDENCE: usize = 16 << 10;

/// What is to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claw {
    /// Everything pending of these jobs. It goes back to the clients whose jobs they were.
    Jobs(Vec<JobId>),
    /// So much of what is pending, from the latest attempts first. It becomes revenue.
    Amount(NanoUsd),
}

/// A clawback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clawback {
    /// Its id.
    pub id: ClawbackId,
    /// From whom.
    pub provider: ProviderId,
    /// How much.
    #[serde(rename = "amount_usd")]
    pub amount: NanoUsd,
    /// How much of that went back to clients; the rest is revenue.
    #[serde(rename = "refunded_usd")]
    pub refunded: NanoUsd,
    /// Why; the provider reads it.
    pub reason: String,
    /// What shows it: text or JSON. The provider reads it too.
    pub evidence: String,
    /// Unix microseconds.
    pub at_us: i64,
}

/// What is taken from one attempt.
struct Item {
    job: String,
    attempt: i64,
    account: AccountId,
    amount: NanoUsd,
}

impl Store {
    /// Takes pending earnings back. Only from attempts whose receipt has come (the others may still be corrected, and go
    /// back by themselves without one), and nothing that promotional credit paid for, which is decided about instead.
    /// Fails with `Conflict` if that is less than asked, or nothing.
    pub async fn claw_back(
        &self,
        provider: &ProviderId,
        claw: &Claw,
        reason: &str,
        evidence: &str,
    ) -> Result<Clawback> {
        sql::retrying(|| async {
            let mut tx = self.transaction().await?;
            let done = take(&mut tx, &self.clock(), provider, claw, reason, evidence).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    /// Every clawback, or a provider's, latest first; a thousand at most.
    pub async fn clawbacks(&self, provider: Option<&ProviderId>) -> Result<Vec<Clawback>> {
        let select = "SELECT id, provider, amount, refunded, reason, evidence, at FROM clawbacks
                      WHERE ($1 = '' OR provider = $1) ORDER BY at DESC, id DESC LIMIT 1000";
        let provider = provider.map_or("", ProviderId::as_str);
        sqlx::query(select).bind(provider).fetch_all(&self.reader).await?.iter().map(clawback).collect()
    }

    /// Clawbacks, or a provider's, after the one with this id, by id.
    pub async fn clawbacks_after(
        &self,
        provider: Option<&ProviderId>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Clawback>> {
        let select = "SELECT id, provider, amount, refunded, reason, evidence, at FROM clawbacks
                      WHERE ($1 = '' OR provider = $1) AND id > $2 ORDER BY id LIMIT $3";
        let provider = provider.map_or("", ProviderId::as_str);
        let select = sqlx::query(select).bind(provider).bind(after).bind(limit);
        select.fetch_all(&self.reader).await?.iter().map(clawback).collect()
    }
}

/// Takes pending earnings back within a transaction: see [`Store::claw_back`].
pub(super) async fn take(
    connection: &mut AnyConnection,
    clock: &str,
    provider: &ProviderId,
    claw: &Claw,
    reason: &str,
    evidence: &str,
) -> Result<Clawback> {
    valid_reason(reason)?;
    if evidence.len() > MAX_EVIDENCE {
        return Err(StoreError::Invalid("evidence must be 16 KiB at most"));
    }
    match claw {
        Claw::Amount(amount) if *amount <= NanoUsd::ZERO => {
            return Err(StoreError::Invalid("an amount to claw back must be above zero"));
        }
        Claw::Jobs(jobs) if jobs.is_empty() || jobs.len() > MAX_JOBS => {
            return Err(StoreError::Invalid("name one job, and 500 at most"));
        }
        _ => {}
    }
    let id = ClawbackId::fresh();
    // Whoever makes these attempts payable waits for the same turn, and receipts change only attempts without one.
    let at_us = turn(connection, clock).await?;
    let items = match claw {
        Claw::Jobs(jobs) => of_jobs(connection, provider, jobs).await?,
        Claw::Amount(amount) => up_to(connection, provider, *amount).await?,
    };
    let mut refunds: BTreeMap<AccountId, NanoUsd> = BTreeMap::new();
    let mut total = NanoUsd::ZERO;
    let overflow = || StoreError::corrupt("shares overflow");
    for item in &items {
        total = total.checked_add(item.amount).ok_or_else(overflow)?;
        let refund = refunds.entry(item.account).or_default();
        *refund = refund.checked_add(item.amount).ok_or_else(overflow)?;
    }
    if matches!(claw, Claw::Amount(_)) {
        refunds.clear();
    }
    let refunded = if refunds.is_empty() { NanoUsd::ZERO } else { total };

    let record = "INSERT INTO clawbacks (id, provider, amount, refunded, reason, evidence, at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7)";
    sqlx::query(record)
        .bind(id.to_string())
        .bind(provider.as_str())
        .bind(total.nanos())
        .bind(refunded.nanos())
        .bind(reason)
        .bind(evidence)
        .bind(at_us)
        .execute(&mut *connection)
        .await?;
    write_items(connection, id, &items).await?;

    let mut parts = Vec::with_capacity(refunds.len().max(1));
    for (account, refund) in &refunds {
        let credit = LedgerId::credit(*account);
        ledger::add_credit(connection, &credit, *refund).await?;
        parts.push((credit, *refund));
    }
    if parts.is_empty() {
        parts.push((LedgerId::revenue(), total));
    }
    let pending = LedgerId::provider_pending(provider);
    let posting = Posting::from_source(PostingKind::Clawback, id.to_string(), pending, parts).ok_or_else(overflow)?;
    ledger::write(connection, clock, &[posting]).await?;
    let (provider, reason, evidence) = (provider.clone(), reason.to_owned(), evidence.to_owned());
    Ok(Clawback { id, provider, amount: total, refunded, reason, evidence, at_us })
}

/// Whether a provider can be told this.
pub(super) fn valid_reason(reason: &str) -> Result<()> {
    match reason.trim().is_empty() || reason.len() > MAX_REASON {
        true => Err(StoreError::Invalid("a reason is needed, of 1000 bytes at most")),
        false => Ok(()),
    }
}

/// What is left of an attempt's share, and may be taken.
const TAKEABLE: &str = "SELECT job, attempt, account, charge - fee - promotional_share - clawed_back FROM attempts
    WHERE provider = $1 AND receipt_batch IS NOT NULL AND state = 'settled' AND matured_at IS NULL
      AND charge - fee - promotional_share - clawed_back > 0";

async fn of_jobs(connection: &mut AnyConnection, provider: &ProviderId, jobs: &[JobId]) -> Result<Vec<Item>> {
    let jobs: BTreeSet<&JobId> = jobs.iter().collect();
    let numbers: Vec<String> = (2..jobs.len() + 2).map(|n| format!("${n}")).collect();
    let mut select = query(format!("{TAKEABLE} AND job IN ({}) ORDER BY job, attempt", numbers.join(", ")));
    select = select.bind(provider.as_str());
    for job in jobs {
        select = select.bind(job.to_string());
    }
    let items: Vec<Item> = select.fetch_all(connection).await?.iter().map(item).collect::<Result<_>>()?;
    match items.is_empty() {
        true => {
            Err(StoreError::Conflict("nothing of these jobs is pending, with its receipt, at this provider".into()))
        }
        false => Ok(items),
    }
}

async fn up_to(connection: &mut AnyConnection, provider: &ProviderId, amount: NanoUsd) -> Result<Vec<Item>> {
    let select = format!("{TAKEABLE} ORDER BY settled_at DESC, job, attempt LIMIT {MOST}");
    let mut left = amount;
    let mut items = Vec::new();
    for row in query(select).bind(provider.as_str()).fetch_all(connection).await? {
        let mut item = item(&row)?;
        item.amount = item.amount.min(left);
        left = left.checked_sub(item.amount).ok_or(StoreError::corrupt("shares overflow"))?;
        items.push(item);
        if left == NanoUsd::ZERO {
            return Ok(items);
        }
    }
    Err(StoreError::Conflict(match items.len() < MOST {
        true => "less than that is pending, with receipts, at this provider".into(),
        false => format!("that is more than the latest {MOST} attempts earned: claw back in parts").into(),
    }))
}

async fn write_items(connection: &mut AnyConnection, id: ClawbackId, items: &[Item]) -> Result<()> {
    for chunk in items.chunks(MAX_ROWS) {
        let mut take = query(format!(
            "WITH taken(id, number, amount) AS (VALUES {})
             UPDATE attempts SET clawed_back = clawed_back + taken.amount FROM taken
             WHERE job = taken.id AND attempt = taken.number AND matured_at IS NULL",
            rows_of(3, chunk.len(), 1)
        ));
        let mut insert = query(format!(
            "INSERT INTO clawback_items (job, attempt, clawback, amount) VALUES {}",
            rows_of(4, chunk.len(), 1)
        ));
        for item in chunk {
            take = take.bind(item.job.as_str()).bind(item.attempt).bind(item.amount.nanos());
            insert = insert.bind(item.job.as_str()).bind(item.attempt).bind(id.to_string()).bind(item.amount.nanos());
        }
        if take.execute(&mut *connection).await?.rows_affected() != chunk.len() as u64 {
            return Err(StoreError::corrupt("an attempt changed under its lock"));
        }
        insert.execute(&mut *connection).await?;
    }
    Ok(())
}

fn item(row: &AnyRow) -> Result<Item> {
    let account: String = row.try_get(2)?;
    Ok(Item {
        job: row.try_get(0)?,
        attempt: row.try_get(1)?,
        account: account.parse().map_err(|_| StoreError::corrupt("an id is malformed"))?,
        amount: NanoUsd::from_nanos(row.try_get(3)?),
    })
}

fn clawback(row: &AnyRow) -> Result<Clawback> {
    let damaged = || StoreError::corrupt("a clawback's row is malformed");
    Ok(Clawback {
        id: row.try_get::<String, _>(0)?.parse().map_err(|_| damaged())?,
        provider: row.try_get::<String, _>(1)?.parse().map_err(|_| damaged())?,
        amount: NanoUsd::from_nanos(row.try_get(2)?),
        refunded: NanoUsd::from_nanos(row.try_get(3)?),
        reason: row.try_get(4)?,
        evidence: row.try_get(5)?,
        at_us: row.try_get(6)?,
    })
}
