//! Webhooks as the operator sees them: endpoints, accounts' thresholds, and how deliveries went.

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::webhook::{DeliveryState, WebhookEvent};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::accounts::{self, found, parse};
use super::act::Act;
use super::{Result, Store, StoreError, lock, sql};
use crate::domain::ids::{AccountId, EventId, WebhookId};
use crate::domain::webhook::secret_text;

/// Endpoints at a time.
const MAX_WEBHOOKS: i64 = 32;
/// The highest threshold: a billion dollars.
const MAX_THRESHOLD: NanoUsd = NanoUsd::from_nanos(1_000_000_000_000_000_000);

/// An endpoint. Its secret stays in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRecord {
    /// Its id.
    pub id: WebhookId,
    /// Where to post.
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// Unix microseconds.
    pub created_at_us: i64,
}

/// How an event's way to an endpoint went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// The event.
    pub event: EventId,
    /// What happened.
    pub kind: WebhookEvent,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried, or is being tried.
    pub tries: i64,
    /// The HTTP status of the last try; `None` if it had no answer.
    pub last_status: Option<i64>,
    /// When the event was written down, Unix microseconds.
    pub created_at_us: i64,
    /// When it is tried again, Unix microseconds; `None` if it is not.
    pub next_try_at_us: Option<i64>,
}

impl Store {
    /// Endpoints, oldest first: at most `limit`, after the one with the id `after` (empty: from the first).
    pub async fn webhooks_after(&self, after: &str, limit: i64) -> Result<Vec<WebhookRecord>> {
        let select = "SELECT id, url, events, created_at FROM webhooks WHERE id > $1 AND removed_at IS NULL
                      ORDER BY id LIMIT $2";
        let rows = sqlx::query(select).bind(after).bind(limit).fetch_all(&self.reader).await?;
        rows.iter().map(webhook).collect()
    }

    /// One endpoint. Fails with `Missing`.
    pub async fn webhook(&self, id: &WebhookId) -> Result<WebhookRecord> {
        let select = "SELECT id, url, events, created_at FROM webhooks WHERE id = $1 AND removed_at IS NULL";
        let row = sqlx::query(select).bind(id.to_string()).fetch_optional(&self.reader).await?;
        webhook(&row.ok_or(StoreError::Missing("webhook"))?)
    }

    /// Below what an account's balance counts as low; `None`: never. Fails with `Missing` if there is no such account.
    pub async fn low_balance(&self, id: &AccountId) -> Result<Option<NanoUsd>> {
        let mut connection = self.reader.acquire().await?;
        accounts::read(&mut connection, id).await?;
        let select = "SELECT threshold FROM low_balance WHERE account = $1";
        let row = sqlx::query(select).bind(id.to_string()).fetch_optional(&mut *connection).await?;
        let threshold = row.map(|row| row.try_get::<Option<i64>, _>(0)).transpose()?.flatten();
        Ok(threshold.map(NanoUsd::from_nanos))
    }

    /// What an endpoint was told, oldest first: at most `limit`, after the event with the id `after` (empty: from the
    /// first). Also of one that was removed; fails with `Missing` if there was none.
    pub async fn webhook_deliveries(&self, id: &WebhookId, after: &str, limit: i64) -> Result<Vec<DeliveryRecord>> {
        let mut connection = self.reader.acquire().await?;
        let known = sqlx::query("SELECT id FROM webhooks WHERE id = $1").bind(id.to_string());
        known.fetch_optional(&mut *connection).await?.ok_or(StoreError::Missing("webhook"))?;
        let select = "SELECT d.event, e.type, d.state, d.tries, d.last_status, e.created_at, d.next_try_at
                      FROM webhook_deliveries d JOIN webhook_events e ON e.id = d.event
                      WHERE d.webhook = $1 AND d.event > $2 ORDER BY d.event LIMIT $3";
        let rows = sqlx::query(select).bind(id.to_string()).bind(after).bind(limit).fetch_all(&mut *connection).await?;
        rows.iter().map(delivery).collect()
    }
}

