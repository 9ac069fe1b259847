//! Reference prices over time: a model's price is the one that began last. Versions are added, never changed.

use lumbung_openapi::money::{NanoUsd, TokenPrice};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{Result, Store, StoreError, bump_epoch, sql};
use crate::domain::catalogue::PriceVersion;
use crate::domain::ids::ModelId;

/// The price in force, as SQL expressions over a row `m` of `models`: that of the version that began last, or the row's own
/// where an older gateway has written it.
pub(super) fn in_force(column: &str, clock: &str) -> String {
    format!(
        "COALESCE((SELECT p.{column} FROM model_prices p WHERE p.model = m.id AND p.valid_from <= {clock}
                   ORDER BY p.valid_from DESC LIMIT 1), m.{column})"
    )
}

impl Store {
    /// A model's prices, by when they begin: at most `limit`, after the moment `after_us` (Unix microseconds).
    pub async fn prices(&self, model: &ModelId, after_us: i64, limit: i64) -> Result<Vec<PriceVersion>> {
        let select = "SELECT valid_from, prompt_price, completion_price, created_at FROM model_prices
                      WHERE model = $1 AND valid_from > $2 ORDER BY valid_from LIMIT $3";
        let query = sqlx::query(select).bind(model.as_str()).bind(after_us).bind(limit);
        query.fetch_all(&self.reader).await?.iter().map(version).collect()
    }

    /// Sets a model's price from `valid_from_us` on (Unix microseconds), or from now. Fails with `Missing` for a model that
    /// is not in the catalogue, with `Invalid` for a price below zero or a moment that has passed, with `Conflict` where
    /// another price begins at that moment.
    pub async fn add_price(
        &self,
        model: &ModelId,
        price: &TokenPrice,
        valid_from_us: Option<i64>,
    ) -> Result<PriceVersion> {
        let mut tx = self.transaction().await?;
        let version = add(&mut tx, &self.clock(), model, price, valid_from_us).await?;
        tx.commit().await?;
        Ok(version)
    }
}

/// See [`Store::add_price`].
pub(super) async fn add(
    connection: &mut AnyConnection,
    clock: &str,
    model: &ModelId,
    price: &TokenPrice,
    valid_from_us: Option<i64>,
) -> Result<PriceVersion> {
    if price.is_negative() {
        return Err(StoreError::Invalid("a price must not be below zero"));
    }
    bump_epoch(connection).await?;
    let now = sql::query(format!("SELECT {clock} FROM models WHERE id = $1"));
    let now = now.bind(model.as_str()).fetch_optional(&mut *connection).await?.ok_or(StoreError::Missing("model"))?;
    let now: i64 = now.try_get(0)?;
    if valid_from_us.is_some_and(|from| from <= now) {
        return Err(StoreError::Invalid("a price cannot begin in the past: jobs have been charged since"));
    }
    let insert = format!(
        "INSERT INTO model_prices (model, valid_from, prompt_price, completion_price, created_at)
         VALUES ($1, $2, $3, $4, {clock}) RETURNING valid_from, prompt_price, completion_price, created_at"
    );
    let row = sql::query(insert)
        .bind(model.as_str())
        .bind(valid_from_us.unwrap_or(now))
        .bind(price.prompt.nanos())
        .bind(price.completion.nanos())
        .fetch_one(connection)
        .await
        .map_err(StoreError::from);
    match row {
        Err(StoreError::Conflict(_)) => Err(StoreError::Conflict("another price begins at that moment".into())),
        row => version(&row?),
    }
}

fn version(row: &AnyRow) -> Result<PriceVersion> {
    Ok(PriceVersion {
        valid_from_us: row.try_get(0)?,
        reference: TokenPrice {
            prompt: NanoUsd::from_nanos(row.try_get(1)?),
            completion: NanoUsd::from_nanos(row.try_get(2)?),
        },
        created_at_us: row.try_get(3)?,
    })
}
