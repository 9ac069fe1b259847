//! Which provider serves: the cheapest that can, the idler of two that cost the same; newcomers when nobody else can.

use std::cmp::Ordering;
use std::time::Duration;

use lumbung_openapi::ticket::Ticket;
use tokio::time::Instant;

use super::admit::{Admitted, Wish};
use super::delivered::Delivered;
use super::error::ApiError;
use super::{Gateway, clock};
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;
use crate::fleet::ModelSeats;
use crate::fleet::seat::{Seat, Taken};

/// How long a request waits for a slot.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A provider must begin within this, or the ticket is void.
const START_WITHIN_SECS: u64 = 60;

/// A request with a provider: a slot of it, and the ticket that it will be paid by.
pub struct Routed {
    /// The slot.
    pub seat: Taken,
    /// The ticket.
    pub ticket: Ticket,
    /// The ticket as it travels.
    pub ticket_text: String,
}

/// Finds a provider for the next attempt, waiting in line if every slot is taken. `tried` have failed this job already;
/// what they have `delivered` is to be continued.
pub async fn choose(
    gateway: &Gateway,
    job: &Admitted,
    attempt: u32,
    tried: &[ProviderId],
    delivered: &Delivered,
) -> Result<Routed, ApiError> {
    let deadline = Instant::now() + LONGEST_WAIT;
    let mut woken = false;
    loop {
        let snapshot = gateway.fleet.snapshot().clone();
        let model = snapshot.model(job.model.entry.id.as_str()).ok_or_else(|| no_provider(job))?;
        let can_serve = |seat: &Seat| can_serve(seat, &job.wish, tried, delivered);
        let is_well = |seat: &Seat| seat.is_well() && can_serve(seat);
        // Whoever comes while others wait goes to the end of the line.
        let may_take = woken || model.queue.is_empty();
        if may_take && let Some(seat) = take_best(model, &job.wish, is_well) {
            return Ok(route(gateway, job, attempt, seat, delivered));
        }
        // Those that are left alone because they fail are still better than nobody.
        let nobody_is_well = !model.seats.iter().any(|seat| is_well(seat));
        if may_take
            && nobody_is_well
            && let Some(seat) = take_best(model, &job.wish, can_serve)
        {
            return Ok(route(gateway, job, attempt, seat, delivered));
        }
        let is_eligible = |seat: &Seat| can_serve(seat) && (nobody_is_well || seat.is_well());
        if !model.seats.iter().any(|seat| is_eligible(seat)) {
            return Err(if tried.is_empty() { job.wish.nobody(&model.seats) } else { ApiError::ProviderFailed });
        }
        let turn = model.queue.join(woken).map_err(|_| ApiError::AllBusy)?;
        // A slot may have come free between looking and joining: then nobody would wake us.
        if model.seats.iter().any(|seat| seat.running() < seat.slots && is_eligible(seat)) {
            model.queue.wake_one();
        }
        match tokio::time::timeout_at(deadline, turn).await {
            Ok(_) => woken = true,
            Err(_) => return Err(ApiError::AllBusy),
        }
    }
}

fn no_provider(job: &Admitted) -> ApiError {
    ApiError::NoProvider(job.wish.public_model.clone())
}

fn can_serve(seat: &Seat, wish: &Wish, tried: &[ProviderId], delivered: &Delivered) -> bool {
    seat.is_open()
        && wish.accepts(seat)
        && wish.parameters.missing_from(seat.supported).is_empty()
        && !tried.contains(&seat.provider)
        && delivered.suits(seat)
}

/// Takes a slot of the best eligible seat that has one.
fn take_best(model: &ModelSeats, wish: &Wish, is_eligible: impl Fn(&Seat) -> bool) -> Option<Taken> {
    loop {
        let free = model.seats.iter().filter(|seat| seat.running() < seat.slots && is_eligible(seat));
        let best = free.min_by(|a, b| compare(a, b, wish))?;
        if let Some(taken) = best.take() {
            return Some(taken);
        }
        // Another request was quicker: look again.
    }
}

/// Trusted before newcomers, then by what the request may cost there, then by how busy it is.
fn compare(a: &Seat, b: &Seat, wish: &Wish) -> Ordering {
    let newcomer = |seat: &Seat| seat.standing == Standing::Newcomer;
    let cost = |seat: &Seat| seat.ask.cost(wish.max_prompt_tokens, wish.max_completion_tokens);
    // running_a / slots_a against running_b / slots_b, without dividing
    let load = |x: &Seat, y: &Seat| u64::from(x.running()) * u64::from(y.slots);
    newcomer(a).cmp(&newcomer(b)).then_with(|| cost(a).cmp(&cost(b))).then_with(|| load(a, b).cmp(&load(b, a)))
}

fn route(gateway: &Gateway, job: &Admitted, attempt: u32, seat: Taken, delivered: &Delivered) -> Routed {
    let now = clock::unix_secs();
    let wish = &job.wish;
    // Who goes on with an answer finds its prompt paid for, and everything held.
    let max_prompt_tokens = match delivered.has_prompt() {
        true => 0,
        false => wish.max_prompt_tokens.min(seat.context_length.saturating_mul(wish.prompts)),
    };
    let ceiling = match delivered.has_any() {
        true => None,
        false => seat.ask.cost(max_prompt_tokens, wish.held_completion_tokens),
    };
    let ceiling = ceiling.map_or(job.hold.amount(), |ceiling| ceiling.min(job.hold.amount()));
    let ticket = Ticket {
        replica: gateway.replica.to_string(),
        allowance: job.hold.allowance().to_string(),
        job: job.job.to_string(),
        attempt,
        first_token: delivered.tokens(),
        provider: seat.provider.to_string(),
        model: job.model.entry.id.to_string(),
        digests: job.model.entry.digests.clone(),
        price: seat.ask,
        fee_bps: gateway.fee_bps,
        max_prompt_tokens,
        max_completion_tokens: wish.max_completion_tokens.saturating_sub(delivered.tokens()),
        whole: !wish.stream,
        ceiling,
        request_sha256: job.body_sha256,
        public_id: job.public_id(),
        public_model: wish.public_model.clone(),
        created: job.created_secs(),
        start_by: now + START_WITHIN_SECS,
        claim_by: now + gateway.claim_window.as_secs(),
    };
    let ticket_text = gateway.keys.sign_ticket(&ticket);
    Routed { seat, ticket, ticket_text }
}
