//! Limits of keys and accounts in the books, and what counts against their budgets.

use lumbung_openapi::money::NanoUsd;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::accounts::found;
use super::{Result, Store, StoreError, bump_epoch, sql};
use crate::domain::calendar::Day;
use crate::domain::ids::{AccountId, KeyId, ModelId, ReplicaId};
use crate::domain::limits::{Budgets, LimitOwner, Limits};

/// The columns of [`Limits`].
const COLUMNS: [&str; COLUMN_COUNT] = [
    "budget_day",
    "budget_week",
    "budget_month",
    "budget_total",
    "models",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "expires_at",
    "allow_probation",
];
/// How many they are.
pub(super) const COLUMN_COUNT: usize = 10;
/// A settlement is visible this long after the time that it carries, at the latest: no transaction may take longer.
const VISIBLE_AFTER_US: i64 = 60_000_000;

/// What was spent on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpentLine {
    /// The day.
    pub day: Day,
    /// Whether the replica that asks has spent it.
    pub is_own: bool,
    /// Whether it was settled so lately that more may come to light of the same moment.
    pub is_recent: bool,
    /// How much.
    pub amount: NanoUsd,
}

/// What was spent since a moment.
#[derive(Clone, Debug)]
pub struct SpentSince {
    /// By day.
    pub lines: Vec<SpentLine>,
    /// Everything before this has come to light (Unix microseconds, the database's clock): the next reading can begin here.
    pub until_us: i64,
}

impl Store {
    /// The limits of a key or an account: none where nothing has been set, nor where there is no such thing.
    pub async fn limits(&self, owner: LimitOwner) -> Result<Limits> {
        of(&mut *self.reader.acquire().await?, owner).await
    }

    /// Sets the limits of a key or an account, all of them. Gateways follow within a second, by the epoch. Fails with
    /// `Missing` where there is no such key or account, with `Invalid` for a budget below zero or a model that the
    /// catalogue does not have; a model's other names are kept as its id.
    pub async fn set_limits(&self, owner: LimitOwner, limits: &Limits) -> Result<()> {
        let mut tx = self.transaction().await?;
        set(&mut tx, owner, limits).await?;
        Ok(tx.commit().await?)
    }

    /// What an account, or one of its keys, has spent since a moment (Unix microseconds), `replica`'s own part apart.
    pub async fn spent(
        &self,
        account: &AccountId,
        key: Option<&KeyId>,
        replica: &ReplicaId,
        from_us: i64,
    ) -> Result<SpentSince> {
        let until_us = self.now_us().await? - VISIBLE_AFTER_US;
        let select = "SELECT CAST(settled_at / 86400000000 AS BIGINT),
                CAST(CASE WHEN replica = $3 THEN 1 ELSE 0 END AS BIGINT),
                CAST(CASE WHEN settled_at >= $5 THEN 1 ELSE 0 END AS BIGINT),
                CAST(SUM(CASE state WHEN 'withheld' THEN fee ELSE charge END) AS BIGINT)
            FROM attempts WHERE account = $1 AND ($2 = '' OR api_key = $2) AND settled_at >= $4 GROUP BY 1, 2, 3";
        let rows = sqlx::query(select)
            .bind(account.to_string())
            .bind(key.map_or_else(String::new, KeyId::to_string))
            .bind(replica.to_string())
            .bind(from_us)
            .bind(until_us)
            .fetch_all(&self.reader)
            .await?;
        let line = |row: &AnyRow| {
            Ok(SpentLine {
                day: Day::from_number(row.try_get(0)?),
                is_own: row.try_get::<i64, _>(1)? != 0,
                is_recent: row.try_get::<i64, _>(2)? != 0,
                amount: NanoUsd::from_nanos(row.try_get(3)?),
            })
        };
        Ok(SpentSince { lines: rows.iter().map(line).collect::<Result<_>>()?, until_us: until_us.max(from_us) })
    }
}

/// See [`Store::limits`].
pub(super) async fn of(connection: &mut AnyConnection, owner: LimitOwner) -> Result<Limits> {
    let select = format!("SELECT {} FROM limits l WHERE l.owner = $1", columns("l"));
    let row = sql::query(select).bind(owner.to_string()).fetch_optional(connection).await?;
    row.map_or_else(|| Ok(Limits::default()), |row| read(&row, 0))
}

