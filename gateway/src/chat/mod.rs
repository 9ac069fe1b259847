//! A request for an answer, at whichever endpoint it comes, as one straight line:
//!
//! ```text
//! authenticate → admit → relay (choose, and choose again) → recount (some) → settle → finish
//!     Caller     Admitted        Relayed                                     Totals
//! ```
//!
//! Each step is a file and takes what the step before it made.

pub mod admit;
pub mod allowance;
pub mod archive;
pub mod attempt;
pub mod authenticate;
pub mod buffer;
pub mod choose;
pub mod client;
pub mod count;
pub mod delivered;
pub mod error;
pub mod funding;
pub mod life;
pub mod limits;
pub mod meter;
mod observe;
pub mod outcome;
pub mod recount;
pub mod relay;
pub mod settle;
pub mod tail;
pub mod transcript;
pub mod vouching;
pub mod wish;
pub mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::reply::Usage;

pub use crate::fleet::clock;

use crate::domain::ids::ReplicaId;
use crate::domain::limits::Rates;
use crate::domain::meter::GatewayMeter;
use crate::fleet::Fleet;
use crate::store::SigningKeys;
use crate::store::lease::LeaseGuard;
use admit::{Admitted, admit};
use allowance::Allowances;
use archive::Archive;
use authenticate::Keyring;
use choose::Why;
use client::{Answer, Client};
use error::ApiError;
use life::Life;
use limits::Gauges;
use recount::{Recounter, recount};
use relay::{Ending, relay};
use settle::{Settler, settle};
use tail::Tail;

/// How long a request that needs the books waits for them: a database that hangs answers nobody.
const BOOKS_PATIENCE: Duration = Duration::from_secs(5);

/// What the line needs of the gateway.
pub struct Gateway {
    /// This run of this process.
    pub replica: ReplicaId,
    /// Who may ask.
    pub keyring: Keyring,
    /// How much of what they may.
    pub gauges: Arc<Gauges>,
    /// Who may answer.
    pub fleet: Fleet,
    /// What may be spent.
    pub allowances: Arc<Allowances>,
    /// Who counts again.
    pub recounter: Recounter,
    /// Who writes down what was spent.
    pub settler: Settler,
    /// Who keeps responses, where that is on.
    pub archive: Archive,
    /// This replica's right to spend.
    pub lease: LeaseGuard,
    /// Signs tickets.
    pub keys: SigningKeys,
    /// The operator's part of every charge, in basis points.
    pub fee_bps: u16,
    /// Completion tokens per choice that money is held for at first, where a request names no limit.
    pub default_hold_tokens: u32,
    /// How long after a ticket its receipt may still be offered.
    pub claim_window: Duration,
    /// How long earnings are held back before they are payable.
    pub holdback: Duration,
    /// How long providers may take.
    pub patience: Patience,
    /// How far this gateway is on its way out.
    pub life: Life,
    /// What it counts of itself.
    pub meter: Arc<GatewayMeter>,
}

/// How long a provider may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From being asked to the first token, at most: less where a model's providers are known to be quicker…
    pub first_token: Duration,
    /// …but no less than this.
    pub first_token_floor: Duration,
    /// From one token to the next.
    pub stall: Duration,
}

impl Gateway {
    /// Whether new jobs are taken: not when stopping, and not without a lease.
    pub fn is_admitting(&self) -> bool {
        !self.life.is_draining() && self.lease.is_valid()
    }

    /// Whether proxies and providers should come here: not from the moment on at which it is told to stop.
    pub fn is_ready(&self) -> bool {
        !self.life.is_leaving() && self.lease.is_valid()
    }

    /// What a new job is told meanwhile: without the books nobody knows whether this replica may still spend.
    fn why_not_admitting(&self) -> ApiError {
        match self.life.is_draining() {
            true => ApiError::Draining,
            false => ApiError::BooksUnavailable,
        }
    }
}

