//! The ledger: its entries, and a check of all of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use lumbung_openapi::admin::{BooksCheck, LedgerEntry, Page};

use super::super::Shared;
use super::error::AdminError;
use super::page::{self, Params};
use crate::chat::error::ApiError;
use crate::domain::csv::{Csv, Row};
use crate::store::{EntriesPage, EntryFilter, EntryRecord};

/// `GET /admin/v1/ledger/entries`
pub async fn entries(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let (paging, as_csv) = (params.paging()?, params.wants_csv()?);
    let filter = EntryFilter {
        account: params.text("account").unwrap_or_default(),
        kind: params.text("kind").unwrap_or_default(),
        from_us: params.moment("from_us")?,
        until_us: params.moment("until_us")?,
    };
    params.end()?;
    let EntriesPage { entries, next } = shared.store.entries(&filter, &paging.after, paging.limit()).await?;
    let data = entries.into_iter().map(describe).collect();
    let page = Page { object: "list", data, has_more: next.is_some(), next_cursor: next };
    Ok(if as_csv { page::csv(page, "ledger") } else { page::json(page) })
}

/// `GET /admin/v1/ledger/check`: recomputes the books; one at a time.
pub async fn check(State(shared): State<Arc<Shared>>, params: Params) -> Result<Json<BooksCheck>, AdminError> {
    params.end()?;
    let _alone = shared.admin.checking.try_lock().map_err(|_| ApiError::Overloaded)?;
    let report = shared.store.books_check().await?;
    Ok(Json(BooksCheck {
        right: report.is_right(),
        accounts: report.accounts,
        postings: report.postings,
        attempts: report.attempts,
        differences: report.differences,
    }))
}

fn describe(entry: EntryRecord) -> LedgerEntry {
    LedgerEntry {
        posting: entry.posting,
        kind: entry.kind,
        reference: entry.reference,
        at_us: entry.at_us,
        account: entry.account,
        amount_usd: entry.amount,
    }
}

impl Row for LedgerEntry {
    const HEAD: &'static [&'static str] = &["posting", "kind", "reference", "at_us", "account", "amount_usd"];

    fn fields(&self, csv: Csv) -> Csv {
        let csv = csv.number(&self.posting).text(&self.kind).text(&self.reference).number(self.at_us);
        csv.text(&self.account).number(self.amount_usd)
    }
}
