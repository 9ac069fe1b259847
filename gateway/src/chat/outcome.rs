//! How one attempt ended, and what that says of its provider.

use bytes::Bytes;
use lumbung_openapi::error::{ErrorObject, InvalidRequest};
use lumbung_openapi::provider::{CODE_BUSY, CODE_DRAINING};
use lumbung_openapi::ticket::Ticket;
use tracing::warn;

use super::error::ApiError;
use crate::domain::breaker::{Fault, Verdict};
use crate::fleet::job::OpenError;

/// How one attempt ended.
pub enum Outcome {
    /// With the answer; this is what the provider has left to be completed.
    Complete(Option<Bytes>),
    /// The client left.
    ClientGone,
    /// The client does not read.
    ClientTooSlow,
    /// Every slot of the provider is taken: another may take it, or this one in a moment.
    Busy,
    /// It drains: another may take it.
    Draining,
    /// The provider does not take it for another reason: another may.
    Declined,
    /// The way to the provider led through another gateway, and was lost: not the provider's failure.
    Unreachable,
    /// The request is at fault: no other provider will take it.
    Refused(InvalidRequest),
    /// The provider accepted and failed.
    Broken(Fault),
    /// It fell silent behind another gateway: whose failure that is, nobody here can tell.
    Silent,
    /// What is held has been used up, and there is no more.
    OutOfMoney(ApiError),
}

impl Outcome {
    /// What it says of the provider: only what is its own doing.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Complete(_) => Verdict::Good,
            Self::Declined => Verdict::Bad(Fault::Failed),
            Self::Broken(fault) => Verdict::Bad(*fault),
            Self::Busy | Self::Draining | Self::Unreachable | Self::Silent => Verdict::Neither,
            Self::ClientGone | Self::ClientTooSlow | Self::Refused(_) | Self::OutOfMoney(_) => Verdict::Neither,
        }
    }

    /// Why the answer stops here, where it is not for the model's reasons.
    pub fn broke_off(&self) -> Option<&'static str> {
        match self {
            Self::Complete(_) => None,
            Self::ClientGone => Some("client_gone"),
            Self::ClientTooSlow => Some("client_too_slow"),
            Self::Busy | Self::Draining | Self::Declined | Self::Refused(_) => Some("declined"),
            Self::Broken(_) | Self::Silent => Some("provider_failed"),
            Self::Unreachable => Some("gateway_lost"),
            Self::OutOfMoney(_) => Some("credit_exhausted"),
        }
    }
}

/// What a provider means that does not take the job.
pub fn declined(ticket: &Ticket, error: OpenError) -> Outcome {
    let (provider, job) = (&ticket.provider, &ticket.job);
    match error {
        OpenError::Refused { status: http::StatusCode::BAD_REQUEST, body: Some(body) } => match understood(&body.error)
        {
            Some(invalid) => Outcome::Refused(invalid),
            None => {
                warn!(provider, job, code = body.error.code.as_deref(), "provider refused the job");
                Outcome::Declined
            }
        },
        OpenError::Refused { status, body } => {
            let code = body.and_then(|body| body.error.code);
            warn!(provider, job, status = status.as_u16(), code = code.as_deref(), "provider declined");
            match status {
                http::StatusCode::SERVICE_UNAVAILABLE if code.as_deref() == Some(CODE_DRAINING) => Outcome::Draining,
                http::StatusCode::SERVICE_UNAVAILABLE => Outcome::Busy,
                _ => Outcome::Declined,
            }
        }
        OpenError::Tunnel(error) => {
            warn!(provider, job, %error, "tunnel failed before the provider accepted");
            Outcome::Declined
        }
        error @ (OpenError::Hop(_) | OpenError::NoTunnel) => {
            warn!(provider, job, %error, "no way to the provider");
            Outcome::Unreachable
        }
    }
}

/// What a provider means that breaks an answer off after so many tokens.
pub fn given_up(payload: &[u8], tokens: u32) -> Outcome {
    let error: Option<ErrorObject> = serde_json::from_slice(payload).ok();
    match error.as_ref().and_then(understood) {
        Some(invalid) => Outcome::Refused(invalid),
        // A server beside it says so late.
        None if tokens == 0 && error.is_some_and(|error| error.code.as_deref() == Some(CODE_BUSY)) => Outcome::Busy,
        None => {
            warn!("provider ended the answer early");
            Outcome::Broken(Fault::Failed)
        }
    }
}

/// A provider's word that the request is at fault, where it is one of those that only a provider can know.
fn understood(error: &ErrorObject) -> Option<InvalidRequest> {
    const KNOWN: [&str; 4] = ["context_length_exceeded", "unsupported_parameter", "invalid_value", "invalid_type"];
    let code = KNOWN.into_iter().find(|known| error.code.as_deref() == Some(known))?;
    let message = error.message.chars().take(1000).collect();
    Some(InvalidRequest { message, param: error.param.as_deref().map(str::to_owned), code: Some(code) })
}

/// A provider that accepted and failed: logged once, here.
pub fn broken(ticket: &Ticket, fault: Fault, why: &dyn std::fmt::Display) -> Outcome {
    warn!(provider = %ticket.provider, job = %ticket.job, why = %why, "provider failed");
    Outcome::Broken(fault)
}
