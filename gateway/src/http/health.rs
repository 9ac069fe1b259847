//! What is asked of the gateway itself: is it alive, is it ready, with which keys does it sign; and what is not there.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, StatusCode, Uri};

use super::Shared;
use crate::chat::error::ApiError;

/// Alive: the process answers.
pub async fn live() -> &'static str {
    "alive\n"
}

/// Ready: requests and providers may come. Not once it was told to stop, nor without its lease on the books.
pub async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match (shared.gateway.is_ready(), shared.gateway.life.is_leaving()) {
        (true, _) => "ready\n".into_response(),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

/// The same for a balancer that tells a server which finishes what it has (404, haproxy's `disable-on-404`) from one that
/// is out of order and whose connections are to be cut.
pub async fn balance(State(shared): State<Arc<Shared>>) -> Response {
    match shared.gateway.life.is_leaving() {
        true => (StatusCode::NOT_FOUND, "draining\n").into_response(),
        false => ready(State(shared)).await,
    }
}

/// The public keys of this gateway's signatures (RFC 7517), retired ones included.
pub async fn jwks(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "application/jwk-set+json"), (CACHE_CONTROL, "max-age=300")],
        Json(shared.gateway.keys.published()),
    )
}

/// The OpenAPI document.
pub async fn spec(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], shared.spec.clone())
}

/// No such route: the endpoints of OpenAI's that are not offered are named.
pub async fn not_found(method: Method, uri: Uri) -> ApiError {
    ApiError::NotFound(format!(
        "There is no endpoint '{method} {}' here. GET /openapi.json lists those that are.",
        uri.path()
    ))
}

/// There is such a route, but not for this method.
pub async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed(format!("'{}' does not take {method}.", uri.path()))
}
