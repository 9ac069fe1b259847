//! The way of an answer from a provider to the client. Before the first byte a failing provider is replaced by the next.

use std::time::Duration;

use bytes::Bytes;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::{Frame, FrameKind};
use lumbung_openapi::receipt::Recount;
use lumbung_openapi::ticket::Ticket;
use tokio::time::Instant;
use tracing::warn;

use super::Gateway;
use super::admit::Admitted;
use super::buffer::PushError;
use super::choose::{Routed, choose};
use super::client::Client;
use super::error::ApiError;
use super::funding::Funding;
use super::meter::Meter;
use super::recount::Hearing;
use super::vouching::Vouching;
use crate::domain::ids::ProviderId;
use crate::domain::settlement::Tokens;
use crate::fleet::job::{JobError, JobStream, OpenError};
use crate::fleet::seat::Seat;

/// Providers that are tried for one request.
const MAX_ATTEMPTS: u32 = 3;
/// How long a provider may take to accept, and to its first frame.
const FIRST_FRAME_WITHIN: Duration = Duration::from_secs(60);
/// How long it may pause after that.
const STALL: Duration = Duration::from_secs(30);
/// How long an answer that has used up what is held waits for more.
const TOP_UP_WITHIN: Duration = Duration::from_secs(5);

/// A job after its last provider has spoken: nothing more will come, but the tail has not been sent.
pub struct Relayed {
    /// Every attempt that a ticket was sent for, in order: also those that were declined, because a ticket without a
    /// settlement could be presented with a receipt later.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub ending: Ending,
}

/// One provider's part in a job.
pub struct Attempt {
    /// What it was promised; the ceiling as the last voucher had it.
    pub ticket: Ticket,
    /// The ticket as it travelled.
    pub ticket_text: String,
    /// What arrived.
    pub meter: Meter,
    /// Why it stopped where it is not for the model's reasons.
    pub broke_off: Option<&'static str>,
    /// Whether the client pays for what arrived.
    pub charged: bool,
    /// What the client was told, where it will be counted again.
    pub hearing: Option<Hearing>,
    /// What was found then.
    pub recount: Option<Recount>,
}

impl Attempt {
    /// The tokens that it costs by what arrived and what the provider claims, whichever is lower.
    pub fn claimed(&self) -> Tokens {
        let prompt = self.meter.prompt(&self.ticket).prompt_tokens;
        let arrived = Tokens { prompt, completion: self.meter.tokens() };
        self.meter.claims().map_or(arrived, |claims| arrived.lower((&claims).into()))
    }
}

/// How a job ended.
pub enum Ending {
    /// The answer is complete; this is what the provider has left to be completed: where it is not streamed, its JSON
    /// without usage and closing brace.
    Complete(Option<Bytes>),
    /// The client left before the end.
    ClientGone,
    /// No answer, or none to its end.
    Failed(ApiError),
}

/// How one attempt ended.
enum Outcome {
    Complete(Option<Bytes>),
    ClientGone,
    ClientTooSlow,
    /// Every slot of the provider is taken, or it drains: another may take it.
    Busy,
    /// The provider does not take it for another reason: another may.
    Declined,
    /// The way to the provider led through another gateway, and was lost: not the provider's failure.
    Unreachable,
    /// The request is at fault: no other provider will take it.
    Refused(InvalidRequest),
    /// The provider accepted and failed.
    Broken,
    /// What is held has been used up, and there is no more.
    OutOfMoney(ApiError),
}

/// Has the request answered: chooses, relays, and chooses again while that can help.
pub async fn relay(gateway: &Gateway, job: &Admitted, client: &mut Client) -> Relayed {
    let (mut attempts, mut tried) = (Vec::new(), Vec::<ProviderId>::new());
    let mut only_busy = true;
    for number in 1..=MAX_ATTEMPTS {
        let routed = tokio::select! {
            routed = choose(gateway, job, number, &tried) => routed,
            () = client.gone() => return Relayed { attempts, ending: Ending::ClientGone },
        };
        let routed = match routed {
            Ok(routed) => routed,
            Err(ApiError::ProviderFailed) => break, // nobody is left to try
            Err(error) => return Relayed { attempts, ending: Ending::Failed(error) },
        };
        tried.push(routed.seat.provider.clone());
        let (attempt, outcome) = attempt(gateway, job, client, routed).await;
        attempts.push(attempt);
        let ending = match outcome {
            Outcome::Busy => continue,
            Outcome::Unreachable if !client.has_begun() => {
                only_busy = false;
                tried.pop(); // there may be another way to it
                continue;
            }
            Outcome::Declined | Outcome::Broken if !client.has_begun() => {
                only_busy = false;
                continue;
            }
            Outcome::Declined | Outcome::Broken | Outcome::Unreachable => Ending::Failed(ApiError::ProviderFailed),
            Outcome::Complete(body) => Ending::Complete(body),
            Outcome::ClientGone => Ending::ClientGone,
            Outcome::ClientTooSlow => Ending::Failed(ApiError::ClientTooSlow),
            Outcome::Refused(invalid) => Ending::Failed(invalid.into()),
            Outcome::OutOfMoney(error) => Ending::Failed(error),
        };
        return Relayed { attempts, ending };
    }
    let error = if only_busy { ApiError::AllBusy } else { ApiError::ProviderFailed };
    Relayed { attempts, ending: Ending::Failed(error) }
}

