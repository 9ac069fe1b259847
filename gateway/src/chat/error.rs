//! Every way in which a request is told no, with what a stranger may read of it.

use std::borrow::Cow;

use http::StatusCode;
use lumbung_openapi::error::{ErrorObject, InvalidRequest};

use crate::domain::limits::{Denied, Period};

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
    /// The key (or account) was good until some time that has passed.
    #[error("expired")]
    Expired(&'static str),
    /// The key may not do this; says why.
    #[error("forbidden")]
    Forbidden(&'static str),
    /// The key or its account may not ask for this model.
    #[error("model not allowed")]
    ModelNotAllowed(String),
    /// A limit of the key or its account is reached.
    #[error("limit reached")]
    Limited(Limited),
    /// The model's providers are on probation, which the key or its account does not accept.
    #[error("only newcomers")]
    OnlyNewcomers(String),
    /// The model's providers ask for more than the client's `provider.max_price`.
    #[error("above the price cap")]
    AbovePriceCap(String),
    /// A wish about providers leaves none of the model's.
    #[error("nobody allowed")]
    NobodyAllowed {
        /// The model.
        model: String,
        /// The request's member.
        wish: &'static str,
    },
    /// The client wants providers to have promised something, and none has.
    #[error("nobody promises")]
    NobodyPromises(&'static str),
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
    /// This gateway is about to stop.
    #[error("draining")]
    Draining,
    /// The client's address has shown too many keys that are not good.
    #[error("too many wrong keys")]
    TooManyWrongKeys {
        /// When it may show another, in microseconds.
        wait_us: u64,
    },
    /// This gateway holds as many jobs as it may, or has no lease on its books.
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
            Self::Expired(_) => "expired",
            Self::Forbidden(_) => "forbidden",
            Self::ModelNotAllowed(_) => "model_not_allowed",
            Self::Limited(limited) => limited.code(),
            Self::OnlyNewcomers(_) => "only_newcomers",
            Self::AbovePriceCap(_) => "above_price_cap",
            Self::NobodyAllowed { .. } => "nobody_allowed",
            Self::NobodyPromises(_) => "nobody_promises",
            Self::InsufficientQuota => "insufficient_quota",
            Self::CreditExhausted => "credit_exhausted",
            Self::NoProvider(_) => "no_provider",
            Self::AllBusy => "all_busy",
            Self::Draining => "draining",
            Self::TooManyWrongKeys { .. } => "too_many_wrong_keys",
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
            Self::InvalidKey | Self::Expired(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::ModelNotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow | Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownModel(_)
            | Self::NotFound(_)
            | Self::AbovePriceCap(_)
            | Self::NobodyAllowed { .. }
            | Self::NobodyPromises(_) => StatusCode::NOT_FOUND,
            Self::InsufficientQuota | Self::CreditExhausted | Self::Limited(_) | Self::TooManyWrongKeys { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::NoProvider(_)
            | Self::OnlyNewcomers(_)
            | Self::AllBusy
            | Self::Draining
            | Self::Overloaded
            | Self::BooksUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::ProviderFailed => StatusCode::BAD_GATEWAY,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// Milliseconds after which trying again makes sense, where it does.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => limited.retry_after_ms(),
            Self::TooManyWrongKeys { wait_us } => Some(wait_us.div_ceil(1000).max(1)),
            Self::Draining => Some(500), // another gateway answers by then
            Self::NoProvider(_) | Self::OnlyNewcomers(_) => Some(5000),
            Self::AllBusy | Self::Overloaded | Self::BooksUnavailable | Self::ProviderFailed => Some(1000),
            _ => None,
        }
    }

    /// Whether the SDKs, which retry by status, must be told that trying again cannot help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Limited(limited) => limited.retry_after_ms().is_none(),
            Self::InsufficientQuota | Self::CreditExhausted | Self::BodyTooSlow | Self::ClientTooSlow => true,
            _ => false,
        }
    }

    /// Whether another model may do where this one cannot.
    pub fn is_of_the_model(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_)
                | Self::NoProvider(_)
                | Self::OnlyNewcomers(_)
                | Self::AbovePriceCap(_)
                | Self::NobodyAllowed { .. }
                | Self::AllBusy
                | Self::ProviderFailed
        )
    }

    /// OpenAI's error object.
    pub fn object(&self) -> ErrorObject {
        let (message, kind, param, code): (Cow<'static, str>, _, Option<&'static str>, Option<&'static str>) = match self {
            Self::Invalid(invalid) => return invalid.clone().into_object(),
            Self::Limited(limited) => return limited.object(),
            Self::Expired(whose) => (
                format!("This API key's {whose} has expired.").replace("key's key", "key").into(),
                "invalid_request_error",
                None,
                Some("api_key_expired"),
            ),
            Self::Forbidden(why) => ((*why).into(), "invalid_request_error", None, Some("insufficient_permissions")),
            Self::ModelNotAllowed(model) => (
                format!("This API key, or its account, is not allowed to use the model '{model}'.").into(),
                "invalid_request_error",
                Some("model"),
                Some("model_not_allowed"),
            ),
            Self::OnlyNewcomers(model) => (
                format!("Only providers on probation serve the model '{model}' at this moment, and this API key, or its account, does not accept them.").into(),
                "server_error",
                None,
                Some("no_provider"),
            ),
            Self::AbovePriceCap(model) => (
                format!("No provider of the model '{model}' asks as little as 'provider.max_price' allows.").into(),
                "invalid_request_error",
                Some("provider.max_price"),
                Some("no_provider_within_price"),
            ),
            Self::NobodyAllowed { model, wish } => (
                format!("No provider of the model '{model}' is one that '{wish}' allows.").into(),
                "invalid_request_error",
                Some(*wish),
                Some("no_allowed_provider"),
            ),
            Self::NobodyPromises(promise) => (
                format!("No provider promises what '{promise}' asks for, so none may serve this request.").into(),
                "invalid_request_error",
                Some(*promise),
                Some("no_allowed_provider"),
            ),
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
            Self::Draining => ("This gateway is about to stop. Please ask again: another one answers.".into(), "server_error", None, Some("draining")),
            Self::TooManyWrongKeys { .. } => (
                "Too many requests from this address had no valid API key. Please try again shortly, with a valid one.".into(),
                "requests",
                None,
                Some("too_many_wrong_keys"),
            ),
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

/// Which limit of a key or an account is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// `key` or `account`.
    pub whose: &'static str,
    /// Which limit.
    pub denied: Denied,
}

impl Limited {
    fn code(&self) -> &'static str {
        match self.denied {
            Denied::Budget { .. } => "budget_exceeded",
            _ => "rate_limit_exceeded",
        }
    }

    /// Rates come back within minutes and places at any moment; a budget does not before its period ends, and a request
    /// that is larger than the rate itself never passes.
    fn retry_after_ms(&self) -> Option<u64> {
        let ms = |us: i64| (us < i64::MAX).then(|| us.unsigned_abs().div_ceil(1000).max(1));
        match self.denied {
            Denied::Budget { .. } => None,
            Denied::Requests { wait_us, .. } => ms(wait_us),
            Denied::Tokens { wait_us, .. } => wait_us.and_then(ms),
            Denied::Concurrent { .. } => Some(1000),
        }
    }

    fn object(&self) -> ErrorObject {
        let whose = self.whose;
        let (message, kind) = match self.denied {
            Denied::Budget { period, budget, used, resets } => {
                let when = resets.map_or_else(String::new, |day| format!(" It resets at {day}T00:00:00Z."));
                let period = if period == Period::Total { "total" } else { period.as_str() };
                (
                    format!(
                        "The {whose}'s {period} budget of ${budget} does not cover what this request may cost: ${used} is spent or in flight.{when}"
                    ),
                    "insufficient_quota",
                )
            }
            Denied::Requests { limit, .. } => (
                format!("The {whose}'s limit of {limit} requests per minute is reached. Please try again shortly."),
                "requests",
            ),
            Denied::Tokens { limit, asked, wait_us: Some(_) } => (
                format!(
                    "The {whose}'s limit of {limit} tokens per minute is reached: this request may take {asked}. Please try again shortly."
                ),
                "tokens",
            ),
            Denied::Tokens { limit, asked, wait_us: None } => (
                format!(
                    "This request may take {asked} tokens, more than the {whose}'s limit of {limit} tokens per minute. Lower 'max_tokens', or shorten the messages."
                ),
                "tokens",
            ),
            Denied::Concurrent { limit } => (
                format!(
                    "The {whose}'s limit of {limit} requests at a time is reached. Please try again when one has ended."
                ),
                "requests",
            ),
        };
        ErrorObject { message: message.into(), kind: kind.into(), param: None, code: Some(self.code().into()) }
    }
}
