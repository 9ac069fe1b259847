//! The provider's endpoints: challenge, tunnel, receipts.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONNECTION, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use lumbung_openapi::error::{ErrorBody, ErrorObject};
use lumbung_openapi::provider::{Challenge, JOIN_SCHEME, JoinClaims, REPLICA_HEADER, TUNNEL_PROTOCOL};
use lumbung_openapi::receipt::{ReceiptBatch, ReceiptVerdicts};
use tracing::{info, warn};

use super::Shared;
use super::layers::read_body;
use crate::chat::clock;
use crate::chat::error::ApiError;
use crate::domain::address::ClientAddress;
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;
use crate::fleet::gate::{Crowded, Place};
use crate::fleet::join::{Doorman, JoinError};
use crate::fleet::receipts::DeskError;

/// A fresh challenge.
pub async fn challenge(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Challenge>, Response> {
    knock(&shared, &request).map_err(|crowded| shared.guard.note(TunnelRefusal::Crowded(crowded).into_response()))?;
    Ok(Json(shared.doorman.challenge(clock::unix_secs())))
}

/// Somebody speaks the join protocol; where from.
fn knock(shared: &Shared, request: &Request) -> Result<ClientAddress, Crowded> {
    let address = shared.guard.client(request.headers(), request.extensions());
    shared.gate.knock(address, clock::unix_micros().unsigned_abs())?;
    Ok(address)
}

/// When a provider may ask again that found no room, in microseconds.
const FULL_WAIT_US: u64 = 5_000_000;

/// Why a provider does not get its tunnel.
enum TunnelRefusal {
    NotATunnel,
    Join(JoinError),
    Banned,
    Crowded(Crowded),
    Draining,
    BooksUnavailable,
}

/// Who gets a tunnel, and where it is counted.
struct Welcome {
    provider: ProviderId,
    standing: Standing,
    place: Place,
}

/// Turns the connection round: after the 101 this gateway is the HTTP/2 client on it.
pub async fn tunnel(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let admitted = match knock(&shared, &request) {
        Ok(address) => admit(&shared, request.headers(), address).await,
        Err(crowded) => Err(TunnelRefusal::Crowded(crowded)),
    };
    match admitted {
        Ok(Welcome { provider, standing, place }) => {
            info!(%provider, ?standing, "provider joins");
            let upgrade = hyper::upgrade::on(request);
            let gateway = shared.gateway.clone();
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(io) => gateway.fleet.run_tunnel(provider, standing, place, TokioIo::new(io)).await,
                    Err(error) => warn!(%provider, %error, "the connection did not turn into a tunnel"),
                }
            });
            let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(TUNNEL_PROTOCOL));
            if let Ok(replica) = HeaderValue::try_from(shared.gateway.replica.to_string()) {
                headers.insert(REPLICA_HEADER, replica);
            }
            response
        }
        Err(refusal @ TunnelRefusal::Crowded(_)) => shared.guard.note(refusal.into_response()),
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets a provider in. What costs little comes first: where too many come, their signatures are not looked at.
async fn admit(shared: &Shared, headers: &HeaderMap, address: ClientAddress) -> Result<Welcome, TunnelRefusal> {
    let wants_tunnel = headers.get(UPGRADE).is_some_and(|value| value == TUNNEL_PROTOCOL);
    let join = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix(JOIN_SCHEME));
    let (true, Some(join)) = (wants_tunnel, join) else { return Err(TunnelRefusal::NotATunnel) };
    if !shared.gateway.is_ready() {
        return Err(TunnelRefusal::Draining);
    }
    let claimed = Doorman::claimed(join.trim()).map_err(TunnelRefusal::Join)?;
    let standing = shared.gateway.fleet.standing(&claimed);
    shared.gate.expect(address, standing, clock::unix_micros().unsigned_abs()).map_err(TunnelRefusal::Crowded)?;
    let admitted = shared.doorman.admit::<JoinClaims>(join.trim(), clock::unix_secs()).await;
    let (provider, _) = admitted.map_err(TunnelRefusal::Join)?;
    let standing = shared.store.register_provider(&provider).await.map_err(|error| {
        tracing::error!(%error, "provider not registered");
        TunnelRefusal::BooksUnavailable
    })?;
    match standing {
        Standing::Banned => Err(TunnelRefusal::Banned),
        standing => {
            let place = shared.gate.claim(address, standing).map_err(TunnelRefusal::Crowded)?;
            Ok(Welcome { provider, standing, place })
        }
    }
}

