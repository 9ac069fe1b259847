//! What Anthropic's endpoints answer beside messages: how a client is told no, and a prompt's length.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorObject;

/// The body of every error answer at Anthropic's endpoints, and an event in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageError {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error itself.
    pub error: MessageErrorObject,
}

/// Anthropic's error object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageErrorObject {
    /// The family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For a person.
    pub message: String,
    /// The request's parameter at fault. Not Anthropic's; OpenAI's clients know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// For a program. Not Anthropic's; OpenAI's clients know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl MessageError {
    /// An error of OpenAI's shape with its HTTP status.
    pub fn new(status: u16, error: &ErrorObject) -> Self {
        let kind = match status {
            400 | 405 | 422 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            _ => "api_error",
        };
        Self {
            kind: "error".into(),
            error: MessageErrorObject {
                kind: kind.into(),
                message: error.message.clone().into_owned(),
                param: error.param.as_deref().map(str::to_owned),
                code: error.code.as_deref().map(str::to_owned),
            },
        }
    }
}

/// `POST /v1/messages/count_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCount {
    /// Tokens of the prompt, template included.
    pub input_tokens: u32,
}
