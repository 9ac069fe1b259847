//! Counting what is used, as it is settled, corrected or given back: queued in the transaction that posts it, and rolled up
//! into the tables that questions read. The questions are in `usage_query`.

use std::collections::BTreeMap;

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row};
use ulid::Ulid;

use super::sql::{pieces, query, values};
use super::{Result, Store, StoreError, lock, sql};
use crate::domain::calendar::Day;

/// Queued rows that one transaction rolls up.
const CHUNK: i64 = 1000;

/// How much was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Clients' requests, by their first attempts.
    pub requests: i64,
    /// Attempts at them.
    pub attempts: i64,
    /// Prompt tokens charged.
    pub prompt_tokens: i64,
    /// How many of them came from a prefix cache.
    pub cached_tokens: i64,
    /// Completion tokens charged.
    pub completion_tokens: i64,
    /// What clients paid.
    #[serde(rename = "charge_usd")]
    pub charge: NanoUsd,
    /// The operator's part of it.
    #[serde(rename = "fee_usd")]
    pub fee: NanoUsd,
}

/// The columns of [`Used`], in its order.
pub(super) const USED: &str = "requests, attempts, prompt_tokens, cached_tokens, completion_tokens, charge, fee";
/// How many they are.
pub(super) const USED_COLUMNS: usize = 7;

impl Used {
    /// Both together. Fails where 64 bits do not hold it.
    pub(super) fn plus(self, other: Self) -> Result<Self> {
        let too_much = || StoreError::Invalid("more than 64 bits hold");
        let sum = |one: i64, other: i64| one.checked_add(other).ok_or_else(too_much);
        Ok(Self {
            requests: sum(self.requests, other.requests)?,
            attempts: sum(self.attempts, other.attempts)?,
            prompt_tokens: sum(self.prompt_tokens, other.prompt_tokens)?,
            cached_tokens: sum(self.cached_tokens, other.cached_tokens)?,
            completion_tokens: sum(self.completion_tokens, other.completion_tokens)?,
            charge: self.charge.checked_add(other.charge).ok_or_else(too_much)?,
            fee: self.fee.checked_add(other.fee).ok_or_else(too_much)?,
        })
    }

    /// From [`USED`], the first of which stands at `first`.
    pub(super) fn read(row: &AnyRow, first: usize) -> Result<Self> {
        let count = |column: usize| row.try_get::<i64, _>(first + column);
        Ok(Self {
            requests: count(0)?,
            attempts: count(1)?,
            prompt_tokens: count(2)?,
            cached_tokens: count(3)?,
            completion_tokens: count(4)?,
            charge: NanoUsd::from_nanos(count(5)?),
            fee: NanoUsd::from_nanos(count(6)?),
        })
    }

    fn bind(self, statement: Query<'_, Any, AnyArguments>) -> Query<'_, Any, AnyArguments> {
        statement
            .bind(self.requests)
            .bind(self.attempts)
            .bind(self.prompt_tokens)
            .bind(self.cached_tokens)
            .bind(self.completion_tokens)
            .bind(self.charge.nanos())
            .bind(self.fee.nanos())
    }
}

/// By whom, what and where something was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    pub account: String,
    /// Empty where no gateway lived to say.
    pub api_key: String,
    pub model: String,
    pub provider: String,
}

/// Queues what a transaction changes of what was used, dated as its postings are.
pub(super) async fn count(
    connection: &mut AnyConnection,
    now_us: i64,
    uses: impl IntoIterator<Item = (Use, Used)>,
) -> Result<()> {
    let mut sums: BTreeMap<Use, Used> = BTreeMap::new();
    for (which, used) in uses {
        let sum = sums.entry(which).or_default();
        *sum = sum.plus(used)?;
    }
    let sums: Vec<(Use, Used)> = sums.into_iter().collect();
    let day = Day::of_us(now_us).number();
    for piece in pieces(&sums) {
        let rows = values(connection, 6 + USED_COLUMNS, piece.len());
        let mut insert = query(format!(
            "INSERT INTO usage_unrolled (id, day, account, api_key, model, provider, {USED}) VALUES {rows}"
        ));
        for (which, used) in piece {
            insert = insert
                .bind(Ulid::generate().to_string())
                .bind(day)
                .bind(which.account.as_str())
                .bind(which.api_key.as_str())
                .bind(which.model.as_str())
                .bind(which.provider.as_str());
            insert = used.bind(insert);
        }
        insert.execute(&mut *connection).await?;
    }
    Ok(())
}

impl Store {
    /// Adds what is queued of usage to the tables by day. Returns how many queued rows went in; callers may run at the same
    /// time, each row counts once. In chunks, so that settlements come in between.
    pub async fn roll_up_usage(&self) -> Result<u64> {
        let mut rolled = 0;
        loop {
            let some = sql::retrying(|| self.try_roll_up_usage()).await?;
            rolled += some;
            if some < CHUNK.unsigned_abs() {
                return Ok(rolled);
            }
        }
    }

    async fn try_roll_up_usage(&self) -> Result<u64> {
        let mut tx = self.transaction().await?;
        lock(&mut tx, "usage").await?;
        let take = format!(
            "DELETE FROM usage_unrolled WHERE id IN (SELECT id FROM usage_unrolled ORDER BY id LIMIT {CHUNK})
             RETURNING account, day, api_key, model, provider, {USED}"
        );
        let rows = query(take).fetch_all(&mut *tx).await?;
        let (mut daily, mut network) = (BTreeMap::new(), BTreeMap::new());
        for row in &rows {
            let used = Used::read(row, 5)?;
            let text = |column: usize| row.try_get::<String, _>(column);
            let (day, model, provider): (i64, String, String) = (row.try_get(1)?, text(3)?, text(4)?);
            add(&mut network, (day, vec![model.clone(), provider.clone()]), used)?;
            add(&mut daily, (day, vec![text(0)?, text(2)?, model, provider]), used)?;
        }
        merge(&mut tx, "usage_daily", &["account", "api_key", "model", "provider"], daily).await?;
        merge(&mut tx, "usage_network", &["model", "provider"], network).await?;
        tx.commit().await?;
        Ok(rows.len() as u64)
    }
}

/// Sums by day and whatever else, ordered.
type Sums = BTreeMap<(i64, Vec<String>), Used>;

fn add(sums: &mut Sums, which: (i64, Vec<String>), used: Used) -> Result<()> {
    let sum = sums.entry(which).or_default();
    *sum = sum.plus(used)?;
    Ok(())
}

/// Adds sums to the rows of a table; `names` are its columns beside the day.
async fn merge(connection: &mut AnyConnection, table: &str, names: &[&str], sums: Sums) -> Result<()> {
    let (sums, key): (Vec<_>, _) = (sums.into_iter().collect(), format!("day, {}", names.join(", ")));
    let more: Vec<String> = USED.split(", ").map(|name| format!("{name} = {table}.{name} + excluded.{name}")).collect();
    for piece in pieces(&sums) {
        let rows = values(connection, 1 + names.len() + USED_COLUMNS, piece.len());
        let mut upsert = query(format!(
            "INSERT INTO {table} ({key}, {USED}) VALUES {rows} ON CONFLICT ({key}) DO UPDATE SET {}",
            more.join(", ")
        ));
        for ((day, which), used) in piece {
            upsert = upsert.bind(*day);
            for name in which {
                upsert = upsert.bind(name.as_str());
            }
            upsert = used.bind(upsert);
        }
        upsert.execute(&mut *connection).await?;
    }
    Ok(())
}
