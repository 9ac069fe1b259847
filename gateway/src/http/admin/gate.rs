//! Who comes in: every call shows a token; a read-only one changes nothing, whatever the handler; what changed nothing in
//! the end is written into the audit log all the same.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};

use super::super::Shared;
use super::super::layers::RequestId;
use super::call::{Audited, key_of};
use super::error::AdminError;
use crate::chat::clock;
use crate::domain::role::{Actor, Role};
use crate::store::AuditLine;

/// Lets operators through.
pub async fn gate(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let actor = match authenticate(&shared, request.headers()).await {
        Ok(actor) => actor,
        Err(refused) => return refused.into_response(),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let extension = request.extensions();
    let mut line = AuditLine {
        method: request.method().to_string(),
        route: extension.get::<MatchedPath>().map_or_else(String::new, |path| path.as_str().to_owned()),
        resource: String::new(),
        status: 0,
        request_id: extension.get::<RequestId>().map_or_else(String::new, |id| id.0.clone()),
        idempotency_key: key_of(request.headers()).ok().flatten().unwrap_or_default(),
        actor,
    };
    let response = match line.actor.role < Role::Billing {
        true => AdminError::Forbidden(Role::Billing).into_response(),
        false => {
            request.extensions_mut().insert(line.clone());
            next.run(request).await
        }
    };
    if response.extensions().get::<Audited>().is_none() {
        line.status = response.status().as_u16();
        if let Err(error) = shared.store.audit(&line).await {
            tracing::error!(%error, request = line.request_id, "not written into the audit log");
        }
    }
    response
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
