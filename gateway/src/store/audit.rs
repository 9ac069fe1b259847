//! The audit log: a line for everything that an operator changed, or tried to, over HTTP.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::act::REMEMBERED_DAYS;
use super::{Result, Store, StoreError, sql};
use crate::domain::ids::AuditId;
use crate::domain::role::{Actor, Role};

/// Who did what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Who.
    pub actor: Actor,
    /// The HTTP method.
    pub method: String,
    /// The route, such as `/admin/v1/accounts/{id}/credit`.
    pub route: String,
    /// The id of what was acted on; empty where there is none.
    pub resource: String,
    /// The HTTP status.
    pub status: u16,
    /// The request's id, as in the gateway's log.
    pub request_id: String,
    /// Its idempotency key; empty: none, or it was forgotten.
    pub idempotency_key: String,
}

impl AuditLine {
    /// Whose idempotency keys these are: two operators may choose the same text.
    pub(super) fn scope(&self) -> String {
        format!("{} {}", self.actor.issuer, self.actor.subject)
    }
}

/// A line as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its id; later lines sort after earlier ones, to the millisecond.
    pub id: AuditId,
    /// When, Unix microseconds.
    pub at_us: i64,
    /// Who did what.
    pub line: AuditLine,
    /// What it did, as JSON, where the rest does not say it; empty otherwise.
    pub detail: String,
}

/// Idempotency keys that one statement takes out of the log.
const FORGET_AT_ONCE: i64 = 1000;

/// Which lines are asked for; empty texts and `None` for any.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// By whom.
    pub subject: String,
    /// On what.
    pub resource: String,
    /// From this moment on, Unix microseconds.
    pub from_us: Option<i64>,
    /// Before this moment, Unix microseconds.
    pub until_us: Option<i64>,
}

pub(super) async fn insert(connection: &mut AnyConnection, clock: &str, line: &AuditLine, detail: &str) -> Result<()> {
    let insert = format!(
        "INSERT INTO audit_log (id, at, subject, issuer, role, method, route, resource, status, request_id,
                                idempotency_key, detail)
         VALUES ($1, {clock}, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
    );
    sql::query(insert)
        .bind(AuditId::fresh().to_string())
        .bind(line.actor.subject.as_str())
        .bind(line.actor.issuer.as_str())
        .bind(line.actor.role.as_str())
        .bind(line.method.as_str())
        .bind(line.route.as_str())
        .bind(line.resource.as_str())
        .bind(i64::from(line.status))
        .bind(line.request_id.as_str())
        .bind(line.idempotency_key.as_str())
        .bind(detail)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Writes down a call that did nothing. `detail`: JSON, or empty.
    pub async fn audit(&self, line: &AuditLine, detail: &str) -> Result<()> {
        let mut tx = self.transaction().await?;
        insert(&mut tx, &self.clock(), line, detail).await?;
        Ok(tx.commit().await?)
    }

    /// Lines of the log, oldest first: at most `limit`, after the one with the id `after` (empty: from the first).
    pub async fn audit_log(&self, filter: &AuditFilter, after: &str, limit: i64) -> Result<Vec<AuditRecord>> {
        let select = "SELECT id, at, subject, issuer, role, method, route, resource, status, request_id, idempotency_key,
                             detail FROM audit_log
                      WHERE id > $1 AND ($2 = '' OR subject = $2) AND ($3 = '' OR resource = $3) AND at >= $4 AND at < $5
                      ORDER BY id LIMIT $6";
        sqlx::query(select)
            .bind(after)
            .bind(filter.subject.as_str())
            .bind(filter.resource.as_str())
            .bind(filter.from_us.unwrap_or(i64::MIN))
            .bind(filter.until_us.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(record)
            .collect()
    }
}

impl Store {
    /// Takes idempotency keys out of the log once they are remembered no longer, some hundred at a time: they may hold
    /// anything that their callers put there. Returns how many.
    pub async fn forget_audited_keys(&self) -> Result<u64> {
        let forget = format!(
            "UPDATE audit_log SET idempotency_key = '' WHERE id IN (SELECT id FROM audit_log
             WHERE idempotency_key <> '' AND at < {} - $1 ORDER BY at LIMIT {FORGET_AT_ONCE})",
            self.clock()
        );
        let age_us = REMEMBERED_DAYS * 86_400_000_000;
        Ok(sql::query(forget).bind(age_us).execute(&self.writer).await?.rows_affected())
    }
}

fn record(row: &AnyRow) -> Result<AuditRecord> {
    let damaged = || StoreError::corrupt("a line of the audit log is malformed");
    Ok(AuditRecord {
        id: row.try_get::<String, _>(0)?.parse().map_err(|_| damaged())?,
        at_us: row.try_get(1)?,
        line: AuditLine {
            actor: Actor {
                subject: row.try_get(2)?,
                issuer: row.try_get(3)?,
                role: row.try_get::<String, _>(4)?.parse::<Role>().map_err(|_| damaged())?,
            },
            method: row.try_get(5)?,
            route: row.try_get(6)?,
            resource: row.try_get(7)?,
            status: u16::try_from(row.try_get::<i64, _>(8)?).map_err(|_| damaged())?,
            request_id: row.try_get(9)?,
            idempotency_key: row.try_get(10)?,
        },
        detail: row.try_get(11)?,
    })
}
