//! The audit log.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use lumbung_openapi::admin::AuditEntry;

use super::super::Shared;
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::csv::{Csv, Row};
use crate::store::{AuditFilter, AuditRecord};

/// `GET /admin/v1/audit`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let (paging, as_csv) = (params.paging()?, params.wants_csv()?);
    let filter = AuditFilter {
        subject: params.text("subject").unwrap_or_default(),
        resource: params.text("resource").unwrap_or_default(),
        from_us: params.moment("from_us")?,
        until_us: params.moment("until_us")?,
    };
    params.end()?;
    let lines = shared.store.audit_log(&filter, &paging.after, paging.fetch()).await?;
    let page = paging.page(lines, |line| line.id.to_string()).map(describe);
    Ok(if as_csv { page::csv(page, "audit") } else { page::json(page) })
}

fn describe(record: AuditRecord) -> AuditEntry {
    let line = record.line;
    AuditEntry {
        id: record.id.to_string(),
        at_us: record.at_us,
        subject: line.actor.subject,
        issuer: line.actor.issuer,
        role: line.actor.role.to_string(),
        method: line.method,
        route: line.route,
        resource: line.resource,
        status: line.status,
        request_id: line.request_id,
        idempotency_key: line.idempotency_key,
        // Ours, and JSON.
        detail: serde_json::from_str(&record.detail).ok(),
    }
}

impl Row for AuditEntry {
    const HEAD: &'static [&'static str] = &[
        "id",
        "at_us",
        "subject",
        "issuer",
        "role",
        "method",
        "route",
        "resource",
        "status",
        "request_id",
        "idempotency_key",
        "detail",
    ];

    fn fields(&self, csv: Csv) -> Csv {
        let csv = csv.number(&self.id).number(self.at_us).text(&self.subject).text(&self.issuer).text(&self.role);
        let csv = csv.text(&self.method).text(&self.route).text(&self.resource).number(self.status);
        let detail = self.detail.as_ref().map_or_else(String::new, serde_json::Value::to_string);
        csv.text(&self.request_id).text(&self.idempotency_key).text(&detail)
    }
}
