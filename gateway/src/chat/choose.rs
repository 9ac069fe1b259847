//! Which provider serves: `domain/routing` says who, and this takes the slot; where there is none, waits in line for one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lumbung_openapi::explain::Explanation;
use lumbung_openapi::ticket::Ticket;
use tokio::time::Instant;

use super::admit::Admitted;
use super::delivered::Delivered;
use super::error::ApiError;
use super::wish::Wish;
use super::{Gateway, clock};
use crate::domain::ids::ProviderId;
use crate::domain::routing::dice::Dice;
use crate::domain::routing::explain::Notes;
use crate::domain::routing::roster::Roster;
use crate::domain::routing::vitals::Unread;
use crate::fleet::seat::{Seat, Taken};

/// How long a request waits for a slot.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A provider must begin within this, or the ticket is void.
const START_WITHIN_SECS: u64 = 60;
/// How often a slot may be lost to a quicker request before it counts as taken.
const MOST_RACES: u32 = 16;

/// A request with a provider: a slot of it, and the ticket that it will be paid by.
pub struct Routed {
    /// The slot.
    pub seat: Taken,
    /// The prompt, which others wait behind until it has been read.
    pub unread: Unread,
    /// The ticket.
    pub ticket: Ticket,
    /// The ticket as it travels.
    pub ticket_text: String,
}

/// Where it is noted why a provider was chosen, for a client that asks.
#[derive(Default)]
pub struct Why(Mutex<Option<Explanation>>);

impl Why {
    /// The latest choice, if one was made.
    pub fn tell(&self) -> Option<Explanation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, explanation: Explanation) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(explanation);
    }
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
    let mut dice = Dice::new(job.job.entropy() ^ u64::from(attempt));
    let mut place = None;
    loop {
        let snapshot = gateway.fleet.snapshot().clone();
        let model = snapshot.model(job.model.entry.id.as_str()).ok_or_else(|| no_provider(job))?;
        let can_serve = |seat: &Seat| can_serve(seat, &job.wish, tried, delivered);
        let is_well = |seat: &Seat| seat.is_well() && can_serve(seat);
        // Whoever comes while others wait goes to the end of the line.
        let may_take = place.is_some() || model.queue.is_empty();
        if may_take && let Some(seat) = take_best(gateway, job, attempt, &model.seats, &mut dice, is_well) {
            if place.is_some() {
                waited(job, deadline);
            }
            return Ok(route(gateway, job, attempt, seat, delivered));
        }
        // Those that are left alone because they fail are still better than nobody.
        let nobody_is_well = !model.seats.iter().any(|seat| is_well(seat));
        if may_take
            && nobody_is_well
            && let Some(seat) = take_best(gateway, job, attempt, &model.seats, &mut dice, can_serve)
        {
            return Ok(route(gateway, job, attempt, seat, delivered));
        }
        let is_eligible = |seat: &Seat| can_serve(seat) && (nobody_is_well || seat.is_well());
        if !model.seats.iter().any(|seat| is_eligible(seat)) {
            return Err(if tried.is_empty() { job.wish.nobody(&model.seats) } else { ApiError::ProviderFailed });
        }
        // Another model is better than a place in the line for this one.
        if !job.fallbacks.is_empty() && !delivered.has_any() {
            return Err(ApiError::AllBusy);
        }
        let turn = model.queue.join(place).map_err(|_| ApiError::AllBusy)?;
        // What came free suits others, perhaps.
        place.into_iter().for_each(|place| model.queue.wake_behind(place));
        // A slot may have come free between looking and joining: then nobody would wake us.
        if model.seats.has_room(is_eligible) {
            model.queue.wake_one();
        }
        match tokio::time::timeout_at(deadline, turn.come()).await {
            Ok(stood) => place = Some(stood),
            Err(_) => {
                waited(job, deadline);
                return Err(ApiError::AllBusy);
            }
        }
    }
}

/// The wait that would have lasted until `deadline` is over.
fn waited(job: &Admitted, deadline: Instant) {
    let wait = LONGEST_WAIT.saturating_sub(deadline.saturating_duration_since(Instant::now()));
    job.model.health.meter.waits.observe_us(wait.as_micros() as u64);
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

/// Takes a slot of the best seat that has one.
fn take_best(
    gateway: &Gateway,
    job: &Admitted,
    attempt: u32,
    seats: &Roster<Seat>,
    dice: &mut Dice,
    eligible: impl Fn(&Seat) -> bool,
) -> Option<Taken> {
    let wish = &job.wish;
    let errand = wish.errand(gateway, clock::unix_micros());
    for _ in 0..MOST_RACES {
        let mut notes = job.why.as_ref().map(|_| Notes::default());
        let seen = |considered: &_| notes.iter_mut().for_each(|notes: &mut Notes| notes.take(considered));
        let chosen = seats.choose(&errand, dice, &eligible, seen)?;
        let Some(taken) = seats[chosen.at].take() else { continue }; // another request was quicker: look again
        if let (Some(why), Some(notes)) = (&job.why, notes) {
            why.note(notes.explain(seats, &errand, &wish.public_model, attempt));
        }
        return Some(taken);
    }
    None
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
        public_id: job.public_id.clone(),
        public_model: wish.public_model.clone(),
        created: job.created_secs(),
        start_by: now + START_WITHIN_SECS,
        claim_by: now + gateway.claim_window.as_secs(),
    };
    let ticket_text = gateway.keys.sign_ticket(&ticket);
    let unread = Unread::send(&seat.vitals, wish.prefix);
    Routed { seat, unread, ticket, ticket_text }
}
