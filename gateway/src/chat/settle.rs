//! Settling: what a job costs is worked out and handed to the one writer (`writer`), never in a request's way.
//!
//! Every job holds a place from its admission until its cost is committed, so that a settlement always fits into the
//! writer's queue; when the books are slow or gone the places run out, and then nothing more is admitted.

use std::sync::Arc;
use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::reply::TokenKinds;
use lumbung_telemetry::genai::Answered;
use lumbung_telemetry::trace::Context;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{error, info};

use super::admit::Admitted;
use super::attempt::Attempt;
use super::error::ApiError;
use super::limits::Unposted;
use super::observe::{self, Over};
use super::relay::{Ending, Relayed};
use super::writer::Writer;
use crate::domain::meter::GatewayMeter;
use crate::domain::settlement::{Charge, Counted, Tokens};
use crate::store::{Settlement, SigningKeys, Store};

/// How long somebody waits for everything before to be committed.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// The way to the writer. Whatever is in its queue or in its hands has one of the places, and the queue has room for all.
pub struct Settler {
    places: Arc<Semaphore>,
    capacity: usize,
    queue: mpsc::Sender<Order>,
}

/// A job's place, until it is committed.
pub struct SettlePermit {
    place: OwnedSemaphorePermit,
    queue: mpsc::Sender<Order>,
}

/// Something for the writer.
pub struct Order {
    /// What.
    pub work: Work,
    /// Given back when the work is done.
    pub place: OwnedSemaphorePermit,
}

/// What the writer is asked to do.
pub enum Work {
    /// Commit a job's attempts, and write its line into the access log.
    Settle(Box<Metered>),
    /// Tell when everything before this has been committed.
    Barrier(oneshot::Sender<()>),
}

/// A job whose cost is known.
pub struct Metered {
    /// Its attempts, as the books take them.
    pub settlements: Vec<Settlement>,
    /// Held against budgets until it is in the books.
    pub unposted: Unposted,
    /// For the access log.
    pub access: Access,
    /// For OpenTelemetry's metrics, if they are sent.
    pub answered: Option<Answered>,
    /// When the job was over, Unix microseconds.
    pub over_us: i64,
}

/// A line of the access log. Ids and figures only.
pub struct Access {
    request: String,
    /// The job's id, as the client sees it.
    pub id: String,
    key: String,
    model: String,
    provider: Option<String>,
    outcome: &'static str,
    prompt_tokens: u32,
    completion_tokens: u32,
    charge: NanoUsd,
    ttft_ms: Option<f64>,
    duration_ms: f64,
    trace: Option<Context>,
}

/// What the client is told of its tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Prompt tokens charged.
    pub prompt_tokens: u32,
    /// How many of them came from a prefix cache.
    pub cached_tokens: u32,
    /// Completion tokens charged.
    pub completion_tokens: u32,
    /// How many of them were spent on reasoning, in the words of the provider that ended the answer.
    pub reasoning_tokens: u32,
    /// What else that provider said of the tokens.
    pub kinds: TokenKinds,
    /// What it all cost.
    pub charge: NanoUsd,
}

impl Settler {
    /// And the writer, to be run. `capacity` bounds jobs in flight and settlements not yet committed, together.
    pub fn new(
        store: Store,
        keys: SigningKeys,
        capacity: usize,
        meter: Arc<GatewayMeter>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, orders) = mpsc::channel(capacity);
        let settler = Self { places: Arc::new(Semaphore::new(capacity)), capacity, queue };
        (settler, Writer { store, keys, meter }.run(orders))
    }

    /// Jobs in flight and settlements not yet committed, together, and how many there may be.
    pub fn places(&self) -> (usize, usize) {
        (self.capacity - self.places.available_permits().min(self.capacity), self.capacity)
    }

    /// A place, unless all are taken.
    pub fn permit(&self) -> Option<SettlePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(SettlePermit { place, queue: self.queue.clone() })
    }

    /// Waits until no job is in flight and everything has been committed, at most `within`.
    pub async fn drained(&self, within: Duration) {
        let everything = self.places.acquire_many(u32::try_from(self.capacity).unwrap_or(u32::MAX));
        drop(tokio::time::timeout(within, everything).await);
    }

    /// Waits until everything handed over before has been committed, a few seconds at most.
    pub async fn flush(&self) -> Result<(), ApiError> {
        let (done, committed) = oneshot::channel();
        self.permit().ok_or(ApiError::Overloaded)?.order(Work::Barrier(done));
        let committed = tokio::time::timeout(FLUSH_WITHIN, committed).await;
        committed.ok().and_then(Result::ok).ok_or(ApiError::BooksUnavailable)
    }
}

