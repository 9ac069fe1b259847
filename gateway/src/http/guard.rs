//! Where a request comes from, and what is refused before any work is done for it: addresses that have shown too many keys
//! and signatures that are not good.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::{IntoResponse, Response};
use http::{Extensions, HeaderMap, HeaderName, Request, StatusCode};
use lumbung_openapi::endpoint::Endpoint;

use super::Shared;
use super::chat::with_bearer;
use super::error::in_shape;
use crate::chat::error::ApiError;
use crate::domain::address::{self, AddressRange, ClientAddress};
use crate::domain::flood::{self, Each, Rate};
use crate::fleet::clock;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection that a request came on.
#[derive(Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Marks the response of what was refused for coming too often: it gets no line of its own in the access log.
#[derive(Clone, Copy)]
pub struct Refused;

/// Who is let in to ask.
pub struct Guard {
    trusted_proxies: Vec<AddressRange>,
    /// Answers of 401, per address.
    unknown: Each,
    /// Refused since the last line about them.
    refused: AtomicU64,
    lines: flood::Shared,
}

impl Guard {
    /// Believes `X-Forwarded-For` of these proxies, and lets each address show so many wrong keys a minute.
    pub fn new(trusted_proxies: Vec<AddressRange>, wrong_keys_per_minute: u32) -> Self {
        let (unknown, lines) =
            (Each::new(Rate::per_minute(wrong_keys_per_minute)), flood::Shared::new(Rate::per_minute(1)));
        Self { trusted_proxies, unknown, refused: AtomicU64::new(0), lines }
    }

    /// The client behind a request.
    pub fn client(&self, headers: &HeaderMap, extensions: &Extensions) -> ClientAddress {
        let peer = extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
        let lines = headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|line| line.to_str().ok());
        address::client(&self.trusted_proxies, peer, lines.flat_map(|line| line.rsplit(',')))
    }

    /// Counts what was refused for coming too often, and marks the answer. A line a minute tells of all of it.
    pub fn note(&self, mut refusal: Response) -> Response {
        refusal.extensions_mut().insert(Refused);
        self.refused.fetch_add(1, Ordering::Relaxed);
        if self.lines.take(clock::unix_micros().unsigned_abs()).is_ok() {
            let refused = self.refused.swap(0, Ordering::Relaxed);
            tracing::warn!(refused, "requests refused for coming too often");
        }
        refusal
    }
}

fn is_anthropics<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with(Endpoint::Messages.path())
}

fn shows_a_known_key<B>(shared: &Shared, request: &Request<B>) -> bool {
    let keyring = &shared.gateway.keyring;
    match is_anthropics(request) {
        true => keyring.remembers(&with_bearer(request.headers().clone())),
        false => keyring.remembers(request.headers()),
    }
}

/// Lets an address wait that has shown too many keys that are not good; whoever shows one that is known passes.
pub async fn guard<B, F: Future<Output = Response>>(
    shared: &Shared,
    request: Request<B>,
    answer: impl FnOnce(Request<B>) -> F,
) -> Response {
    let client = shared.guard.client(request.headers(), request.extensions());
    let now_us = clock::unix_micros().unsigned_abs();
    if let Err(wait_us) = shared.guard.unknown.look(&client, now_us)
        && !shows_a_known_key(shared, &request)
    {
        let error = ApiError::TooManyWrongKeys { wait_us };
        let refusal =
            if is_anthropics(&request) { in_shape(Endpoint::Messages, &error) } else { error.into_response() };
        return shared.guard.note(refusal);
    }
    let response = answer(request).await;
    if response.status() == StatusCode::UNAUTHORIZED {
        // One that runs out by this is told the next time.
        let _ = shared.guard.unknown.take(&client, now_us);
    }
    response
}