/// Takes signed receipts, and says what became of each.
pub async fn receipts(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<ReceiptVerdicts>, Response> {
    let body = read_body(request.into_body(), shared.max_body).await.map_err(IntoResponse::into_response)?;
    // Those who wait beyond this come again by themselves.
    let Ok(turn) = shared.desk_places.clone().try_acquire_owned() else {
        return Err(ApiError::Overloaded.into_response());
    };
    let at_the_desk = shared.clone();
    let taking = shared.books_thread.spawn(async move {
        let _turn = turn;
        take_receipts(&at_the_desk, &body).await
    });
    match taking.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(taken) => taken,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => Err(ApiError::BooksUnavailable.into_response()), // the gateway is shutting down
    }
}

async fn take_receipts(shared: &Shared, body: &[u8]) -> Result<Json<ReceiptVerdicts>, Response> {
    let batch: ReceiptBatch = serde_json::from_slice(body).map_err(|error| {
        refuse(StatusCode::BAD_REQUEST, "malformed_batch", &format!("not a batch of receipts: {error}"))
    })?;
    let taken = shared.desk.take(&batch, |provider| shared.gateway.fleet.knows(provider)).await;
    let verdicts = taken.map_err(|error| match error {
        DeskError::Signature(error) => {
            refuse(StatusCode::UNAUTHORIZED, "bad_signature", &format!("the batch is not signed properly: {error}"))
        }
        // Counts as a wrong key: an address that shows too many has to wait.
        DeskError::Stranger => refuse(StatusCode::UNAUTHORIZED, "unknown_provider", "this provider has never joined"),
        DeskError::TooMany(limit) => {
            refuse(StatusCode::BAD_REQUEST, "too_many_receipts", &format!("at most {limit} receipts in one batch"))
        }
        DeskError::Store(error) => {
            tracing::error!(%error, "receipts not taken");
            ApiError::BooksUnavailable.into_response()
        }
    })?;
    Ok(Json(verdicts))
}

impl IntoResponse for TunnelRefusal {
    fn into_response(self) -> Response {
        let mut response = match self {
            Self::NotATunnel => refuse(
                StatusCode::UPGRADE_REQUIRED,
                "upgrade_required",
                "this is where lumbung-provider dials in: 'Upgrade: lumbung-tunnel/1' and a signed join are needed",
            ),
            Self::Join(error) => refuse_answer("join_refused", &error),
            Self::Banned => refuse(StatusCode::FORBIDDEN, "provider_banned", "the operator has banned this provider"),
            Self::Crowded(crowded) => refuse_crowded(crowded),
            Self::Draining => {
                let mut response = refuse(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "draining",
                    "this gateway takes no tunnels now, for it is about to stop, or has no lease on its books: dial again",
                );
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                response
            }
            Self::BooksUnavailable => ApiError::BooksUnavailable.into_response(),
        };
        wait_if_unavailable(&mut response);
        response
    }
}

fn refuse_crowded(crowded: Crowded) -> Response {
    let (status, code, wait_us) = match crowded {
        Crowded::Address { wait_us } => (StatusCode::TOO_MANY_REQUESTS, "too_many_joins", wait_us),
        Crowded::Newcomers { wait_us } => (StatusCode::SERVICE_UNAVAILABLE, "too_many_newcomers", wait_us),
        Crowded::AddressFull => (StatusCode::TOO_MANY_REQUESTS, "too_many_tunnels", FULL_WAIT_US),
        Crowded::NewcomersFull | Crowded::Full => (StatusCode::SERVICE_UNAVAILABLE, "fleet_full", FULL_WAIT_US),
    };
    let mut response = refuse(status, code, &crowded.to_string());
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait_us.div_ceil(1_000_000).max(1)));
    response
}

/// Why a signed answer to a challenge is not accepted.
pub(super) fn refuse_answer(code: &'static str, error: &JoinError) -> Response {
    info!(%error, code, "a provider's signature is not accepted");
    let status = match error {
        JoinError::OtherGateway => StatusCode::FORBIDDEN,
        JoinError::BooksUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    };
    let mut response = refuse(status, code, &error.to_string());
    wait_if_unavailable(&mut response);
    response
}

fn wait_if_unavailable(response: &mut Response) {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().entry(RETRY_AFTER).or_insert(HeaderValue::from_static("5"));
    }
}

pub(super) fn refuse(status: StatusCode, code: &'static str, message: &str) -> Response {
    let error = ErrorObject {
        message: message.to_owned().into(),
        kind: "invalid_request_error".into(),
        param: None,
        code: Some(code.into()),
    };
    (status, Json(ErrorBody { error })).into_response()
}
