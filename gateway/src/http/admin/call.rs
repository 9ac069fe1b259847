//! What an operator sends: who it is, a body whose faults are named, and the idempotency key under which it is done once.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::merkle::Hash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use super::super::Shared;
use super::super::layers::read_body;
use super::error::AdminError;
use crate::domain::role::Role;
use crate::store::{Act, ActRequest, AuditLine, Begun, StoredAnswer};

/// The largest body, in bytes.
pub const MAX_BODY: usize = 256 << 10;
/// Response header of an answer that was given before.
pub const REPLAYED: &str = "idempotent-replayed";
/// The longest idempotency key, in characters.
const MAX_KEY: usize = 255;

/// Marks an answer whose line in the audit log is written.
#[derive(Clone, Copy)]
pub struct Audited;

/// An id in the path.
pub struct Id<T>(pub T);

impl<T: std::str::FromStr + Send> FromRequestParts<Arc<Shared>> for Id<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Shared>) -> Result<Self, AdminError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| AdminError::invalid("id", "The id in the path is not text."))?;
        text.parse().map(Self).map_err(|_| AdminError::Missing("id"))
    }
}

/// A call that changes something.
pub struct Call<T> {
    /// Its body.
    pub body: T,
    line: AuditLine,
    fingerprint: Hash,
}

/// The body of a call that has none; anything in it is passed over.
pub struct Nothing;

/// What a call may have as its body.
pub trait Parse: Sized {
    /// Reads it. Fails with the parameter at fault.
    fn parse(body: &[u8]) -> Result<Self, InvalidRequest>;
}

impl Parse for Nothing {
    fn parse(_: &[u8]) -> Result<Self, InvalidRequest> {
        Ok(Self)
    }
}

impl<T: DeserializeOwned> Parse for T {
    fn parse(body: &[u8]) -> Result<Self, InvalidRequest> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let param = (path != ".").then_some(path);
            InvalidRequest { message: format!("Invalid body: {}.", error.inner()), param, code: Some("invalid_value") }
        })?;
        deserializer.end().map_err(|error| InvalidRequest {
            message: format!("Invalid body: {error}."),
            param: None,
            code: Some("invalid_value"),
        })?;
        Ok(parsed)
    }
}

impl<T: Parse> FromRequest<Arc<Shared>> for Call<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, _: &Arc<Shared>) -> Result<Self, AdminError> {
        let (parts, body) = request.into_parts();
        let mut line = parts.extensions.get::<AuditLine>().cloned().ok_or(AdminError::Token(None))?;
        line.idempotency_key = key_of(&parts.headers)?.unwrap_or_default();
        let bytes = read_body(body, MAX_BODY).await?;
        let what = format!("{} {}\n", parts.method, parts.uri);
        let fingerprint = Hash::of(&[what.as_bytes(), &bytes].concat());
        let body = T::parse(&bytes).map_err(|error| AdminError::Api(error.into()))?;
        Ok(Self { body, line, fingerprint })
    }
}

/// The idempotency key of a request, if it has one.
pub fn key_of(headers: &HeaderMap) -> Result<Option<String>, AdminError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=MAX_KEY).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()));
    match text {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            Err(AdminError::invalid("Idempotency-Key", "An Idempotency-Key has 1 to 255 visible ASCII characters."))
        }
    }
}

/// An act under way, in one of the few places for acts.
pub struct Doing {
    act: Box<Act>,
    _place: OwnedSemaphorePermit,
}

impl std::ops::Deref for Doing {
    type Target = Act;

    fn deref(&self) -> &Act {
        &self.act
    }
}

impl std::ops::DerefMut for Doing {
    fn deref_mut(&mut self) -> &mut Act {
        &mut self.act
    }
}

impl<T> Call<T> {
    /// Whether this call's role is enough.
    pub fn check(&self, role: Role) -> Result<(), AdminError> {
        if self.line.actor.role < role { Err(AdminError::Forbidden(role)) } else { Ok(()) }
    }

    /// Begins the act, if this call's role is enough. A call that was answered before ends here.
    pub async fn begin(&self, shared: &Shared, role: Role) -> Result<Doing, AdminError> {
        self.check(role)?;
        let place = shared.admin.acts.clone().acquire_owned().await;
        let place = place.map_err(|_| AdminError::Api(crate::chat::error::ApiError::Overloaded))?;
        let request = ActRequest { line: self.line.clone(), fingerprint: self.fingerprint };
        match shared.store.begin(request).await? {
            Begun::Fresh(act) => Ok(Doing { act, _place: place }),
            Begun::Done(answer) => Err(AdminError::Replayed(answer)),
            Begun::AnotherRequest => Err(AdminError::KeyReused),
        }
    }
}

impl Doing {
    /// Commits, and answers.
    pub async fn finish<A: Serialize>(
        self,
        status: StatusCode,
        resource: &str,
        answer: &A,
    ) -> Result<Response, AdminError> {
        self.finish_with_secret(status, resource, answer, answer).await
    }

    /// Commits, and answers once with `answer`; a repeated call is answered with `without_secret`.
    pub async fn finish_with_secret<A: Serialize>(
        self,
        status: StatusCode,
        resource: &str,
        answer: &A,
        without_secret: &A,
    ) -> Result<Response, AdminError> {
        let json = |answer: &A| {
            serde_json::to_string(answer).map_err(|error| {
                tracing::error!(%error, "an answer is no JSON");
                AdminError::Api(crate::chat::error::ApiError::BooksUnavailable)
            })
        };
        let (answer, stored) = (json(answer)?, json(without_secret)?);
        self.act.finish(status.as_u16(), resource, &stored).await?;
        let mut response = json_response(status, answer);
        response.extensions_mut().insert(Audited);
        Ok(response)
    }
}

/// An answer that was given before.
pub fn replay(answer: StoredAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = json_response(status, answer.body);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = (status, Body::from(body)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
