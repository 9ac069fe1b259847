//! Errors as answers: OpenAI's shape, and what the SDKs read from the headers.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::RETRY_AFTER;
use lumbung_openapi::error::ErrorBody;

use crate::chat::error::ApiError;

/// Kept with the response, for the access log.
#[derive(Clone, Copy)]
pub struct ErrorKind(pub &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(ErrorBody { error: self.object() })).into_response();
        let headers = response.headers_mut();
        if let Some(ms) = self.retry_after_ms() {
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(ms));
        }
        if self.is_final() {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(ErrorKind(self.kind()));
        response
    }
}
