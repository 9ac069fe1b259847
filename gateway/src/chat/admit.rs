//! Whether the request may go ahead: is it well formed, can anyone serve it, and is there money for what it may cost.

use std::sync::Arc;

use bytes::Bytes;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::explain::EXPLAIN_HEADER;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::NanoUsd;
use lumbung_telemetry::trace::Context;

use super::allowance::{Hold, HoldError};
use super::archive::Keeping;
use super::authenticate::Caller;
use super::choose::Why;
use super::error::ApiError;
use super::limits::Grant;
use super::settle::SettlePermit;
use super::wish::{Target, Wish, understand};
use super::{BOOKS_PATIENCE, Gateway, Incoming, clock};
use crate::domain::ids::JobId;
use crate::domain::limits::Ask;
use crate::fleet::ModelSeats;
use crate::store::StoreError;

/// A request that will be served if a provider can be found.
pub struct Admitted {
    /// Where it came.
    pub endpoint: Endpoint,
    /// `x-request-id` of the answer.
    pub request_id: String,
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What is asked, of the model that is tried now.
    pub wish: Wish,
    /// The client's body, as it came; with its earlier turns, where it goes on from a response that is kept.
    pub body: Bytes,
    /// The same as the endpoint's rules read it: a conversation's is that of a chat.
    pub normalized: Bytes,
    /// SHA-256 of `body`, which binds the ticket to it.
    pub body_sha256: Hash,
    /// The model that is tried now, and who served it when the request came.
    pub model: Arc<ModelSeats>,
    /// Those to fall back on, the next one last.
    pub fallbacks: Vec<Target>,
    /// Money for the most it may cost with any of the models; for the first part of that, where the client has named no limit.
    pub hold: Hold,
    /// What it takes of the key's and the account's limits.
    pub grant: Grant,
    /// A place in the settlement queue.
    pub permit: SettlePermit,
    /// What is kept of it, if it is.
    pub keeping: Option<Keeping>,
    /// The job.
    pub job: JobId,
    /// Its id, as the client sees it.
    pub public_id: String,
    /// Its trace, if that is sampled.
    pub trace: Option<Context>,
    /// When it came, Unix microseconds.
    pub received_micros: i64,
    /// Where it is noted why a provider was chosen, if the client asks.
    pub why: Option<Arc<Why>>,
}

impl Admitted {
    /// Turns to the next model, if there is one.
    pub fn fall_back(&mut self) -> bool {
        let next = self.fallbacks.pop();
        next.map(|(wish, model)| (self.wish, self.model) = (wish, model)).is_some()
    }

    /// The creation time that the client sees, Unix seconds.
    pub fn created_secs(&self) -> u64 {
        self.received_micros as u64 / 1_000_000
    }
}

/// Admits a request, or says why not. No database stands in the way of an ordinary one. Boxed, because it is large and moves on
/// from hand to hand.
pub async fn admit(gateway: &Gateway, caller: Arc<Caller>, request: Incoming) -> Result<Box<Admitted>, ApiError> {
    let Incoming { endpoint, request_id, body, headers } = request;
    if !gateway.is_admitting() {
        return Err(gateway.why_not_admitting());
    }
    if caller.is_management {
        return Err(ApiError::Forbidden("A management key manages keys: it cannot ask for completions."));
    }
    let (body, keeping) = gateway.archive.open(endpoint, &caller.allowance.account, body).await?;
    let normalized = endpoint.normalize(&body)?;
    let mut targets = understand(gateway, &caller, endpoint, &body, &normalized)?;
    let permit = gateway.settler.permit().ok_or(ApiError::Overloaded)?;
    let (grant, hold) = reserve(gateway, &caller, &mut targets).await?;
    targets.reverse();
    let (wish, model) = targets.pop().ok_or(ApiError::InsufficientQuota)?;
    let body_sha256 = Hash::of(&body);
    let (received_micros, job) = (clock::unix_micros(), JobId::fresh());
    let public_id = format!("{}{}", endpoint.id_prefix(), job.to_string().trim_start_matches("job_"));
    Ok(Box::new(Admitted {
        endpoint,
        request_id,
        caller,
        wish,
        body,
        normalized,
        body_sha256,
        model,
        fallbacks: targets,
        hold,
        grant,
        permit,
        keeping,
        job,
        public_id,
        trace: Context::begin(&headers, || job.entropy()),
        received_micros,
        why: (headers.get(EXPLAIN_HEADER).is_some_and(|asked| asked == "1")).then(Arc::default),
    }))
}

/// Takes what the request may come to, with whichever of its models, from limits and credit. Where that is too much, the
/// dearest models are given up.
async fn reserve(gateway: &Gateway, caller: &Caller, targets: &mut Vec<Target>) -> Result<(Grant, Hold), ApiError> {
    loop {
        let ceiling = targets.iter().map(|(wish, _)| wish.ceiling()).max().flatten();
        let reserved = match ceiling {
            Some(ceiling) => reserve_at_most(gateway, caller, targets, ceiling).await,
            None => Err(ApiError::InsufficientQuota), // more than 64 bits of nano-dollars
        };
        match reserved {
            Err(ApiError::InsufficientQuota | ApiError::Limited(_))
                if targets.iter().any(|(wish, _)| wish.ceiling() != ceiling) =>
            {
                targets.retain(|(wish, _)| wish.ceiling() != ceiling);
            }
            reserved => return reserved,
        }
    }
}

async fn reserve_at_most(
    gateway: &Gateway,
    caller: &Caller,
    targets: &[Target],
    ceiling: NanoUsd,
) -> Result<(Grant, Hold), ApiError> {
    let tokens = targets.iter().map(|(wish, _)| wish.likely_tokens).max().unwrap_or(0);
    let grant = caller.scopes.admit(Ask { tokens, ceiling }).await?;
    let holding = tokio::time::timeout(BOOKS_PATIENCE, gateway.allowances.hold(&caller.allowance, ceiling));
    let hold = holding.await.unwrap_or(Err(HoldError::Store(StoreError::Silent))).map_err(|error| match error {
        HoldError::InsufficientCredit => ApiError::InsufficientQuota,
        HoldError::Store(error) => {
            tracing::error!(%error, "reservation failed");
            ApiError::BooksUnavailable
        }
    })?;
    Ok((grant, hold))
}