/// See [`Store::set_limits`].
pub(super) async fn set(connection: &mut AnyConnection, owner: LimitOwner, limits: &Limits) -> Result<()> {
    bump_epoch(connection).await?;
    let (lock, what) = match owner {
        LimitOwner::Account(_) => ("UPDATE accounts SET name = name WHERE id = $1 AND erased_at IS NULL", "account"),
        LimitOwner::Key(_) => ("UPDATE api_keys SET label = label WHERE id = $1", "key"),
    };
    found(sqlx::query(lock).bind(owner.to_string()).execute(&mut *connection).await?.rows_affected(), what)?;
    write(connection, owner, limits).await
}

/// The columns of the table that is called `table` in the statement, in the order of [`read`].
pub(super) fn columns(table: &str) -> String {
    COLUMNS.map(|column| format!("{table}.{column}")).join(", ")
}

/// Reads limits whose columns begin at `first`; all null where there is no row.
pub(super) fn read(row: &AnyRow, first: usize) -> Result<Limits> {
    let damaged = || StoreError::corrupt("a limit is malformed");
    let number = |at: usize| row.try_get::<Option<i64>, _>(first + at);
    let money = |at: usize| Ok::<_, StoreError>(number(at)?.map(NanoUsd::from_nanos));
    let count = |at: usize| number(at)?.map(|n| u32::try_from(n).map_err(|_| damaged())).transpose();
    let models: Option<String> = row.try_get(first + 4)?;
    Ok(Limits {
        budgets: Budgets { day: money(0)?, week: money(1)?, month: money(2)?, total: money(3)? },
        models: models.map(|text| names(&text)).transpose()?,
        requests_per_minute: count(5)?,
        tokens_per_minute: count(6)?,
        concurrent_requests: count(7)?,
        expires_at_us: number(8)?,
        allow_probation: number(9)? != Some(0),
    })
}

fn names(text: &str) -> Result<Vec<ModelId>> {
    let damaged = || StoreError::corrupt("a limit is malformed");
    let names: Vec<String> = serde_json::from_str(text).map_err(|_| damaged())?;
    names.iter().map(|name| name.parse().map_err(|_| damaged())).collect()
}

/// Writes the limits of a key or an account that there is. The caller has told the gateways.
pub(super) async fn write(connection: &mut AnyConnection, owner: LimitOwner, limits: &Limits) -> Result<()> {
    let budgets = [limits.budgets.day, limits.budgets.week, limits.budgets.month, limits.budgets.total];
    if budgets.into_iter().flatten().any(|budget| budget < NanoUsd::ZERO) {
        return Err(StoreError::Invalid("a budget must not be below zero"));
    }
    let models = match &limits.models {
        Some(models) => Some(serde_json::Value::from(resolve(connection, models).await?).to_string()),
        None => None,
    };
    let upsert = format!(
        "INSERT INTO limits (owner, {}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (owner) DO UPDATE SET {}",
        COLUMNS.join(", "),
        COLUMNS.map(|column| format!("{column} = excluded.{column}")).join(", ")
    );
    let mut upsert = sql::query(upsert).bind(owner.to_string());
    for budget in budgets {
        upsert = upsert.bind(budget.map(NanoUsd::nanos));
    }
    upsert
        .bind(models)
        .bind(limits.requests_per_minute.map(i64::from))
        .bind(limits.tokens_per_minute.map(i64::from))
        .bind(limits.concurrent_requests.map(i64::from))
        .bind(limits.expires_at_us)
        .bind(i64::from(limits.allow_probation))
        .execute(connection)
        .await?;
    Ok(())
}

/// The ids of models that may be called by an alias.
async fn resolve(connection: &mut AnyConnection, models: &[ModelId]) -> Result<Vec<String>> {
    let rows = sqlx::query("SELECT id, aliases FROM models").fetch_all(connection).await?;
    let mut known = std::collections::HashMap::new();
    for row in rows {
        let (id, aliases): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        for alias in names(&aliases)? {
            known.insert(alias.to_string(), id.clone());
        }
        known.insert(id.clone(), id);
    }
    let id = |model: &ModelId| {
        known
            .get(model.as_str())
            .cloned()
            .ok_or(StoreError::Invalid("a limit names a model that the catalogue does not have"))
    };
    let mut ids = models.iter().map(id).collect::<Result<Vec<String>>>()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
