//! How a job is refused before its answer begins: OpenAI's error shape, which the gateway reads.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lumbung_openapi::error::{ErrorBody, ErrorObject, InvalidRequest};
use lumbung_openapi::provider::{CODE_BUSY, CODE_DRAINING};

use crate::engine::EngineError;

/// Why a job is refused. What it says may be read by strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client's request is at fault.
    Invalid(InvalidRequest),
    /// The gateway's ticket does not fit this provider or this request.
    BadTicket(&'static str),
    /// Every slot is taken, or no receipt could be kept.
    Busy,
    /// This provider takes nothing new at the moment, or any more.
    Draining,
    /// The engine or this program is at fault.
    Internal,
}

impl Refusal {
    /// Its name in logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::BadTicket(_) => "bad_ticket",
            Self::Busy => CODE_BUSY,
            Self::Draining => CODE_DRAINING,
            Self::Internal => "internal_error",
        }
    }

    /// As status and error object.
    pub fn into_parts(self) -> (StatusCode, ErrorObject) {
        let object = |message: &'static str, kind: &'static str, code: &'static str| ErrorObject {
            message: message.into(),
            kind: kind.into(),
            param: None,
            code: Some(code.into()),
        };
        match self {
            Self::Invalid(invalid) => (StatusCode::BAD_REQUEST, invalid.into_object()),
            Self::BadTicket(why) => (StatusCode::BAD_REQUEST, object(why, "invalid_request_error", "bad_ticket")),
            Self::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, object("Every slot is taken.", "service_unavailable", CODE_BUSY))
            }
            Self::Draining => (
                StatusCode::SERVICE_UNAVAILABLE,
                object("This provider takes no new jobs now.", "service_unavailable", CODE_DRAINING),
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                object("The provider could not answer.", "server_error", "internal_error"),
            ),
        }
    }
}

impl From<EngineError> for Refusal {
    /// The engine's own words stay in this provider's log.
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Invalid(invalid) => Self::Invalid(invalid),
            EngineError::Busy => Self::Busy,
            EngineError::Failed(_) => Self::Internal,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = self.into_parts();
        (status, Json(ErrorBody { error })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_own_words_do_not_leave_the_machine() {
        let (status, error) = Refusal::from(EngineError::Failed("/home/me/model.gguf is broken".into())).into_parts();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.message.contains("gguf"), "{}", error.message);
        assert_eq!(error.code.as_deref(), Some("internal_error"));
    }

    #[test]
    fn a_clients_fault_names_the_parameter() {
        let invalid = InvalidRequest::unsupported("tools", "m");
        let (status, error) = Refusal::from(EngineError::Invalid(invalid.clone())).into_parts();
        assert_eq!((status, error), (StatusCode::BAD_REQUEST, invalid.into_object()));
    }
}