impl Act {
    /// Adds an endpoint. Its secret is returned once. Fails with `Conflict` where there are 32 already.
    pub async fn create_webhook(&mut self, url: &str, events: &[WebhookEvent]) -> Result<(WebhookRecord, String)> {
        let (connection, clock) = self.parts();
        lock(connection, "webhooks").await?;
        let count = "SELECT CAST(COUNT(*) AS BIGINT) FROM webhooks WHERE removed_at IS NULL";
        if sqlx::query(count).fetch_one(&mut *connection).await?.try_get::<i64, _>(0)? >= MAX_WEBHOOKS {
            return Err(StoreError::Conflict("there are 32 webhooks already".into()));
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error.into())))?;
        let secret = secret_text(&random);
        let events: Vec<&str> = events.iter().map(|event| event.as_str()).collect();
        let insert = format!(
            "INSERT INTO webhooks (id, url, events, secret, created_at) VALUES ($1, $2, $3, $4, {clock})
             RETURNING id, url, events, created_at"
        );
        let insert = sql::query(insert).bind(WebhookId::fresh().to_string()).bind(url).bind(events.join(","));
        let row = insert.bind(secret.as_str()).fetch_one(connection).await?;
        Ok((webhook(&row)?, secret))
    }

    /// Removes an endpoint: it is told nothing any more, and its secret is forgotten. Fails with `Missing`.
    pub async fn remove_webhook(&mut self, id: &WebhookId) -> Result<()> {
        let (connection, clock) = self.parts();
        lock(connection, "webhooks").await?;
        let remove =
            format!("UPDATE webhooks SET removed_at = {clock}, secret = '' WHERE id = $1 AND removed_at IS NULL");
        found(sql::query(remove).bind(id.to_string()).execute(&mut *connection).await?.rows_affected(), "webhook")?;
        let give_up = "UPDATE webhook_deliveries SET state = 'dead' WHERE webhook = $1 AND state = 'pending'";
        sqlx::query(give_up).bind(id.to_string()).execute(connection).await?;
        Ok(())
    }

    /// Sets below what an account's balance counts as low; `None`: never. One that is below it now has crossed it. Fails
    /// with `Missing` if there is no such account, `Invalid` for what is not above zero, or above a billion dollars.
    pub async fn set_low_balance(&mut self, id: &AccountId, threshold: Option<NanoUsd>) -> Result<()> {
        if threshold.is_some_and(|threshold| threshold <= NanoUsd::ZERO || threshold > MAX_THRESHOLD) {
            return Err(StoreError::Invalid("a threshold must be above zero, and a billion dollars at most"));
        }
        let (connection, _) = self.parts();
        lock(connection, "webhooks").await?;
        if accounts::read(connection, id).await?.erased_at_us.is_some() {
            return Err(StoreError::Missing("account"));
        }
        let set = "INSERT INTO low_balance (account, threshold) VALUES ($1, $2)
                   ON CONFLICT (account) DO UPDATE SET threshold = excluded.threshold,
                       is_low = CASE WHEN excluded.threshold IS NULL THEN 0 ELSE low_balance.is_low END";
        sqlx::query(set).bind(id.to_string()).bind(threshold.map(NanoUsd::nanos)).execute(connection).await?;
        Ok(())
    }
}

/// Every endpoint that is told of something.
pub(super) async fn listeners(connection: &mut AnyConnection) -> Result<Vec<WebhookRecord>> {
    let select = "SELECT id, url, events, created_at FROM webhooks WHERE removed_at IS NULL ORDER BY id";
    sqlx::query(select).fetch_all(connection).await?.iter().map(webhook).collect()
}

fn webhook(row: &AnyRow) -> Result<WebhookRecord> {
    let events: String = row.try_get(2)?;
    Ok(WebhookRecord {
        id: parse(row.try_get(0)?)?,
        url: row.try_get(1)?,
        events: events.split(',').map(event).collect::<Result<_>>()?,
        created_at_us: row.try_get(3)?,
    })
}

fn event(name: &str) -> Result<WebhookEvent> {
    WebhookEvent::named(name).ok_or(StoreError::corrupt("a webhook's event is malformed"))
}

fn delivery(row: &AnyRow) -> Result<DeliveryRecord> {
    let state = match row.try_get::<String, _>(2)?.as_str() {
        "pending" => DeliveryState::Pending,
        "delivered" => DeliveryState::Delivered,
        "dead" => DeliveryState::Dead,
        _ => return Err(StoreError::corrupt("a delivery's state is malformed")),
    };
    let next_try_at_us: i64 = row.try_get(6)?;
    Ok(DeliveryRecord {
        event: parse(row.try_get(0)?)?,
        kind: event(&row.try_get::<String, _>(1)?)?,
        state,
        tries: row.try_get(3)?,
        last_status: row.try_get(4)?,
        created_at_us: row.try_get(5)?,
        next_try_at_us: (state == DeliveryState::Pending).then_some(next_try_at_us),
    })
}
