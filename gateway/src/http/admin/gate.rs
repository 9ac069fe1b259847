//! Who comes in: every call shows a token; a read-only one changes nothing, whatever the handler; a call that met a busy
//! database is done again; what changed nothing in the end is written into the audit log all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};

use super::super::Shared;
use super::super::layers::{RequestId, read_body};
use super::call::{Audited, MAX_BODY, REPLAYED, key_of};
use super::error::{AdminError, BooksBusy};
use crate::chat::clock;
use crate::domain::ids::{AccountId, KeyId, PayoutId, ProviderId, WebhookId};
use crate::domain::role::{Actor, Role};
use crate::store::AuditLine;

/// How long a call waits before it is done again, where another transaction was in its way.
const PAUSES_MS: [u64; 4] = [5, 25, 125, 625];
/// A call is not done again after this: SQLite waits for its lock by itself before it says that it is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets operators through.
pub async fn gate(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let actor = match authenticate(&shared, request.headers()).await {
        Ok(actor) => actor,
        Err(refused) => return refused.into_response(),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let extension = request.extensions();
    let route = extension.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let mut line = AuditLine {
        method: request.method().to_string(),
        route: route.to_owned(),
        resource: named(route, request.uri().path()),
        status: 0,
        request_id: extension.get::<RequestId>().map_or_else(String::new, |id| id.0.clone()),
        idempotency_key: key_of(request.headers()).ok().flatten().unwrap_or_default(),
        actor,
    };
    let response = match line.actor.role < Role::Billing {
        true => AdminError::Forbidden(Role::Billing).into_response(),
        false => act(request, &line, next).await,
    };
    if response.extensions().get::<Audited>().is_none() {
        line.status = response.status().as_u16();
        let detail = if response.headers().contains_key(REPLAYED) { r#"{"replayed":true}"# } else { "" };
        if let Err(error) = shared.store.audit(&line, detail).await {
            tracing::error!(%error, request = line.request_id, "not written into the audit log");
        }
    }
    response
}

/// The id in a path: a call that comes to nothing was about somebody, too. Empty where there is none, or one that is not of
/// the books' own making.
fn named(route: &str, path: &str) -> String {
    let is_id = |text: &str| {
        text.parse::<AccountId>().is_ok()
            || text.parse::<KeyId>().is_ok()
            || text.parse::<ProviderId>().is_ok()
            || text.parse::<PayoutId>().is_ok()
            || text.parse::<WebhookId>().is_ok()
    };
    let id = route.split('/').zip(path.split('/')).find(|(part, text)| *part == "{id}" && is_id(text));
    id.map_or_else(String::new, |(_, text)| text.to_owned())
}

/// Has a call done; again, a few times, where another transaction was in its way. Each time is a transaction of its own, of
/// which nothing is left when it meets a busy database.
async fn act(request: Request, line: &AuditLine, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(line.clone());
    let body = match read_body(body, MAX_BODY).await {
        Ok(body) => body,
        Err(error) => return AdminError::Api(error).into_response(),
    };
    let started = Instant::now();
    for pause_ms in PAUSES_MS {
        let response = next.clone().run(Request::from_parts(parts.clone(), Body::from(body.clone()))).await;
        if response.extensions().get::<BooksBusy>().is_none() || started.elapsed() > PATIENCE {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

async fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<Actor, AdminError> {
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or(AdminError::Token(None))?;
    shared.admin.verify(token, clock::unix_secs()).await.map_err(|error| {
        tracing::info!(%error, "operator's token refused");
        AdminError::Token(Some(error))
    })
}
