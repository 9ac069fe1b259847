//! How a client is told no: OpenAI's error shape, `{"error": {message, type, param, code}}`.
//! Source: OpenAI's API reference and the typed exceptions of its SDKs.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::modality::Modality;

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The error itself.
    pub error: ErrorObject,
}

/// OpenAI's error object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorObject {
    /// For a person.
    #[schema(value_type = String)]
    pub message: Cow<'static, str>,
    /// The family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: Cow<'static, str>,
    /// The request's parameter at fault, as a path such as `messages[3].role`.
    #[schema(value_type = Option<String>)]
    pub param: Option<Cow<'static, str>>,
    /// For a program: a string or null, never a number.
    #[schema(value_type = Option<String>)]
    pub code: Option<Cow<'static, str>>,
}

/// A request that cannot be served as it stands: always status 400, type `invalid_request_error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidRequest {
    /// For a person; names the parameter and what was expected, never quotes prompt text.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// OpenAI's code for the case, where it has one.
    pub code: Option<&'static str>,
}

impl InvalidRequest {
    /// A parameter with a value that is not allowed.
    pub fn value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param.into()), code: Some("invalid_value") }
    }

    /// A parameter of the wrong JSON type.
    pub fn wrong_type(param: impl Into<String>, expected: &str) -> Self {
        let param = param.into();
        Self {
            message: format!("Invalid type for '{param}': expected {expected}."),
            param: Some(param),
            code: Some("invalid_type"),
        }
    }

    /// A required parameter that is not there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        Self {
            message: format!("Missing required parameter: '{param}'."),
            param: Some(param),
            code: Some("missing_required_parameter"),
        }
    }

    /// A parameter of OpenAI's that the chosen model or its engine cannot honour.
    pub fn unsupported(param: impl Into<String>, model: &str) -> Self {
        let param = param.into();
        Self {
            message: format!("Unsupported parameter: '{param}' is not supported with the model '{model}'."),
            param: Some(param),
            code: Some("unsupported_parameter"),
        }
    }

    /// Content that the chosen model does not take: `param` is its place.
    pub fn unsupported_content(param: impl Into<String>, modality: Modality, model: &str) -> Self {
        let param = param.into();
        Self {
            message: format!(
                "Unsupported content: '{param}' is of the kind '{modality}', which the model '{model}' does not take."
            ),
            param: Some(param),
            code: Some("unsupported_content"),
        }
    }

    /// A prompt that leaves no room in the model's context.
    pub fn context_length(limit: u32, prompt_tokens: u32) -> Self {
        Self {
            message: format!(
                "This model's maximum context length is {limit} tokens, but the messages come to {prompt_tokens} tokens. Please shorten them."
            ),
            param: Some("messages".into()),
            code: Some("context_length_exceeded"),
        }
    }

    /// The same as an error object.
    pub fn into_object(self) -> ErrorObject {
        ErrorObject {
            message: self.message.into(),
            kind: "invalid_request_error".into(),
            param: self.param.map(Cow::Owned),
            code: self.code.map(Cow::Borrowed),
        }
    }
}