/// A request as it came in.
pub struct Incoming {
    /// Where it came.
    pub endpoint: Endpoint,
    /// `x-request-id` of the answer.
    pub request_id: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What a request gets, and what is told beside it.
pub struct Served {
    /// The answer, or why there is none.
    pub answer: Result<Answer, ApiError>,
    /// Where the caller's rates stand.
    pub rates: Rates,
    /// The job's public id; none for what was not admitted.
    pub id: Option<String>,
    /// Why this provider, if the client asks.
    pub why: Option<Arc<Why>>,
}

/// Serves one request. The answer begins when a provider has begun it; the rest follows in the background,
/// where it is counted and settled whether or not the client stays.
pub async fn serve(gateway: &Arc<Gateway>, request: Incoming) -> Served {
    gateway.meter.endpoints.count(request.endpoint.path());
    let caller = match gateway.keyring.authenticate(&request.headers).await {
        Ok(caller) => caller,
        Err(error) => return Served { answer: Err(error), rates: Rates::default(), id: None, why: None },
    };
    let scopes = caller.scopes.clone();
    let (answer, id, why) = match admit(gateway, caller, request).await {
        Ok(job) => {
            let (id, why) = (job.public_id.clone(), job.why.clone());
            let (client, waiting) = Client::new(job.endpoint == Endpoint::Responses);
            tokio::spawn(run(gateway.clone(), job, client));
            (waiting.await.unwrap_or(Err(ApiError::ProviderFailed)), Some(id), why)
        }
        Err(error) => (Err(error), None, None),
    };
    Served { answer, rates: scopes.rates(), id, why }
}

async fn run(gateway: Arc<Gateway>, mut job: Box<Admitted>, mut client: Client) {
    let (id, created, endpoint, body) = (job.public_id.clone(), job.created_secs(), job.endpoint, job.body.clone());
    let (keeping, account) = (job.keeping.take(), job.caller.allowance.account);
    // Boxed: a task is moved as a whole before it begins, and this is by far the largest part of it.
    let mut relayed = Box::pin(relay(&gateway, &mut job, &mut client)).await;
    let (model, stream, include_usage) = (job.wish.public_model.clone(), job.wish.stream, job.wish.include_usage);
    recount(&gateway, &job, &mut relayed).await;
    // Settled before the tail is sent: whoever has seen the end can ask for the receipt.
    let (ending, totals) = settle(*job, relayed);
    let tail = Tail { endpoint, body: &body, id: &id, created, model: &model, stream, include_usage };
    let usage = Usage::of(totals.prompt_tokens, totals.cached_tokens, totals.completion_tokens)
        .with_reasoning(totals.reasoning_tokens)
        .with_kinds(totals.kinds)
        .at(totals.charge);
    let end = end_of(&ending, usage, &tail);
    // Kept before it is sent: whoever has seen the end can go on from it.
    if let (Some(keeping), Some(end)) = (keeping, &end) {
        gateway.archive.keep(&account, &id, keeping, end).await;
    }
    finish(client, ending, end, &tail);
}

/// The last bytes of a complete answer.
fn end_of(ending: &Ending, usage: Usage, tail: &Tail<'_>) -> Option<Bytes> {
    match ending {
        Ending::Complete(last) if tail.stream => Some(tail.stream_end(last.as_deref(), usage)),
        Ending::Complete(open) => open.as_ref().map(|open| tail.document(open, usage)),
        Ending::Failed(_) | Ending::ClientGone => None,
    }
}

/// Sends the end of the answer.
fn finish(mut client: Client, ending: Ending, end: Option<Bytes>, tail: &Tail<'_>) {
    match (ending, end) {
        // A client that leaves now has its answer and is charged; nobody is left to tell.
        (Ending::Complete(_), Some(end)) if tail.stream => drop(client.stream_last(end)),
        (Ending::Complete(_), Some(end)) => client.answer(Ok(end)),
        (Ending::Complete(_), None) => client.answer(Err(ApiError::ProviderFailed)), // the relay lets no such answer pass
        (Ending::Failed(error), _) if client.has_begun() => {
            let _ = client.stream_last(tail.stream_error(&error, client.events())); // whoever has gone need not know
        }
        (Ending::Failed(error), _) => client.answer(Err(error)),
        (Ending::ClientGone, _) => {}
    }
}
