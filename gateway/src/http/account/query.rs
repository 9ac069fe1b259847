//! Query parameters, each read by its name and none ignored.

use std::str::FromStr;

use axum::extract::Query;
use http::Uri;
use lumbung_openapi::error::InvalidRequest;

use crate::chat::error::ApiError;

/// A query, taken apart.
pub struct Params(Vec<(String, String)>);

impl Params {
    /// From a request's address. A parameter given twice is refused.
    pub fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| InvalidRequest::value("query", "The query is not made of name=value pairs."))?;
        for (at, (name, value)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(before, _)| before == name) || value.contains('\0') {
                return Err(wrong(name, "given once, as text"));
            }
        }
        Ok(Self(pairs))
    }

    /// A parameter as text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A parameter that must read as a `T`; `expected` says what that is.
    pub fn take<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        self.text(name).map(|text| text.parse().map_err(|_| wrong(name, expected))).transpose()
    }

    /// `limit`, within 1 and `most`.
    pub fn limit(&mut self, most: u32) -> Result<u32, ApiError> {
        let expected = format!("a whole number from 1 to {most}");
        match self.take("limit", &expected)? {
            Some(limit) if (1..=most).contains(&limit) => Ok(limit),
            Some(_) => Err(wrong("limit", &expected)),
            None => Ok(most),
        }
    }

    /// Nothing else was asked for.
    pub fn end(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(InvalidRequest {
                message: format!("There is no parameter '{name}'."),
                param: Some(name.clone()),
                code: Some("unknown_parameter"),
            }
            .into()),
        }
    }
}

/// A parameter is not what it must be.
pub fn wrong(name: &str, expected: &str) -> ApiError {
    InvalidRequest::value(name, format!("'{name}' must be {expected}.")).into()
}
