//! Every way in which a request is told no, with what a stranger may read of it.

use std::borrow::Cow;

use http::StatusCode;
use lumbung_openapi::error::{ErrorObject, InvalidRequest};

/// Why a request is not answered, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No key, or none that is known.
    #[error("invalid API key")]
    InvalidKey,
    /// The request itself is at fault.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The body is larger than this many bytes.
    #[error("body too large")]
    BodyTooLarge(usize),
    /// The body did not come in time.
    #[error("body too slow")]
    BodyTooSlow,
    /// The catalogue has no such model.
    #[error("unknown model")]
    UnknownModel(String),
    /// The account cannot pay for what the request may cost.
    #[error("insufficient credit")]
    InsufficientQuota,
    /// The account's credit ran out while the answer grew.
    #[error("credit exhausted")]
    CreditExhausted,
    /// Nobody serves the model now.
    #[error("no provider")]
    NoProvider(String),
    /// Every slot is taken, and so is every place in the queue, or the wait was too long.
    #[error("all slots taken")]
    AllBusy,
    /// This gateway holds as many jobs as it may, or is about to stop.
    #[error("overloaded")]
    Overloaded,
    /// The books cannot be reached.
    #[error("books unavailable")]
    BooksUnavailable,
    /// Every provider that was tried failed, or the one that had begun to answer.
    #[error("provider failed")]
    ProviderFailed,
    /// The client reads so slowly that its buffer is full.
    #[error("client too slow")]
    ClientTooSlow,
    /// There is nothing here.
    #[error("not found")]
    NotFound(String),
    /// There is something here, but not for this method.
    #[error("method not allowed")]
    MethodNotAllowed(String),
}

impl ApiError {
    /// A short name, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidKey => "invalid_key",
            Self::Invalid(_) => "invalid_request",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::UnknownModel(_) => "unknown_model",
            Self::InsufficientQuota => "insufficient_quota",
            Self::CreditExhausted => "credit_exhausted",
            Self::NoProvider(_) => "no_provider",
            Self::AllBusy => "all_busy",
            Self::Overloaded => "overloaded",
            Self::BooksUnavailable => "books_unavailable",
            Self::ProviderFailed => "provider_failed",
            Self::ClientTooSlow => "client_too_slow",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed(_) => "method_not_allowed",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidKey => StatusCode::UNAUTHORIZED,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow | Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownModel(_) | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::InsufficientQuota | Self::CreditExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::NoProvider(_) | Self::AllBusy | Self::Overloaded | Self::BooksUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ProviderFailed => StatusCode::BAD_GATEWAY,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// Seconds after which trying again makes sense, where it does.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::NoProvider(_) => Some(5),
            Self::AllBusy | Self::Overloaded | Self::BooksUnavailable | Self::ProviderFailed => Some(1),
            _ => None,
        }
    }

    /// Whether the SDKs, which retry by status, must be told that trying again cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::InsufficientQuota | Self::CreditExhausted | Self::BodyTooSlow | Self::ClientTooSlow)
    }

    /// OpenAI's error object.
    pub fn object(&self) -> ErrorObject {
        let (message, kind, param, code): (Cow<'static, str>, _, Option<&'static str>, Option<&'static str>) = match self {
            Self::Invalid(invalid) => return invalid.clone().into_object(),
            Self::InvalidKey => (
                "Incorrect API key provided. Send the key as 'Authorization: Bearer <key>'.".into(),
                "invalid_request_error",
                None,
                Some("invalid_api_key"),
            ),
            Self::BodyTooLarge(limit) => (
                format!("The request body is larger than {limit} bytes.").into(),
                "invalid_request_error",
                None,
                Some("request_too_large"),
            ),
            Self::BodyTooSlow => ("The request body did not arrive in time.".into(), "invalid_request_error", None, Some("request_timeout")),
            Self::UnknownModel(model) => (
                format!("The model '{model}' does not exist. GET /v1/models lists those that do.").into(),
                "invalid_request_error",
                Some("model"),
                Some("model_not_found"),
            ),
            Self::InsufficientQuota => (
                "The account's credit does not cover what this request may cost. Add credit, or lower 'max_tokens'.".into(),
                "insufficient_quota",
                None,
                Some("insufficient_quota"),
            ),
            Self::CreditExhausted => (
                "The account's credit ran out before the answer was complete. Add credit, or set 'max_tokens'.".into(),
                "insufficient_quota",
                None,
                Some("insufficient_quota"),
            ),
            Self::NoProvider(model) => {
                (format!("No provider serves the model '{model}' at this moment.").into(), "server_error", None, Some("no_provider"))
            }
            Self::AllBusy => {
                ("Every provider of this model is busy. Please try again shortly.".into(), "server_error", None, Some("all_busy"))
            }
            Self::Overloaded => ("This gateway is at its limit. Please try again shortly.".into(), "server_error", None, Some("overloaded")),
            Self::BooksUnavailable => {
                ("This gateway cannot reach its books. Please try again shortly.".into(), "server_error", None, Some("books_unavailable"))
            }
            Self::ProviderFailed => {
                ("The provider failed before the answer was complete.".into(), "server_error", None, Some("provider_failed"))
            }
            Self::ClientTooSlow => {
                ("The answer was not read in time and has been cancelled.".into(), "server_error", None, Some("client_too_slow"))
            }
            Self::NotFound(what) => (what.clone().into(), "invalid_request_error", None, Some("not_found")),
            Self::MethodNotAllowed(what) => (what.clone().into(), "invalid_request_error", None, Some("method_not_allowed")),
        };
        ErrorObject { message, kind: kind.into(), param: param.map(Cow::Borrowed), code: code.map(Cow::Borrowed) }
    }
}
