//! The endpoints that a model answers at.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::explain::EXPLAIN_HEADER;
use lumbung_openapi::messages::TokenCount;

use super::error::in_shape;
use super::layers::{JobLogged, RequestId, read_body};
use super::{Shared, rates};
use crate::chat::client::Answer;
use crate::chat::count::count_tokens;
use crate::chat::{self, Incoming};

/// OpenRouter's name for an answer's id, which `GET /v1/generation` takes.
pub const GENERATION_ID: HeaderName = HeaderName::from_static("x-generation-id");
/// Where Anthropic's clients put their key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// All of them.
pub fn routes() -> Router<Arc<Shared>> {
    let route = |router: Router<Arc<Shared>>, endpoint: Endpoint| {
        let handler = move |State(shared): State<Arc<Shared>>, Extension(RequestId(id)), request: Request| async move {
            answer(endpoint, &shared, id, request).await
        };
        router.route(endpoint.path(), post(handler))
    };
    Endpoint::ALL.into_iter().fold(Router::new(), route).route("/v1/messages/count_tokens", post(count))
}

/// Answers a request, as one document or as server-sent events.
pub async fn answer<B>(endpoint: Endpoint, shared: &Shared, request_id: String, request: http::Request<B>) -> Response
where
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (parts, body) = request.into_parts();
    let body = match read_body(body, shared.max_body).await {
        Ok(body) => body,
        Err(error) => return in_shape(endpoint, &error),
    };
    let headers = if endpoint == Endpoint::Messages { with_bearer(parts.headers) } else { parts.headers };
    let incoming = Incoming { endpoint, request_id, headers, body };
    // Boxed once: the layers around move what they wrap, and this is by far the largest part of it.
    let served = Box::pin(chat::serve(&shared.gateway, incoming)).await;
    let mut response = served.answer.map_or_else(|error| in_shape(endpoint, &error), begin);
    let headers = response.headers_mut();
    rates::write(&served.rates, headers);
    if let Some(Ok(id)) = served.id.map(HeaderValue::try_from) {
        headers.insert(GENERATION_ID, id);
    }
    if let Some(explanation) = served.why.and_then(|why| why.tell())
        && let Ok(json) = serde_json::to_string(&explanation)
        && let Ok(value) = HeaderValue::try_from(json)
    {
        headers.insert(EXPLAIN_HEADER, value);
    }
    response
}

/// Counts the tokens of a prompt in Anthropic's shape.
async fn count(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let counted = async {
        let body = read_body(body, shared.max_body).await?;
        count_tokens(&shared.gateway, &with_bearer(parts.headers), &body).await
    };
    match counted.await {
        Ok(input_tokens) => Json(TokenCount { input_tokens }).into_response(),
        Err(error) => in_shape(Endpoint::Messages, &error),
    }
}

/// Anthropic's clients send the key in a header of its own.
pub(super) fn with_bearer(mut headers: HeaderMap) -> HeaderMap {
    if headers.contains_key(AUTHORIZATION) {
        return headers;
    }
    let bearer = headers.get(API_KEY).and_then(|key| key.to_str().ok()).map(|key| format!("Bearer {key}"));
    if let Some(Ok(bearer)) = bearer.map(HeaderValue::try_from) {
        headers.insert(AUTHORIZATION, bearer);
    }
    headers
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
