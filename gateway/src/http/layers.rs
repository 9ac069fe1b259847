//! What every request passes through: an id, the guard, the access log of what never became a job; and cross-origin rules.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, ORIGIN, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lumbung_openapi::error::{ErrorBody, ErrorObject};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;

use super::chat::GENERATION_ID;
use super::error::ErrorKind;
use super::guard::{Refused, guard};
use super::{Shared, rates};
use crate::chat::error::ApiError;

/// How long a client may take to send its body.
const BODY_WITHIN: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id that this request's answer carries.
#[derive(Clone)]
pub struct RequestId(pub String);

/// Marks the response of a job, whose access-log line the settlement writer prints.
#[derive(Clone, Copy)]
pub struct JobLogged;

/// Wraps the route table.
pub fn wrap(routes: Router<Arc<Shared>>, shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    // As one layer: each of its own would box every request's service and future once more.
    routes.layer((middleware::from_fn_with_state(shared.clone(), identify), CatchPanicLayer::custom(panicked)))
}

/// Whether a request may come from a script in a browser, which asks [`for_browsers`].
pub fn is_of_a_browser<B>(request: &http::Request<B>) -> bool {
    request.method() == Method::OPTIONS || request.headers().contains_key(ORIGIN)
}

/// The same routes for scripts in browsers. Nobody else needs a dozen more headers on every answer.
pub fn for_browsers(routes: Router) -> Router {
    // Keys are sent as a header, never as a cookie, so any origin may call.
    let told = [
        REQUEST_ID,
        RETRY_AFTER,
        GENERATION_ID,
        HeaderName::from_static("retry-after-ms"),
        HeaderName::from_static("x-should-retry"),
    ];
    let told: Vec<HeaderName> = told.into_iter().chain(rates::names()).collect();
    let cors = CorsLayer::permissive().expose_headers(told).max_age(Duration::from_secs(3600));
    routes.layer(cors)
}

/// Reads a whole body, within its limits of size and time.
pub async fn read_body<B>(body: B, limit: usize) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let whole = tokio::time::timeout(BODY_WITHIN, Limited::new(body, limit).collect()).await;
    match whole.map_err(|_| ApiError::BodyTooSlow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::BodyTooLarge(limit)),
        Err(_) => Err(ApiError::BodyTooSlow), // it broke off: nobody is there to read this
    }
}

async fn identify(
    State(shared): State<Arc<Shared>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = route.as_ref().map(MatchedPath::as_str);
    let answer = |mut request: Request, id| {
        request.extensions_mut().insert(RequestId(id));
        next.run(request)
    };
    respond(&shared, route, request, answer).await
}

/// Answers a request without axum's layers, which clone and box a service each: those that a model answers, which are all but a
/// few. `route` is its path as it is logged.
pub async fn answer_directly<B, F: Future<Output = Response>>(
    shared: &Shared,
    route: &str,
    request: http::Request<B>,
    answer: impl FnOnce(http::Request<B>, String) -> F,
) -> Response {
    respond(shared, Some(route), request, |request, id| caught(answer(request, id))).await
}

/// As [`CatchPanicLayer`] does it for the router: what is caught is an answer like others, with an id and a line in the log.
async fn caught(answer: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(panicked)
}

/// What every answer is given, whichever way its request came: `answer` gets the request's id.
async fn respond<B, F: Future<Output = Response>>(
    shared: &Shared,
    route: Option<&str>,
    request: http::Request<B>,
    answer: impl FnOnce(http::Request<B>, String) -> F,
) -> Response {
    let began = Instant::now();
    let id = format!("req_{}", ulid::Ulid::generate());
    let (method, version) = (request.method().clone(), request.version());
    let mut response = guard(shared, request, |request| answer(request, id.clone())).await;
    let extensions = response.extensions();
    extensions.get::<ErrorKind>().into_iter().for_each(|kind| shared.gateway.meter.refusals.count(kind.0));
    if extensions.get::<JobLogged>().is_none() && extensions.get::<Refused>().is_none() {
        tracing::info!(
            target: "access",
            request = id,
            %method,
            route,
            status = response.status().as_u16(),
            error = response.extensions().get::<ErrorKind>().map(|kind| kind.0),
            duration_ms = began.elapsed().as_secs_f64() * 1000.0,
        );
    }
    // Whoever keeps connections for later finds them closed one by one, and none with a request on its way.
    if shared.gateway.life.is_leaving()
        && version <= Version::HTTP_11
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A bug of ours: the client is told so in the usual shape, and the panic hook has logged where.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    let error = ErrorObject {
        message: "This gateway made a mistake while serving the request.".into(),
        kind: "server_error".into(),
        param: None,
        code: Some("internal_error".into()),
    };
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(ErrorBody { error })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_answer() {
        let response = caught(async { panic!("a bug") }).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = read_body(response.into_body(), 1000).await.expect("a body");
        let body: ErrorBody = serde_json::from_slice(&body).expect("an error in the usual shape");
        assert_eq!(body.error.code.as_deref(), Some("internal_error"));
        assert_eq!(caught(async { StatusCode::OK.into_response() }).await.status(), StatusCode::OK);
    }
}