/// One provider's try.
async fn attempt(gateway: &Gateway, job: &Admitted, client: &mut Client, routed: Routed) -> (Attempt, Outcome) {
    let Routed { seat, mut ticket, ticket_text } = routed;
    let mut meter = Meter::start();
    let mut hearing = gateway.recounter.choose(&ticket, seat.standing);
    let outcome = match open(job, client, &seat, &ticket, &ticket_text).await {
        Ok(mut stream) => match pass_on(gateway, job, client, &mut ticket, &mut stream, &mut meter, &mut hearing).await
        {
            Ok(body) => Outcome::Complete(body),
            Err(outcome) => {
                stream.cancel();
                outcome
            }
        },
        Err(outcome) => outcome,
    };
    let broke_off = match outcome {
        Outcome::Complete(_) => None,
        Outcome::ClientGone => Some("client_gone"),
        Outcome::ClientTooSlow => Some("client_too_slow"),
        Outcome::Busy | Outcome::Declined | Outcome::Refused(_) => Some("declined"),
        Outcome::Broken => Some("provider_failed"),
        Outcome::Unreachable => Some("gateway_lost"),
        Outcome::OutOfMoney(_) => Some("credit_exhausted"),
    };
    // An answer that broke off is paid for as far as it got: the client has it, or left while it was being made.
    // Where it has nothing and an error or another provider's answer comes instead, it pays nothing.
    let charged =
        !matches!(outcome, Outcome::Broken | Outcome::Unreachable | Outcome::OutOfMoney(_)) || client.has_begun();
    (Attempt { ticket, ticket_text, meter, broke_off, charged, hearing, recount: None }, outcome)
}

/// Hands the job to the provider, and waits until it accepts.
async fn open(
    job: &Admitted,
    client: &mut Client,
    seat: &Seat,
    ticket: &Ticket,
    ticket_text: &str,
) -> Result<JobStream, Outcome> {
    let opening = seat.open_job(job.endpoint.path(), ticket_text, &job.body);
    let opening = tokio::time::timeout(FIRST_FRAME_WITHIN, opening);
    let opened = tokio::select! {
        opened = opening => opened,
        () = client.gone() => return Err(Outcome::ClientGone),
    };
    match opened {
        Ok(opened) => opened.map_err(|error| declined(ticket, error)),
        Err(_) => {
            warn!(provider = %ticket.provider, job = %ticket.job, "provider did not accept in time");
            Err(Outcome::Declined)
        }
    }
}

fn declined(ticket: &Ticket, error: OpenError) -> Outcome {
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
                http::StatusCode::SERVICE_UNAVAILABLE => Outcome::Busy,
                _ => Outcome::Declined,
            }
        }
        OpenError::Tunnel(error) => {
            warn!(provider, job, %error, "tunnel failed before the provider accepted");
            Outcome::Declined
        }
        OpenError::Hop(why) => {
            warn!(provider, job, why, "no way to the provider");
            Outcome::Unreachable
        }
    }
}

/// A provider's word that the request is at fault, where it is one of those that only a provider can know.
fn understood(error: &lumbung_openapi::error::ErrorObject) -> Option<InvalidRequest> {
    const KNOWN: [&str; 4] = ["context_length_exceeded", "unsupported_parameter", "invalid_value", "invalid_type"];
    let code = KNOWN.into_iter().find(|known| error.code.as_deref() == Some(known))?;
    let message = error.message.chars().take(1000).collect();
    Some(InvalidRequest { message, param: error.param.as_deref().map(str::to_owned), code: Some(code) })
}

