//! What was used, and accounts' invoices.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, http::HeaderValue};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use lumbung_openapi::admin::Page;
use lumbung_openapi::usage::{self, InvoiceEntry, InvoiceUsage, UsageLine};

use super::super::Shared;
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::calendar::Month;
use crate::domain::csv::{Csv, Row};
use crate::domain::ids::AccountId;
use crate::store::{self, Invoice, StoreError, UsageBy, UsageCursor, UsageQuestion};

const DAY: &str = "a day such as 2026-11-25";

/// `GET /admin/v1/usage`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let (paging, as_csv) = (params.paging()?, params.wants_csv()?);
    let after: Option<UsageCursor> = match paging.after.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| another_question())?),
    };
    let question = UsageQuestion {
        by: by(&params.text("by").unwrap_or_default())?,
        from: params.take("from", DAY)?,
        until: params.take("until", DAY)?,
        account: params.take("account", "an account's id")?,
        key: params.take("key", "a key's id")?,
        model: params.take("model", "a model's id")?,
        provider: params.take("provider", "a provider's id")?,
        after,
        limit: u32::try_from(paging.limit()).unwrap_or(u32::MAX),
    };
    params.end()?;
    let found = match shared.store.usage(&question).await {
        Err(StoreError::Missing(_)) => return Err(AdminError::invalid("key", "There is no such key.")),
        Err(StoreError::Invalid(_)) => return Err(another_question()),
        found => found?,
    };
    let next_cursor = found.next.map(|cursor| cursor.to_string());
    let data = found.lines.into_iter().map(line).collect();
    let page = Page { object: "list", data, has_more: next_cursor.is_some(), next_cursor };
    Ok(if as_csv { page::csv(page, "usage") } else { page::json(page) })
}

/// `GET /admin/v1/accounts/{id}/invoices/{month}`
pub async fn invoice(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    mut params: Params,
) -> Result<Response, AdminError> {
    let Path((id, month)) = path.map_err(|_| AdminError::invalid("id", "The id in the path is not text."))?;
    let as_csv = params.wants_csv()?;
    params.end()?;
    let id: AccountId = id.parse().map_err(|_| AdminError::Missing("account"))?;
    let month: Month =
        month.parse().map_err(|_| AdminError::invalid("month", "'month' must be a month such as 2026-11."))?;
    let invoice = shared.store.invoice(&id, month).await?;
    if !as_csv {
        return Ok(Json(describe(invoice)).into_response());
    }
    let mut response = invoice.to_csv().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"invoice-{id}-{month}.csv\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

fn by(text: &str) -> Result<Vec<UsageBy>, AdminError> {
    let wrong =
        |_| AdminError::invalid("by", "'by' must be some of account, key, model, provider and day, with commas.");
    text.split(',').filter(|_| !text.is_empty()).map(|by| by.parse().map_err(wrong)).collect()
}

fn another_question() -> AdminError {
    AdminError::invalid("after", "'after' is no cursor of this list's.")
}

fn line(line: store::UsageLine) -> UsageLine {
    let used = line.used;
    UsageLine {
        account: line.account,
        key: line.key,
        model: line.model,
        provider: line.provider,
        day: line.day.map(|day| day.to_string()),
        requests: used.requests,
        attempts: used.attempts,
        prompt_tokens: used.prompt_tokens,
        cached_tokens: used.cached_tokens,
        completion_tokens: used.completion_tokens,
        charge_usd: used.charge,
        fee_usd: used.fee,
    }
}

fn describe(invoice: Invoice) -> usage::Invoice {
    let entry = |entry: store::InvoiceEntry| InvoiceEntry {
        at_us: entry.at_us,
        kind: entry.kind,
        reference: entry.reference,
        amount_usd: entry.amount,
    };
    let used = |line: store::InvoiceUsage| InvoiceUsage {
        model: line.model,
        key: line.key,
        label: line.label,
        requests: line.used.requests,
        attempts: line.used.attempts,
        prompt_tokens: line.used.prompt_tokens,
        cached_tokens: line.used.cached_tokens,
        completion_tokens: line.used.completion_tokens,
        charge_usd: line.used.charge,
        fee_usd: line.used.fee,
    };
    usage::Invoice {
        account: invoice.account.to_string(),
        name: invoice.name,
        month: invoice.month.to_string(),
        is_final: invoice.is_final,
        opening_usd: invoice.opening,
        credits: invoice.credits.into_iter().map(entry).collect(),
        credits_usd: invoice.credits_total,
        usage: invoice.usage.into_iter().map(used).collect(),
        usage_usd: invoice.usage_total,
        closing_usd: invoice.closing,
    }
}

impl Row for UsageLine {
    const HEAD: &'static [&'static str] = &[
        "account",
        "key",
        "model",
        "provider",
        "day",
        "requests",
        "attempts",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "charge_usd",
        "fee_usd",
    ];

    fn fields(&self, csv: Csv) -> Csv {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let csv = csv.optional(self.account.as_ref()).optional(self.key.as_ref()).text(&text(&self.model));
        let csv = csv.optional(self.provider.as_ref()).optional(self.day.as_ref()).number(self.requests);
        let csv = csv.number(self.attempts).number(self.prompt_tokens).number(self.cached_tokens);
        csv.number(self.completion_tokens).number(self.charge_usd).number(self.fee_usd)
    }
}
