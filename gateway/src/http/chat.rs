//! The endpoints that a model answers at.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use lumbung_openapi::endpoint::Endpoint;

use super::Shared;
use super::layers::{JobLogged, RequestId, read_body};
use super::rates;
use crate::chat::client::Answer;
use crate::chat::error::ApiError;
use crate::chat::{self, Incoming};

/// OpenRouter's name for an answer's id, which `GET /v1/generation` takes.
pub const GENERATION_ID: HeaderName = HeaderName::from_static("x-generation-id");

/// All of them.
pub fn routes() -> Router<Arc<Shared>> {
    let route = |router: Router<Arc<Shared>>, endpoint: Endpoint| {
        router.route(endpoint.path(), post(move |shared, request| answer(endpoint, shared, request)))
    };
    Endpoint::ALL.into_iter().fold(Router::new(), route)
}

/// Answers a request, as one document or as server-sent events.
async fn answer(endpoint: Endpoint, State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let request_id = parts.extensions.get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
    let body = read_body(body, shared.max_body).await?;
    let incoming = Incoming { endpoint, request_id, headers: parts.headers, body };
    let served = chat::serve(&shared.gateway, incoming).await;
    let mut response = served.answer.map_or_else(IntoResponse::into_response, begin);
    let headers = response.headers_mut();
    rates::write(&served.rates, headers);
    if let Some(Ok(id)) = served.id.map(HeaderValue::try_from) {
        headers.insert(GENERATION_ID, id);
    }
    Ok(response)
}

/// The head of an answer, and the answer.
fn begin(answer: Answer) -> Response {
    let mut response = match answer {
        Answer::Whole(json) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], json).into_response(),
        Answer::Stream(events) => {
            let mut response = Response::new(Body::new(events));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would hold events back
            response
        }
    };
    response.extensions_mut().insert(JobLogged);
    response
}
