//! How an operator is told no: the same shape as everywhere.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use lumbung_openapi::error::{ErrorBody, ErrorObject, InvalidRequest};

use super::super::error::ErrorKind;
use super::call::replay;
use crate::admin::token::TokenError;
use crate::chat::error::ApiError;
use crate::domain::role::Role;
use crate::store::{StoreError, StoredAnswer};

/// Marks an answer to a call that another transaction was in the way of: nothing of it was done.
#[derive(Clone, Copy)]
pub struct BooksBusy;

/// What ends a handler early.
pub enum AdminError {
    /// As for any request.
    Api(ApiError),
    /// No token, or one that is not taken. Which of the reasons is for the log only.
    Token(Option<TokenError>),
    /// The token's role does not allow it.
    Forbidden(Role),
    /// The idempotency key was used for another request.
    KeyReused,
    /// It contradicts what is in the books.
    Conflict(String),
    /// The books do not know it.
    Missing(&'static str),
    /// Another transaction was in the way: nothing was done, and trying again may help.
    Busy,
    /// Not an error: the call was answered before.
    Replayed(StoredAnswer),
}

impl AdminError {
    /// A parameter with a value that is not allowed.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Api(InvalidRequest::value(param, message).into())
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Api(error) => error.kind(),
            Self::Token(_) => "invalid_token",
            Self::Forbidden(_) => "forbidden",
            Self::KeyReused => "idempotency_key_reused",
            Self::Conflict(_) => "conflict",
            Self::Missing(_) => "not_found",
            Self::Busy => "books_unavailable",
            Self::Replayed(_) => "replayed",
        }
    }

    fn refusal(&self) -> (StatusCode, String, Option<&'static str>) {
        match self {
            Self::Token(Some(TokenError::NoRole)) => {
                (StatusCode::FORBIDDEN, "The token gives none of the roles admin, billing and read-only.".into(), None)
            }
            Self::Token(_) => (
                StatusCode::UNAUTHORIZED,
                "A good operator's token is needed, as 'Authorization: Bearer <token>'.".into(),
                None,
            ),
            Self::Forbidden(role) => (StatusCode::FORBIDDEN, format!("The role '{role}' is needed for this."), None),
            Self::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used for another request.".into(),
                Some("Idempotency-Key"),
            ),
            Self::Conflict(why) => (StatusCode::CONFLICT, format!("Refused: {why}."), None),
            Self::Missing(what) => (StatusCode::NOT_FOUND, format!("There is no such {what}."), None),
            Self::Api(_) | Self::Busy | Self::Replayed(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new(), None), // answered below
        }
    }
}

impl From<ApiError> for AdminError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(why) => Self::Conflict(why.into_owned()),
            StoreError::Missing(what) => Self::Missing(what),
            StoreError::Busy(cause) => {
                tracing::warn!(%cause, "another transaction was in an operator's way");
                Self::Busy
            }
            StoreError::Invalid(why) => {
                let (message, param, code) = (format!("{why}."), None, Some("invalid_value"));
                Self::Api(InvalidRequest { message, param, code }.into())
            }
            other => {
                tracing::error!(error = %other, "the books did not do what an operator asked");
                Self::Api(ApiError::BooksUnavailable)
            }
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let kind = self.kind();
        let (status, message, param) = match self {
            Self::Api(error) => return error.into_response(),
            Self::Busy => {
                let mut response = ApiError::BooksUnavailable.into_response();
                response.extensions_mut().insert(BooksBusy);
                return response;
            }
            Self::Replayed(answer) => return replay(answer),
            Self::Token(Some(TokenError::Unavailable)) => return ApiError::BooksUnavailable.into_response(),
            ref refused => refused.refusal(),
        };
        let error = ErrorObject {
            message: message.into(),
            kind: "invalid_request_error".into(),
            param: param.map(Into::into),
            code: Some(kind.into()),
        };
        let mut response = (status, Json(ErrorBody { error })).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The SDKs would retry it.
            StatusCode::CONFLICT => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response.extensions_mut().insert(ErrorKind(kind));
        response
    }
}
