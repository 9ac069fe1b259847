//! Lists: query parameters, each read by name and none ignored, and pages by cursor, as JSON or as CSV.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::request::Parts;
use lumbung_openapi::admin::Page;
use serde::Serialize;

use super::super::Shared;
use super::error::AdminError;
use crate::domain::csv::{self, Row};

/// Items on a page, where the request does not say.
const DEFAULT_LIMIT: i64 = 100;
/// Items on a page at most.
const MAX_LIMIT: i64 = 1000;
/// The longest value of a parameter, in bytes.
const MAX_VALUE: usize = 512;

/// The query, taken apart. Each parameter is taken once; [`Params::end`] refuses what nobody took.
pub struct Params {
    pairs: Vec<(String, String)>,
    csv: bool,
}

/// Which page of a list.
pub struct Paging {
    /// Items at most.
    limit: i64,
    /// The cursor; empty for the first page.
    pub after: String,
}

impl FromRequestParts<Arc<Shared>> for Params {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, AdminError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| AdminError::invalid("query", "The query is not made of name=value pairs."))?;
        for (index, (name, value)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(before, _)| before == name) {
                return Err(AdminError::invalid(name, format!("'{name}' is given twice.")));
            }
            if value.len() > MAX_VALUE || value.contains('\0') {
                return Err(AdminError::invalid(name, format!("'{name}' is too long, or not text.")));
            }
        }
        let accepts_csv = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.starts_with("text/csv"));
        let csv = parts.headers.get(ACCEPT).is_some_and(accepts_csv);
        Ok(Self { pairs, csv })
    }
}

impl Params {
    /// A parameter as text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(found, _)| found == name)?;
        Some(self.pairs.swap_remove(at).1)
    }

    /// A parameter that must read as a `T`; `expected` says what that is.
    pub fn take<T: std::str::FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, AdminError> {
        let parse =
            |text: String| text.parse().map_err(|_| AdminError::invalid(name, format!("'{name}' must be {expected}.")));
        self.text(name).map(parse).transpose()
    }

    /// A moment in Unix microseconds.
    pub fn moment(&mut self, name: &str) -> Result<Option<i64>, AdminError> {
        let expected = "a time in Unix microseconds";
        match self.take(name, expected)? {
            Some(us) if us < 0 => Err(AdminError::invalid(name, format!("'{name}' must be {expected}."))),
            moment => Ok(moment),
        }
    }

    /// `limit` and `after`.
    pub fn paging(&mut self) -> Result<Paging, AdminError> {
        let expected = format!("a whole number from 1 to {MAX_LIMIT}");
        let limit = self.take("limit", &expected)?.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(AdminError::invalid("limit", format!("'limit' must be {expected}.")));
        }
        Ok(Paging { limit, after: self.text("after").unwrap_or_default() })
    }

    /// `format`, or else the header `accept`: whether CSV is asked for. For lists that have it.
    pub fn wants_csv(&mut self) -> Result<bool, AdminError> {
        match self.text("format").as_deref() {
            None => Ok(self.csv),
            Some("json") => Ok(false),
            Some("csv") => Ok(true),
            Some(_) => Err(AdminError::invalid("format", "'format' must be json or csv.")),
        }
    }

    /// Nothing else was asked for.
    pub fn end(self) -> Result<(), AdminError> {
        match self.pairs.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(AdminError::invalid(name.clone(), format!("There is no parameter '{name}'."))),
        }
    }
}

impl Paging {
    /// How many to read: one more than go on the page, to see whether more follow.
    pub fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// Items on the page at most.
    pub fn limit(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }

    /// The page, from what was read; `cursor` of its last item leads on.
    pub fn page<T>(&self, mut items: Vec<T>, cursor: impl Fn(&T) -> String) -> Page<T> {
        let has_more = items.len() > self.limit();
        items.truncate(self.limit());
        let next_cursor = if has_more { items.last().map(cursor) } else { None };
        Page { object: "list", data: items, has_more, next_cursor }
    }
}

/// A page as JSON.
pub fn json<T: Serialize>(page: Page<T>) -> Response {
    Json(page).into_response()
}

/// A page as CSV; its cursor goes into the header `x-next-cursor`.
pub fn csv<T: Row>(page: Page<T>, name: &str) -> Response {
    let mut response = csv::document(&page.data).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}.csv\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    if let Some(Ok(cursor)) = page.next_cursor.map(HeaderValue::try_from) {
        headers.insert("x-next-cursor", cursor);
    }
    response
}
