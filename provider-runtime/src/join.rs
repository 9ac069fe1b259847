//! Opening a tunnel: a challenge, a signed answer, an HTTP/1.1 upgrade.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use lumbung_openapi::error::ErrorBody;
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, JOIN_SCHEME, JOIN_TYP, JoinClaims, REPLICA_HEADER, TUNNEL_PATH, TUNNEL_PROTOCOL,
};
use reqwest::{Response, Upgraded};

use crate::gateway::{AGENT, Gateway, GatewayAddress, causes};

/// How long a gateway may take to answer the challenge's or the tunnel's request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How far the clocks may be apart before it is worth a line in the log.
const CLOCK_TOLERANCE_SECS: i64 = 5;

/// An open tunnel.
pub struct Joined {
    /// The connection, this end to be the HTTP/2 server.
    pub io: Upgraded,
    /// The gateway replica at the other end.
    pub replica: String,
}

/// Why no tunnel was opened.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The gateway did not accept the signature (401): the challenge may have grown stale on the way.
    #[error("the gateway did not accept the signed challenge: {0}")]
    Stale(String),
    /// The gateway refuses this provider (403).
    #[error("the gateway refuses this provider: {0}")]
    Refused(String),
    /// The gateway has no room (429, 503).
    #[error("the gateway takes no tunnel now: {message}")]
    Later {
        /// What it said.
        message: String,
        /// When to ask again, if it said so.
        after: Option<Duration>,
    },
    /// There is no lumbung gateway at the address, or it cannot be reached.
    #[error("{0}")]
    Failed(String),
}

/// Dials one tunnel, at one of the gateway's addresses.
pub async fn join(gateway: &Gateway, address: &GatewayAddress, key: &SigningKey) -> Result<Joined, JoinError> {
    let challenge = ask_challenge(gateway, address).await?;
    let claims = JoinClaims { aud: address.origin(), challenge, agent: AGENT.into() };
    let signed = key.sign_with_jwk(JOIN_TYP, &claims);
    let request = gateway
        .client
        .get(address.endpoint(TUNNEL_PATH))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, TUNNEL_PROTOCOL)
        .header(header::AUTHORIZATION, format!("{JOIN_SCHEME} {signed}"));
    let response = in_time(request.send()).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await);
    }
    let replica = response.headers().get(REPLICA_HEADER).and_then(|name| name.to_str().ok()).unwrap_or("unnamed");
    let replica = replica.to_owned();
    let io = in_time(response.upgrade()).await?;
    Ok(Joined { io, replica })
}

/// A fresh challenge.
pub(crate) async fn ask_challenge(gateway: &Gateway, address: &GatewayAddress) -> Result<String, JoinError> {
    let response = in_time(gateway.client.get(address.endpoint(CHALLENGE_PATH)).send()).await?;
    if response.status() != StatusCode::OK {
        return Err(refusal(response).await);
    }
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    if let Some(ahead_secs) = date.and_then(|date| gateway.clock.learn(date))
        && ahead_secs.abs() > CLOCK_TOLERANCE_SECS
    {
        tracing::warn!(ahead_secs, "this machine's clock differs from the gateway's; going by the gateway's");
    }
    let challenge: Challenge = in_time(response.json()).await?;
    Ok(challenge.challenge)
}

/// Waits for a gateway as long as it may take.
pub(crate) async fn in_time<T>(answer: impl Future<Output = reqwest::Result<T>>) -> Result<T, JoinError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| JoinError::Failed(causes(&error))),
        Err(_) => Err(JoinError::Failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
    }
}

async fn refusal(response: Response) -> JoinError {
    let status = response.status();
    let after = retry_after(response.headers());
    let message = match in_time(response.json::<ErrorBody>()).await {
        Ok(body) => body.error.message.into_owned(),
        Err(_) => format!("status {status}, and no lumbung gateway's error; is the address right?"),
    };
    match status {
        StatusCode::UNAUTHORIZED => JoinError::Stale(message),
        StatusCode::FORBIDDEN => JoinError::Refused(message),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => JoinError::Later { message, after },
        _ => JoinError::Failed(message),
    }
}

/// `retry-after` in seconds; its other form, a date, is not sent by gateways of ours.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
