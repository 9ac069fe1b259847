//! The outbox of webhooks: what happened is written there once, whichever gateway saw it, and claimed from there by
//! whichever gateway delivers it.

use std::fmt;
use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::webhook::WebhookEvent;
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::accounts::parse;
use super::sql::{pieces, rows_of};
use super::webhooks::{WebhookRecord, listeners};
use super::{Result, Store, StoreError, lock, micros, sql};
use crate::domain::ids::{EventId, WebhookId};
use crate::domain::timestamp;

/// Things that are written down in one transaction, of each kind.
const AT_ONCE: i64 = 256;
/// Deliveries that one gateway claims at a time.
const CLAIM: i64 = 16;
/// How long a claim holds: longer than an endpoint may take to answer.
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// Payouts are looked at again from this long before the last one. Their time only rises, so this need not be much: it is
/// for several of the same moment.
const OVERLAP_US: i64 = 60_000_000;

/// How long an event is kept after it happened, in days.
const KEPT_DAYS: i64 = 30;

/// What is to be delivered, and to whom.
#[derive(Clone, PartialEq, Eq)]
pub struct DueDelivery {
    /// The endpoint.
    pub webhook: WebhookId,
    /// The event.
    pub event: EventId,
    /// Which try this is, from 1; also what tells this claim from a later one.
    pub tries: i64,
    /// Where to post.
    pub url: String,
    /// What signs it.
    pub secret: String,
    /// The message.
    pub body: String,
}

impl fmt::Debug for DueDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DueDelivery({} to {}, try {})", self.event, self.webhook, self.tries)
    }
}

/// Something that happened and is not in the outbox.
struct News {
    kind: WebhookEvent,
    /// The same for the same thing, whoever sees it.
    source: String,
    /// When, Unix microseconds.
    at_us: i64,
    data: Value,
}

/// An account on the other side of its threshold than it was.
struct Crossing {
    account: String,
    threshold: i64,
    was_low: bool,
    spendable: i64,
}

impl Store {
    /// Writes down what has happened since: balances that fell below their threshold, and payouts. Returns how many events.
    /// Any number of gateways may do this at a time.
    pub async fn gather_webhook_events(&self) -> Result<u64> {
        let mut reader = self.reader.acquire().await?;
        // Most of the time there is nothing, and nothing is locked to see that.
        if crossings(&mut reader).await?.is_empty() && payouts(&mut reader).await?.is_empty() {
            return Ok(0);
        }
        drop(reader);
        sql::retrying(|| self.try_gather()).await
    }

    async fn try_gather(&self) -> Result<u64> {
        let clock = self.clock();
        let mut tx = self.transaction().await?;
        lock(&mut tx, "webhooks").await?;
        let now_us: i64 = sql::query(format!("SELECT {clock}")).fetch_one(&mut *tx).await?.try_get(0)?;
        let listeners = listeners(&mut tx).await?;
        let mut news = payouts(&mut tx).await?;
        for crossing in crossings(&mut tx).await? {
            news.extend(cross(&mut tx, &crossing, now_us).await?);
        }
        let mut written = 0;
        for news in &news {
            written += u64::from(publish(&mut tx, &listeners, news, now_us).await?);
            advance(&mut tx, news).await?;
        }
        tx.commit().await?;
        Ok(written)
    }

    /// Forgets events of more than 30 days ago, with their deliveries, once none of these is still to be tried; a few
    /// hundred at a time. Returns how many. An event that keeps a payout from being told again stays until there are later
    /// payouts.
    pub async fn forget_webhook_events(&self) -> Result<u64> {
        if old(&mut *self.reader.acquire().await?, &self.clock()).await?.is_empty() {
            return Ok(0);
        }
        sql::retrying(|| self.try_forget()).await
    }