impl SettlePermit {
    fn order(self, work: Work) {
        let Self { place, queue } = self;
        if queue.try_send(Order { work, place }).is_err() {
            error!("the writer has ended before its last order");
        }
    }
}

/// Works out what a job costs and hands it to the writer. From here on the charge is certain.
pub fn settle(job: Admitted, relayed: Relayed) -> (Ending, Totals) {
    let Admitted {
        public_id: id,
        endpoint,
        model,
        request_id,
        caller,
        hold,
        grant,
        permit,
        received_micros,
        wish,
        trace,
        ..
    } = job;
    let meter = &model.health.meter;
    let first_token_us = relayed.attempts.iter().find_map(|attempt| attempt.meter.first_token_us);
    let since_ms = |at: i64| (at - received_micros) as f64 / 1000.0;
    let mut totals = match relayed.attempts.last().map(|attempt| &attempt.meter) {
        Some(last) => Totals { reasoning_tokens: last.reasoning_tokens(), kinds: last.kinds(), ..Totals::default() },
        None => Totals::default(),
    };
    let (mut left, mut settlements) = (hold.amount(), Vec::with_capacity(relayed.attempts.len()));
    for attempt in relayed.attempts {
        let (broke_off, trace) = (attempt.broke_off, attempt.trace);
        let (settlement, charge) = settlement(attempt, &caller, left);
        observe::attempt(meter, endpoint, &settlement, broke_off, trace);
        left = left.checked_sub(charge.amount).unwrap_or(NanoUsd::ZERO);
        totals.prompt_tokens += charge.tokens.prompt;
        totals.completion_tokens += charge.tokens.completion;
        totals.cached_tokens += settlement.counted.cached_tokens.min(charge.tokens.prompt);
        settlements.push(settlement);
    }
    let charge = hold.amount().checked_sub(left).unwrap_or(NanoUsd::ZERO);
    totals.charge = charge;
    let outcome = match &relayed.ending {
        Ending::Complete(_) => "complete",
        Ending::ClientGone => "client_gone",
        Ending::Failed(error) => error.kind(),
    };
    let over_us = super::clock::unix_micros();
    let job = Over {
        endpoint,
        model: model.entry.id.as_str(),
        id: &id,
        request_id: &request_id,
        outcome,
        totals,
        received_us: received_micros,
        first_token_us,
        over_us,
    };
    job.count(meter);
    job.trace(trace, settlements.len());
    let answered = job.answered();
    let access = Access {
        request: request_id,
        id,
        key: caller.key.to_string(),
        model: wish.public_model,
        provider: settlements.last().map(|s| s.ticket.provider.clone()),
        outcome,
        prompt_tokens: totals.prompt_tokens,
        completion_tokens: totals.completion_tokens,
        charge,
        ttft_ms: first_token_us.map(since_ms),
        duration_ms: since_ms(over_us),
        trace,
    };
    hold.spend(charge);
    let unposted = grant.end(u64::from(totals.prompt_tokens) + u64::from(totals.completion_tokens), charge);
    permit.order(Work::Settle(Box::new(Metered { settlements, unposted, access, answered, over_us })));
    (relayed.ending, totals)
}

fn settlement(attempt: Attempt, caller: &super::authenticate::Caller, left: NanoUsd) -> (Settlement, Charge) {
    let Attempt { ticket, ticket_text, meter, broke_off, charged, recount, .. } = attempt;
    let claims = meter.claims();
    let (counted, receipt) = meter.finish(&ticket, broke_off);
    let counted = if charged { counted } else { Counted { prompt_tokens: 0, completion_tokens: 0, ..counted } };
    let tokens = claims.as_ref().map_or(Tokens::from(&counted), |claims| Tokens::from(&counted).lower(claims.into()));
    let tokens = recount.as_ref().map_or(tokens, |recount| tokens.recounted(recount));
    let charge = Charge::of(&ticket, tokens, left);
    let account = caller.allowance.account;
    (Settlement { ticket, ticket_text, account, key: caller.key, counted, receipt, charge, recount }, charge)
}

impl Access {
    /// Writes it.
    pub fn log(&self) {
        info!(
            target: "access",
            request = self.request,
            id = self.id,
            key = self.key,
            model = self.model,
            provider = self.provider,
            outcome = self.outcome,
            prompt_tokens = self.prompt_tokens,
            completion_tokens = self.completion_tokens,
            charge_usd = %self.charge,
            ttft_ms = self.ttft_ms,
            duration_ms = self.duration_ms,
            trace = self.trace.map(|trace| tracing::field::display(trace.trace_id())),
        );
    }
}
