//! One job on the tunnel, from its first frames to the answer's beginning.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::provider::Resume;
use lumbung_openapi::ticket::Ticket;

use crate::answer::{Accepted, Answer};
use crate::engine::{EngineError, Job};
use crate::intake::Intake;
use crate::node::Node;
use crate::observe::Times;
use crate::refusal::Refusal;
use crate::render::{self, Shape};
use crate::served::Served;

/// The answer's content type.
const FRAMES: HeaderValue = HeaderValue::from_static("application/x-lumbung-frames");

/// Serves one job.
pub async fn serve(endpoint: Endpoint, State(node): State<Arc<Node>>, request: Request) -> Response {
    let times = Times::arrived(endpoint, request.headers());
    match accept(&node, endpoint, request.into_body(), times).await {
        Ok(answer) => {
            let mut response = Response::new(Body::new(answer));
            response.headers_mut().insert(header::CONTENT_TYPE, FRAMES);
            response
        }
        Err(refusal) => {
            node.counters.refused.add(1);
            tracing::debug!(kind = refusal.kind(), "job refused");
            refusal.into_response()
        }
    }
}

async fn accept(node: &Arc<Node>, endpoint: Endpoint, body: Body, mut times: Times) -> Result<Answer, Refusal> {
    if node.holds.any() {
        return Err(Refusal::Draining);
    }
    let intake = {
        let _reading = node.intake.try_acquire().map_err(|_| Refusal::Busy)?;
        Intake::read(body).await?
    };
    let ticket = intake.ticket;
    let served = check(node, &ticket, &intake.request)?;
    let body = endpoint.normalize(&intake.request).map_err(Refusal::Invalid)?;
    let request = endpoint.parse(&body).map_err(Refusal::Invalid)?;
    if intake.history.len() > request.answers() as usize {
        return Err(Refusal::BadTicket("More choices were delivered than the request asks for."));
    }
    let engine = served.engine.describe();
    if let Some(unsupported) = endpoint.unsupported(&request, engine.supported) {
        return Err(Refusal::Invalid(unsupported));
    }
    let weights_digest = engine.weights_digest.clone();
    // Asked again: that may have changed while the body came.
    if node.holds.any() {
        return Err(Refusal::Draining);
    }
    let slot = served.take_slot()?;
    let place = node.journal.reserve().ok_or(Refusal::Busy)?;

    let shape = Shape::of(endpoint, &request);
    let rendering = render::dialect(&ticket, shape, &intake.request, &request).map_err(Refusal::Invalid)?;
    let job = Job {
        id: &ticket.job,
        request: &request,
        body: &body,
        max_completion_tokens: completion_limit(&ticket, &request),
        seed: request.sampling.seed.unwrap_or_else(|| ticket.seed()),
        history: &intake.history,
    };
    times.engine_asked();
    let generation = served.engine.generate(job).await.map_err(|error| {
        if let EngineError::Failed(why) = &error {
            tracing::warn!(job = ticket.job, model = ticket.model, "the engine does not begin: {why}");
        }
        match error {
            EngineError::Invalid(invalid) => Refusal::Invalid(endpoint.named(invalid)),
            error => Refusal::from(error),
        }
    })?;
    tracing::debug!(
        job = ticket.job,
        attempt = ticket.attempt,
        model = ticket.model,
        stream = shape.stream,
        "job begins"
    );
    let accepted = Accepted {
        node: node.clone(),
        ticket_text: intake.ticket_text,
        ticket,
        weights_digest,
        slot,
        place,
        vouchers: intake.vouchers,
        times,
    };
    Ok(Answer::new(accepted, generation, shape, rendering, intake.history))
}

/// Whether the ticket promises to pay this provider, for this request, what it asks. Its HMAC is the gateway's own business.
fn check(node: &Node, ticket: &Ticket, request: &[u8]) -> Result<Arc<Served>, Refusal> {
    if ticket.provider != node.provider {
        return Err(Refusal::BadTicket("The ticket is for another provider."));
    }
    let served = node.models.find(&ticket.model)?;
    let engine = served.engine.describe();
    if !ticket.digests.is_empty() && !ticket.digests.contains(&engine.weights_digest) {
        return Err(Refusal::BadTicket("The ticket asks for other weights."));
    }
    if !served.ask().is_within(&ticket.price) {
        return Err(Refusal::BadTicket("The ticket pays less than is asked."));
    }
    if ticket.start_by < node.gateway.clock.now_secs() {
        return Err(Refusal::BadTicket("The ticket must not be started any more."));
    }
    if ticket.first_token > 0 && engine.resume != Resume::Tokens {
        return Err(Refusal::BadTicket("An answer that another provider began cannot be continued here."));
    }
    if ticket.request_sha256 != Hash::of(request) {
        return Err(Refusal::BadTicket("The ticket is for another request."));
    }
    Ok(served)
}

/// The most tokens of one choice: the ticket's limit is for all of them together, those that are left out too.
fn completion_limit(ticket: &Ticket, request: &ChatRequest<'_>) -> u32 {
    let share = (ticket.max_tokens_in_all() / request.drafts()).max(1);
    request.max_tokens.map_or(share, |limit| limit.min(share))
}