    async fn try_forget(&self) -> Result<u64> {
        let mut tx = self.transaction().await?;
        lock(&mut tx, "webhooks").await?;
        let events = old(&mut tx, &self.clock()).await?;
        for piece in pieces(&events) {
            let rows = rows_of(1, piece.len(), 1);
            for (table, column) in [("webhook_deliveries", "event"), ("webhook_events", "id")] {
                let mut delete = sql::query(format!("DELETE FROM {table} WHERE {column} IN (VALUES {rows})"));
                for event in piece {
                    delete = delete.bind(event.as_str());
                }
                delete.execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
        Ok(events.len() as u64)
    }

    /// Claims deliveries that are due, a few at a time: nobody else tries them for a minute.
    pub async fn claim_webhook_deliveries(&self) -> Result<Vec<DueDelivery>> {
        let clock = self.clock();
        let due = format!("state = 'pending' AND next_try_at <= {clock}");
        let any = sql::query(format!("SELECT webhook FROM webhook_deliveries WHERE {due} LIMIT 1"));
        if any.fetch_optional(&self.reader).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.transaction().await?;
        // Due is asked twice: whoever waited here for another's claim must see that it was made.
        let claim = format!(
            "UPDATE webhook_deliveries SET tries = tries + 1, next_try_at = {clock} + $1
             WHERE {due} AND (webhook, event) IN (SELECT webhook, event FROM webhook_deliveries WHERE {due}
                 ORDER BY next_try_at LIMIT {CLAIM})
             RETURNING webhook, event, tries"
        );
        let claimed = sql::query(claim).bind(micros(CLAIMED_FOR)).fetch_all(&mut *tx).await?;
        let mut deliveries = Vec::with_capacity(claimed.len());
        for row in &claimed {
            let (webhook, event): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let select =
                "SELECT w.url, w.secret, e.body FROM webhooks w JOIN webhook_events e ON e.id = $2 WHERE w.id = $1";
            let found = sqlx::query(select).bind(webhook.as_str()).bind(event.as_str()).fetch_one(&mut *tx).await?;
            deliveries.push(DueDelivery {
                webhook: parse(webhook)?,
                event: parse(event)?,
                tries: row.try_get(2)?,
                url: found.try_get(0)?,
                secret: found.try_get(1)?,
                body: found.try_get(2)?,
            });
        }
        tx.commit().await?;
        Ok(deliveries)
    }

    /// Writes down how a try went: the status of the answer, if there was one. Anything but 2xx is tried again in `retry`,
    /// or given up where that is `None`. Nothing changes where the claim has run out and another try has begun.
    pub async fn end_webhook_try(
        &self,
        delivery: &DueDelivery,
        status: Option<u16>,
        retry: Option<Duration>,
    ) -> Result<()> {
        let state = match (status, retry) {
            (Some(200..=299), _) => "delivered",
            (_, Some(_)) => "pending",
            (_, None) => "dead",
        };
        let end = format!(
            "UPDATE webhook_deliveries SET state = $4, last_status = $5, next_try_at = {} + $6
             WHERE webhook = $1 AND event = $2 AND tries = $3 AND state = 'pending'",
            self.clock()
        );
        sql::query(end)
            .bind(delivery.webhook.to_string())
            .bind(delivery.event.to_string())
            .bind(delivery.tries)
            .bind(state)
            .bind(status.map(i64::from))
            .bind(micros(retry.unwrap_or_default()))
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

/// Events that can be forgotten. Payouts are looked at from their counter on, less the overlap, and known by their event.
async fn old(connection: &mut AnyConnection, clock: &str) -> Result<Vec<String>> {
    let select = format!(
        "SELECT e.id FROM webhook_events e WHERE e.created_at < {clock} - $1
           AND (e.type = 'account.low_balance' OR e.created_at < (SELECT c.value FROM counters c WHERE c.name =
               CASE e.type WHEN 'payout.created' THEN 'webhooks_created' ELSE 'webhooks_decided' END) - {OVERLAP_US})
           AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.event = e.id AND d.state = 'pending')
         ORDER BY e.created_at LIMIT {AT_ONCE}"
    );
    let rows = sql::query(select).bind(KEPT_DAYS * 86_400_000_000).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Accounts that crossed their threshold, in either direction.
async fn crossings(connection: &mut AnyConnection) -> Result<Vec<Crossing>> {
    let select = "SELECT account, threshold, is_low, spendable FROM (
            SELECT w.account AS account, w.threshold AS threshold, w.is_low AS is_low,
                   c.balance + CAST(COALESCE((SELECT SUM(a.balance) FROM ledger_accounts a
                       WHERE a.kind = 'allowance' AND a.owner = w.account), 0) AS BIGINT) AS spendable
            FROM low_balance w JOIN ledger_accounts c ON c.kind = 'credit' AND c.owner = w.account
            WHERE w.threshold IS NOT NULL) AS watched
        WHERE (is_low = 0 AND spendable < threshold) OR (is_low = 1 AND spendable >= threshold)
        ORDER BY account LIMIT $1";
    let crossing = |row: &AnyRow| {
        Ok(Crossing {
            account: row.try_get(0)?,
            threshold: row.try_get(1)?,
            was_low: row.try_get::<i64, _>(2)? == 1,
            spendable: row.try_get(3)?,
        })
    };
    sqlx::query(select).bind(AT_ONCE).fetch_all(connection).await?.iter().map(crossing).collect()
}

/// Remembers on which side the account is now. Falling below is news, coming back is not.
async fn cross(connection: &mut AnyConnection, crossing: &Crossing, now_us: i64) -> Result<Option<News>> {
    let is_low = i64::from(!crossing.was_low);
    let update =
        "UPDATE low_balance SET is_low = $2, crossings = crossings + $2 WHERE account = $1 RETURNING crossings";
    let row = sqlx::query(update).bind(crossing.account.as_str()).bind(is_low).fetch_one(connection).await?;
    let (account, crossings): (&str, i64) = (&crossing.account, row.try_get(0)?);
    let data = json!({
        "account": account,
        "threshold_usd": NanoUsd::from_nanos(crossing.threshold),
        "spendable_usd": NanoUsd::from_nanos(crossing.spendable),
    });
    let kind = WebhookEvent::LowBalance;
    let source = format!("{} {account} {crossings}", kind.as_str());
    Ok((!crossing.was_low).then_some(News { kind, source, at_us: now_us, data }))
}

/// Payouts that were made, confirmed or reversed. How a provider is paid is not told: only who and how much.
async fn payouts(connection: &mut AnyConnection) -> Result<Vec<News>> {
    let mut news = Vec::new();
    for (counter, moment, name) in [
        ("webhooks_created", "created_at", "'payout.created'"),
        ("webhooks_decided", "decided_at", "'payout.' || p.state"),
    ] {
        let select = format!(
            "SELECT p.id, p.run, p.provider, p.amount, p.reference, p.{moment}, {name} FROM payouts p
             WHERE p.{moment} >= (SELECT value FROM counters WHERE name = $1) - {OVERLAP_US}
               AND NOT EXISTS (SELECT 1 FROM webhook_events e WHERE e.source = {name} || ' ' || p.id)
             ORDER BY p.{moment}, p.id LIMIT {AT_ONCE}"
        );
        let rows = sql::query(select).bind(counter).fetch_all(&mut *connection).await?;
        news.extend(rows.iter().map(payout).collect::<Result<Vec<_>>>()?);
    }
    Ok(news)
}

fn payout(row: &AnyRow) -> Result<News> {
    let (id, name): (String, String) = (row.try_get(0)?, row.try_get(6)?);
    let kind = WebhookEvent::named(&name).ok_or(StoreError::corrupt("a payout's state is malformed"))?;
    let mut data = json!({
        "payout": id,
        "run": row.try_get::<String, _>(1)?,
        "provider": row.try_get::<String, _>(2)?,
        "amount_usd": NanoUsd::from_nanos(row.try_get(3)?),
    });
    if kind == WebhookEvent::PayoutConfirmed {
        data["reference"] = row.try_get::<String, _>(4)?.into();
    }
    Ok(News { kind, source: format!("{name} {id}"), at_us: row.try_get(5)?, data })
}

/// Writes one down, and a delivery for each endpoint that was there when it happened. Whether it was new.
async fn publish(
    connection: &mut AnyConnection,
    listeners: &[WebhookRecord],
    news: &News,
    now_us: i64,
) -> Result<bool> {
    let (id, name) = (EventId::fresh().to_string(), news.kind.as_str());
    let body = json!({ "type": name, "timestamp": timestamp::format(news.at_us), "data": news.data }).to_string();
    let insert = "INSERT INTO webhook_events (id, source, type, body, created_at) VALUES ($1, $2, $3, $4, $5)
                  ON CONFLICT DO NOTHING";
    let insert = sqlx::query(insert).bind(id.as_str()).bind(news.source.as_str()).bind(name).bind(body);
    if insert.bind(news.at_us).execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let told = |webhook: &&WebhookRecord| webhook.events.contains(&news.kind) && webhook.created_at_us <= news.at_us;
    for webhook in listeners.iter().filter(told) {
        let deliver = "INSERT INTO webhook_deliveries (webhook, event, next_try_at) VALUES ($1, $2, $3)";
        let deliver = sqlx::query(deliver).bind(webhook.id.to_string()).bind(id.as_str()).bind(now_us);
        deliver.execute(&mut *connection).await?;
    }
    Ok(true)
}

/// Remembers how far payouts were read.
async fn advance(connection: &mut AnyConnection, news: &News) -> Result<()> {
    let counter = match news.kind {
        WebhookEvent::LowBalance => return Ok(()),
        WebhookEvent::PayoutCreated => "webhooks_created",
        WebhookEvent::PayoutConfirmed | WebhookEvent::PayoutReversed => "webhooks_decided",
    };
    let update = "UPDATE counters SET value = $2 WHERE name = $1 AND value < $2";
    sqlx::query(update).bind(counter).bind(news.at_us).execute(connection).await?;
    Ok(())
}
