//! Providers in the books: their standing, and what they have earned.

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{Result, Store, StoreError, bump_epoch, sql};
use crate::domain::ids::ProviderId;
use crate::domain::posting::LedgerId;
use crate::domain::provider::{ProviderRecord, Standing};

/// What a provider has earned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Earnings {
    /// May still be taken back.
    #[serde(rename = "pending_usd")]
    pub pending: NanoUsd,
    /// For good.
    #[serde(rename = "payable_usd")]
    pub payable: NanoUsd,
    /// Paid for with promotional credit, undecided.
    #[serde(rename = "promotional_usd")]
    pub promotional: NanoUsd,
}

impl Store {
    /// Every provider that has joined at least once, by when it did.
    pub async fn providers(&self) -> Result<Vec<ProviderRecord>> {
        let select = "SELECT id, standing, first_seen, standing_since FROM providers ORDER BY first_seen, id";
        sqlx::query(select).fetch_all(&self.reader).await?.iter().map(provider).collect()
    }

    /// A provider joins: its standing, newcomer if it was never seen. No change of the epoch: whoever does not know a
    /// provider takes it for a newcomer, and strangers must not be able to empty caches.
    pub async fn register_provider(&self, id: &ProviderId) -> Result<Standing> {
        let clock = self.clock();
        let register = format!(
            "INSERT INTO providers (id, standing, first_seen, standing_since) VALUES ($1, 'newcomer', {clock}, {clock})
             ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING id, standing, first_seen, standing_since"
        );
        let row = sql::query(register).bind(id.as_str()).fetch_one(&self.writer).await?;
        Ok(provider(&row)?.standing)
    }

    /// Sets a provider's standing, before it has joined if need be (a ban may come first).
    pub async fn set_standing(&self, id: &ProviderId, standing: Standing) -> Result<()> {
        let mut tx = self.transaction().await?;
        self::set_standing(&mut tx, &self.clock(), id, standing).await?;
        Ok(tx.commit().await?)
    }

    /// Providers by id: at most `limit`, after the one with the id `after` (empty: from the first).
    pub async fn providers_after(&self, after: &str, limit: i64) -> Result<Vec<ProviderRecord>> {
        let select =
            "SELECT id, standing, first_seen, standing_since FROM providers WHERE id > $1 ORDER BY id LIMIT $2";
        sqlx::query(select).bind(after).bind(limit).fetch_all(&self.reader).await?.iter().map(provider).collect()
    }

    /// One provider. Fails with `Missing` if it never joined.
    pub async fn provider(&self, id: &ProviderId) -> Result<ProviderRecord> {
        read(&mut *self.reader.acquire().await?, id).await
    }

    /// What a provider has earned; nothing if it is unknown.
    pub async fn earnings(&self, id: &ProviderId) -> Result<Earnings> {
        Ok(Earnings {
            pending: self.balance(&LedgerId::provider_pending(id)).await?,
            payable: self.balance(&LedgerId::provider_payable(id)).await?,
            promotional: self.balance(&LedgerId::provider_promotional(id)).await?,
        })
    }
}

/// See [`Store::provider`].
pub(super) async fn read(connection: &mut AnyConnection, id: &ProviderId) -> Result<ProviderRecord> {
    let select = "SELECT id, standing, first_seen, standing_since FROM providers WHERE id = $1";
    let row = sqlx::query(select).bind(id.as_str()).fetch_optional(connection).await?;
    provider(&row.ok_or(StoreError::Missing("provider"))?)
}

/// See [`Store::set_standing`].
pub(super) async fn set_standing(
    connection: &mut AnyConnection,
    clock: &str,
    id: &ProviderId,
    standing: Standing,
) -> Result<ProviderRecord> {
    bump_epoch(connection).await?;
    let set = format!(
        "INSERT INTO providers (id, standing, first_seen, standing_since) VALUES ($1, $2, {clock}, {clock})
         ON CONFLICT (id) DO UPDATE SET standing = excluded.standing, standing_since = excluded.standing_since
         RETURNING id, standing, first_seen, standing_since"
    );
    provider(&sql::query(set).bind(id.as_str()).bind(standing.as_str()).fetch_one(connection).await?)
}

fn provider(row: &AnyRow) -> Result<ProviderRecord> {
    let damaged = || StoreError::corrupt("a provider's row is malformed");
    Ok(ProviderRecord {
        id: row.try_get::<String, _>(0)?.parse().map_err(|_| damaged())?,
        standing: row.try_get::<String, _>(1)?.parse().map_err(|_| damaged())?,
        first_seen_us: row.try_get(2)?,
        standing_since_us: row.try_get(3)?,
    })
}