/// Passes frames on until the end, vouching for what arrives and holding more money as the answer grows. Returns with
/// the last word; the tail is not sent here.
async fn pass_on(
    gateway: &Gateway,
    job: &Admitted,
    client: &mut Client,
    ticket: &mut Ticket,
    stream: &mut JobStream,
    meter: &mut Meter,
    hearing: &mut Option<Hearing>,
) -> Result<Option<Bytes>, Outcome> {
    let (mut vouching, mut funding) = (Vouching::new(&gateway.keys, ticket), Funding::new(gateway, job, ticket));
    let (mut body, mut ended, mut heard_at) = (None, false, Instant::now());
    loop {
        let patience = if meter.first_token_us.is_none() { FIRST_FRAME_WITHIN } else { STALL };
        let patient_until = heard_at + patience;
        let until = vouching.due_at(meter.tokens()).map_or(patient_until, |due| due.min(patient_until));
        let heard = tokio::select! {
            heard = tokio::time::timeout_at(until, stream.next()) => heard,
            reserved = funding.reserved() => {
                funding.take(reserved, ticket, meter.longest_prompt(ticket));
                vouching.keep_up(stream, ticket, meter.tokens());
                continue;
            }
            () = client.gone() => return Err(Outcome::ClientGone),
        };
        let has_all = ended && (job.wish.stream || body.is_some());
        match heard {
            Ok(Ok(Some(frame))) => {
                heard_at = Instant::now();
                let is_prompt = frame.kind == FrameKind::Prompt;
                pay_for(client, &mut funding, ticket, meter, &frame).await?;
                meter.count(&frame, ticket).map_err(|error| broken(ticket, &error))?;
                if let Some(hearing) = hearing {
                    hearing.transcript.take(&frame);
                }
                take(job, client, frame, &mut body, &mut ended)?;
                if is_prompt {
                    funding.reckon(ticket, meter.longest_prompt(ticket));
                }
                if !ended && !stream.has_ready() {
                    vouching.keep_up(stream, ticket, meter.tokens());
                }
            }
            Ok(Ok(None)) if has_all => break,
            // After the receipt nothing is missing, however the stream ends.
            Ok(Err(_)) if has_all && meter.has_receipt() => break,
            Ok(Ok(None)) => return Err(broken(ticket, &"the stream ended before the answer")),
            Ok(Err(JobError::Hop(why))) => {
                warn!(provider = %ticket.provider, job = %ticket.job, why, "the way to the provider was lost");
                return Err(Outcome::Unreachable);
            }
            Ok(Err(error)) => return Err(broken(ticket, &error)),
            Err(_) if until < patient_until => vouching.keep_up(stream, ticket, meter.tokens()),
            Err(_) => return Err(broken(ticket, &"no frame in time")),
        }
    }
    vouching.finish(stream, ticket, meter.tokens());
    // The tunnel's task gets its turn before the client is told: whoever has the end of an answer is charged for it, even
    // if this process is killed at once.
    tokio::task::yield_now().await;
    Ok(body)
}

fn broken(ticket: &Ticket, why: &dyn std::fmt::Display) -> Outcome {
    warn!(provider = %ticket.provider, job = %ticket.job, why = %why, "provider failed");
    Outcome::Broken
}

/// Sees to it that a frame's tokens are paid for before they are passed on, and that those to come will be.
async fn pay_for(
    client: &mut Client,
    funding: &mut Funding<'_>,
    ticket: &mut Ticket,
    meter: &Meter,
    frame: &Frame,
) -> Result<(), Outcome> {
    let (prompt, tokens, is_end) = (meter.longest_prompt(ticket), frame.tokens, frame.kind == FrameKind::End);
    if tokens > 0 && !is_end {
        funding.look_ahead(ticket, prompt, tokens);
    }
    // More than the ticket allows is never paid for: the meter refuses it.
    if funding.covers(tokens) || tokens > ticket.max_completion_tokens {
        return Ok(());
    }
    let covered = tokio::select! {
        covered = tokio::time::timeout(TOP_UP_WITHIN, funding.cover(ticket, prompt, tokens)) => covered,
        () = client.gone() => return Err(Outcome::ClientGone),
    };
    match covered.unwrap_or(Err(ApiError::BooksUnavailable)) {
        // The answer is here already: only its count is corrected, and it is charged as far as the money goes.
        Err(_) if is_end => Ok(()),
        covered => covered.map_err(Outcome::OutOfMoney),
    }
}

/// Does what one frame, already counted, is for.
fn take(
    job: &Admitted,
    client: &mut Client,
    frame: Frame,
    body: &mut Option<Bytes>,
    ended: &mut bool,
) -> Result<(), Outcome> {
    match frame.kind {
        FrameKind::Delta if job.wish.stream && !frame.payload.is_empty() => {
            client.stream(frame.payload).map_err(|error| match error {
                PushError::ClientGone => Outcome::ClientGone,
                PushError::Full => Outcome::ClientTooSlow,
            })
        }
        FrameKind::Body if body.is_none() => {
            *body = Some(frame.payload);
            Ok(())
        }
        FrameKind::End => {
            *ended = true;
            Ok(())
        }
        FrameKind::Body | FrameKind::Error => {
            warn!(provider_frame = ?frame.kind, "provider ended the answer early");
            Err(Outcome::Broken)
        }
        FrameKind::Delta if !job.wish.stream => Err(Outcome::Broken),
        _ => Ok(()),
    }
}
