//! Errors as answers: OpenAI's shape or Anthropic's, and what the SDKs read from the headers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::RETRY_AFTER;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::ErrorBody;
use lumbung_openapi::messages::MessageError;

use crate::chat::error::ApiError;

/// Kept with the response, for the access log.
#[derive(Clone, Copy)]
pub struct ErrorKind(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(ErrorBody { error: self.object() });
        with_headers(&self, (self.status(), body).into_response())
    }
}

/// An error in the shape of the endpoint where it was made.
pub fn in_shape(endpoint: Endpoint, error: &ApiError) -> Response {
    let (status, object) = (error.status(), error.object());
    let response = match endpoint {
        Endpoint::Messages => (status, Json(MessageError::new(status.as_u16(), &object))).into_response(),
        _ => (status, Json(ErrorBody { error: object })).into_response(),
    };
    with_headers(error, response)
}

fn with_headers(error: &ApiError, mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Some(ms) = error.retry_after_ms() {
        headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        headers.insert("retry-after-ms", HeaderValue::from(ms));
    }
    if error.is_final() {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response.extensions_mut().insert(ErrorKind(error.kind()));
    response
}
