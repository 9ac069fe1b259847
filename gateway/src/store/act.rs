//! An operator's act: the claim on its idempotency key, what it does, its answer and its line in the audit log are one
//! transaction. So a call that is repeated acts once, whoever crashed in between.

use lumbung_openapi::merkle::Hash;
use sqlx::{Any, AnyConnection, Row, Transaction};

use super::audit::{self, AuditLine};
use super::{Result, Store, sql};

/// How long an idempotency key is remembered.
pub(super) const REMEMBERED_DAYS: i64 = 30;
/// Keys that one statement forgets.
const FORGET_AT_ONCE: i64 = 1000;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct ActRequest {
    /// Who, what, under which idempotency key (empty: none); the outcome is filled in at the end.
    pub line: AuditLine,
    /// Hash of method, path and body: another request must not use the same key.
    pub fingerprint: Hash,
}

/// What becomes of it.
pub enum Begun {
    /// It is to be done now.
    Fresh(Box<Act>),
    /// It was done before, and answered so.
    Done(StoredAnswer),
    /// The key was used for something else.
    AnotherRequest,
}

/// An answer as it was given, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body: JSON.
    pub body: String,
}

/// An act that is being done. Dropped without [`Act::finish`], nothing of it has happened.
pub struct Act {
    tx: Transaction<'static, Any>,
    clock: String,
    line: AuditLine,
    /// See [`Act::note`].
    detail: String,
}

impl Store {
    /// Begins an act. One with the same idempotency key that is being done is waited for.
    pub async fn begin(&self, request: ActRequest) -> Result<Begun> {
        let mut tx = self.transaction().await?;
        let (clock, line, detail) = (self.clock(), request.line, String::new());
        if line.idempotency_key.is_empty() {
            return Ok(Begun::Fresh(Box::new(Act { tx, clock, line, detail })));
        }
        let (scope, fingerprint) = (line.scope(), request.fingerprint.to_string());
        let claim = format!(
            "INSERT INTO idempotency_keys (scope, idempotency_key, fingerprint, created_at) VALUES ($1, $2, $3, {clock})
             ON CONFLICT DO NOTHING"
        );
        let claimed = sql::query(claim)
            .bind(scope.as_str())
            .bind(line.idempotency_key.as_str())
            .bind(fingerprint.as_str())
            .execute(&mut *tx)
            .await?;
        if claimed.rows_affected() == 1 {
            return Ok(Begun::Fresh(Box::new(Act { tx, clock, line, detail })));
        }
        let select = "SELECT fingerprint, status, body FROM idempotency_keys WHERE scope = $1 AND idempotency_key = $2";
        let row =
            sqlx::query(select).bind(scope.as_str()).bind(line.idempotency_key.as_str()).fetch_one(&mut *tx).await?;
        if row.try_get::<String, _>(0)? != fingerprint {
            return Ok(Begun::AnotherRequest);
        }
        let status: i64 = row.try_get(1)?;
        let status = u16::try_from(status).map_err(|_| super::StoreError::corrupt("a stored answer has no status"))?;
        Ok(Begun::Done(StoredAnswer { status, body: row.try_get(2)? }))
    }

    /// Forgets idempotency keys after 30 days. Returns how many.
    pub async fn forget_idempotency_keys(&self) -> Result<u64> {
        let forget = format!(
            "DELETE FROM idempotency_keys WHERE (scope, idempotency_key) IN (SELECT scope, idempotency_key
             FROM idempotency_keys WHERE created_at < {} - $1 ORDER BY created_at LIMIT {FORGET_AT_ONCE})",
            self.clock()
        );
        let age_us = REMEMBERED_DAYS * 86_400_000_000;
        Ok(sql::query(forget).bind(age_us).execute(&self.writer).await?.rows_affected())
    }
}

impl Act {
    /// The transaction, and the database's clock as an SQL expression.
    pub(super) fn parts(&mut self) -> (&mut AnyConnection, &str) {
        (&mut self.tx, &self.clock)
    }

    /// Whose idempotency key this is done under, and the key; empty: none.
    pub(super) fn key(&self) -> (String, String) {
        (self.line.scope(), self.line.idempotency_key.clone())
    }

    /// What its line in the audit log says beside the rest: JSON, counts and never contents.
    pub(super) fn note(&mut self, detail: String) {
        self.detail = detail;
    }

    /// Ends it: `body` (without secrets) is what a repeated call is answered, `resource` the id of what was acted on.
    pub async fn finish(mut self: Box<Self>, status: u16, resource: &str, body: &str) -> Result<()> {
        if !self.line.idempotency_key.is_empty() {
            let answer = "UPDATE idempotency_keys SET status = $3, body = $4 WHERE scope = $1 AND idempotency_key = $2";
            sqlx::query(answer)
                .bind(self.line.scope())
                .bind(self.line.idempotency_key.as_str())
                .bind(i64::from(status))
                .bind(body)
                .execute(&mut *self.tx)
                .await?;
        }
        self.line.resource = resource.to_owned();
        self.line.status = status;
        audit::insert(&mut self.tx, &self.clock, &self.line, &self.detail).await?;
        Ok(self.tx.commit().await?)
    }
}
