//! One provider's try at an answer, or at the rest of one that another began.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lumbung_openapi::frame::{Frame, FrameKind, MAX_BODY};
use lumbung_openapi::receipt::Recount;
use lumbung_openapi::ticket::Ticket;
use lumbung_telemetry::trace::Context;
use tokio::time::Instant;
use tracing::warn;

use super::admit::Admitted;
use super::buffer::PushError;
use super::choose::Routed;
use super::client::Client;
use super::delivered::Delivered;
use super::error::ApiError;
use super::funding::Funding;
use super::meter::Meter;
use super::outcome::{Outcome, broken, declined, given_up};
use super::recount::Hearing;
use super::vouching::Vouching;
use super::{Gateway, Patience};
use crate::domain::breaker::Fault;
use crate::domain::pace::Pace;
use crate::domain::routing::Candidate;
use crate::domain::settlement::Tokens;
use crate::fleet::job::{JobError, JobStream};
use crate::fleet::seat::Seat;

/// How long an answer that has used up what is held waits for more.
const TOP_UP_WITHIN: Duration = Duration::from_secs(5);
/// How long a provider may say that it works, without a token to show for it.
const WORKS_AT_MOST: Duration = Duration::from_secs(300);
/// A timer that fires so long after its time was held up by this process, which was frozen or short of a processor.
const MOST_LATE: Duration = Duration::from_millis(500);

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
    /// What the client has been told by then, where it will be counted again.
    pub hearing: Option<Hearing>,
    /// What was found then.
    pub recount: Option<Recount>,
    /// Its part of the job's trace, if that is sampled.
    pub trace: Option<Context>,
}

impl Attempt {
    /// The tokens that it costs by what arrived and what the provider claims, whichever is lower.
    pub fn claimed(&self) -> Tokens {
        let prompt = self.meter.prompt(&self.ticket).prompt_tokens;
        let arrived = Tokens { prompt, completion: self.meter.tokens() };
        self.meter.claims().map_or(arrived, |claims| arrived.lower((&claims).into()))
    }
}

/// What an attempt works with.
pub struct Trying<'a> {
    /// The gateway.
    pub gateway: &'a Gateway,
    /// The job.
    pub job: &'a Admitted,
    /// Who waits for it.
    pub client: &'a mut Client,
    /// What earlier attempts have delivered, and this one adds to.
    pub delivered: &'a mut Delivered,
}

/// What is noted while frames pass.
struct Notes {
    meter: Meter,
    hearing: Option<Hearing>,
    body: Option<Bytes>,
    ended: bool,
}

impl Notes {
    /// Tokens, whether the end is among it, and bytes of a document: what there is so far.
    fn has(&self) -> (u32, bool, Option<usize>) {
        (self.meter.tokens(), self.ended, self.body.as_ref().map(Bytes::len))
    }
}

impl Trying<'_> {
    /// One provider's try. `hearing` has what earlier attempts said, if the answer will be counted again.
    pub async fn run(mut self, routed: Routed, hearing: Option<Hearing>) -> (Attempt, Outcome) {
        let Routed { mut seat, unread, mut ticket, ticket_text } = routed;
        let (asked_at, patience) = (Instant::now(), self.patience(&ticket));
        let meter = Meter::start(self.job.received_micros, unread);
        let mut notes = Notes { meter, hearing, body: None, ended: false };
        let trace = self.job.trace.map(|job| job.child());
        let outcome = match self.open(&seat, &ticket, &ticket_text, patience, trace).await {
            Ok(mut stream) => {
                self.delivered.go_on_with(&seat);
                match self.pass_on(&mut ticket, &mut stream, &mut notes, asked_at, patience).await {
                    Ok(vouching) => {
                        // Where it goes at once, the tunnel's task gets its turn before the client is told: whoever has the end
                        // of an answer is charged for it, even if this process is killed at once.
                        if vouching.finish(stream, &ticket, notes.meter.tokens()) {
                            tokio::task::yield_now().await;
                        }
                        Outcome::Complete(notes.body.take())
                    }
                    Err(outcome) => {
                        stream.cancel();
                        outcome
                    }
                }
            }
            Err(outcome) => outcome,
        };
        seat.judge(outcome.verdict());
        let Notes { meter, hearing, .. } = notes;
        self.delivered.spend(&ticket, meter.prompt(&ticket).prompt_tokens, meter.tokens());
        self.learn(&seat, &ticket, &meter, &outcome);
        let broke_off = outcome.broke_off();
        (Attempt { ticket, ticket_text, meter, broke_off, charged: true, hearing, recount: None, trace }, outcome)
    }

    /// How long the provider may take. How long until the first token has been learned from other answers of the model;
    /// whoever goes on with one may have to work through what was delivered first.
    fn patience(&self, ticket: &Ticket) -> Patience {
        let Patience { first_token, .. } = self.gateway.patience;
        Patience {
            first_token: match ticket.first_token {
                0 => self.pace().patience(self.job.body.len(), self.gateway.patience.first_token_floor, first_token),
                _ => first_token,
            },
            ..self.gateway.patience
        }
    }

    fn pace(&self) -> &Pace {
        &self.job.model.health.pace
    }

    /// What this says of the provider. An answer that another began says nothing of speed, because it is replayed first.
    fn learn(&self, seat: &Seat, ticket: &Ticket, meter: &Meter, outcome: &Outcome) {
        match outcome {
            Outcome::Broken(_) => seat.vitals.failed(),
            Outcome::Complete(_) | Outcome::ClientGone if ticket.first_token == 0 => {
                seat.vitals.learn(&meter.sample(ticket, seat.crowd()), &self.job.model.seats.prior);
            }
            _ => {}
        }
    }

    /// Hands the job to the provider, and waits until it accepts.
    async fn open(
        &mut self,
        seat: &Seat,
        ticket: &Ticket,
        ticket_text: &str,
        patience: Patience,
        trace: Option<Context>,
    ) -> Result<JobStream, Outcome> {
        let history = self.delivered.to_frames();
        let opening = seat.open_job(self.job.endpoint.path(), ticket_text, &self.job.body, history, trace);
        let opened = tokio::select! {
            opened = tokio::time::timeout(patience.first_token, opening) => opened,
            () = self.client.gone() => return Err(Outcome::ClientGone),
        };
        match opened {
            Ok(opened) => opened.map_err(|error| declined(ticket, error)),
            Err(_) => {
                self.pace().learn(self.job.body.len(), patience.first_token);
                warn!(provider = %ticket.provider, job = %ticket.job, "provider did not accept in time");
                Err(if seat.is_direct() { Outcome::Declined } else { Outcome::Silent })
            }
        }
    }

    /// Passes frames on until the end, vouching for what arrives and holding more money as the answer grows. Returns with
    /// the last word, for which the last voucher is still to be sent; the tail is not sent here.
    async fn pass_on(
        &mut self,
        ticket: &mut Ticket,
        stream: &mut JobStream,
        notes: &mut Notes,
        asked_at: Instant,
        patience: Patience,
    ) -> Result<Vouching<'_>, Outcome> {
        let Self { gateway, job, .. } = *self;
        let mut vouching = Vouching::new(&gateway.keys, ticket);
        let mut funding = Funding::new(gateway, job, ticket, self.delivered.spent());
        let (mut heard_at, mut alarm) = (asked_at, pin!(tokio::time::sleep_until(asked_at + patience.first_token)));
        loop {
            let has_begun = notes.meter.first_token_us.is_some();
            let patient_until = heard_at + if has_begun { patience.stall } else { patience.first_token };
            let until = vouching.due_at(notes.meter.tokens()).map_or(patient_until, |due| due.min(patient_until));
            // One that rings too early is set again: cheaper than to move it for each token.
            if until < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(until);
            }
            let heard = tokio::select! {
                biased; // what has come counts, however late it is looked at
                () = self.client.gone() => return Err(Outcome::ClientGone),
                reserved = funding.reserved() => {
                    funding.take(reserved, ticket, notes.meter.longest_prompt(ticket));
                    vouching.keep_up(stream, ticket, notes.meter.tokens());
                    continue;
                }
                heard = stream.next() => Some(heard),
                () = &mut alarm => if alarm.deadline() < until { continue } else { None },
            };
            let needs_body = !job.wish.stream || job.endpoint.has_open_end();
            let has_all = notes.ended && (notes.body.is_some() || !needs_body);
            match heard {
                Some(Ok(Some(frame))) => {
                    let (before, is_progress) = (notes.has(), frame.kind == FrameKind::Progress);
                    self.take(frame, ticket, &mut funding, notes).await?;
                    // What comes before the first token is no sign of it, and frames that bring nothing are none of life;
                    // but some work at what can be shown only when it is whole, and say so.
                    let has_token = notes.meter.first_token_us.is_some();
                    let is_alive = match before != notes.has() {
                        true => has_token || notes.body.is_some(),
                        false => is_progress && !has_token && asked_at.elapsed() < WORKS_AT_MOST,
                    };
                    if is_alive {
                        heard_at = Instant::now();
                        if has_token && !has_begun && ticket.first_token == 0 {
                            self.pace().learn(job.body.len(), asked_at.elapsed());
                        }
                    }
                    if !notes.ended && !stream.has_ready() {
                        vouching.keep_up(stream, ticket, notes.meter.tokens());
                    }
                }
                Some(Ok(None)) if has_all => break,
                // After the receipt nothing is missing, however the stream ends.
                Some(Err(_)) if has_all && notes.meter.has_receipt() => break,
                Some(Ok(None)) => return Err(broken(ticket, Fault::Failed, &"the stream ended before the answer")),
                Some(Err(JobError::Hop(why))) => {
                    warn!(provider = %ticket.provider, job = %ticket.job, why, "the way to the provider was lost");
                    return Err(Outcome::Unreachable);
                }
                Some(Err(error)) => return Err(broken(ticket, Fault::Failed, &error)),
                None if until < patient_until => vouching.keep_up(stream, ticket, notes.meter.tokens()),
                // This process itself did not run: what came meanwhile is yet to be read.
                None if patient_until.elapsed() > MOST_LATE => heard_at = Instant::now(),
                None => {
                    let outcome = match has_begun {
                        true => broken(ticket, Fault::Stalled, &"no token for too long"),
                        false => broken(ticket, Fault::Failed, &"no first token in time"),
                    };
                    if !has_begun {
                        self.pace().learn(job.body.len(), patience.first_token);
                    }
                    return Err(if stream.is_direct() { outcome } else { Outcome::Silent });
                }
            }
        }
        Ok(vouching)
    }

    /// Takes one frame: pays for it, counts it, passes it on.
    async fn take(
        &mut self,
        frame: Frame,
        ticket: &mut Ticket,
        funding: &mut Funding<'_>,
        notes: &mut Notes,
    ) -> Result<(), Outcome> {
        let is_prompt = frame.kind == FrameKind::Prompt;
        let before = notes.meter.tokens();
        self.pay_for(funding, ticket, &notes.meter, &frame).await?;
        notes.meter.count(&frame, ticket).map_err(|error| broken(ticket, Fault::Failed, &error))?;
        if let Some(hearing) = &mut notes.hearing {
            hearing.transcript.take(&frame);
        }
        self.delivered.take(&frame, notes.meter.tokens().saturating_sub(before));
        self.deliver(frame, notes)?;
        if is_prompt {
            funding.reckon(ticket, notes.meter.longest_prompt(ticket));
        }
        Ok(())
    }

    /// Sees to it that a frame's tokens are paid for before they are passed on, and that those to come will be.
    async fn pay_for(
        &mut self,
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
            () = self.client.gone() => return Err(Outcome::ClientGone),
        };
        match covered.unwrap_or(Err(ApiError::BooksUnavailable)) {
            // The answer is here already: only its count is corrected, and it is charged as far as the money goes.
            Err(_) if is_end => Ok(()),
            covered => covered.map_err(Outcome::OutOfMoney),
        }
    }

    /// Does what one frame, already counted, is for.
    fn deliver(&mut self, frame: Frame, notes: &mut Notes) -> Result<(), Outcome> {
        let streams = self.job.wish.stream;
        match frame.kind {
            FrameKind::Delta | FrameKind::Finish if streams && !frame.payload.is_empty() => {
                self.client.stream(frame.payload).map_err(|error| match error {
                    PushError::ClientGone => Outcome::ClientGone,
                    PushError::Full => Outcome::ClientTooSlow,
                })
            }
            FrameKind::Body if !notes.ended && (!streams || self.job.endpoint.has_open_end()) => {
                notes.body = Some(joined(notes.body.take(), frame.payload).ok_or_else(|| {
                    warn!("provider sends a longer answer than there may be");
                    Outcome::Broken(Fault::Failed)
                })?);
                Ok(())
            }
            FrameKind::End => {
                notes.ended = true;
                Ok(())
            }
            FrameKind::Error => Err(given_up(&frame.payload, notes.meter.tokens())),
            FrameKind::Body => {
                warn!(provider_frame = ?frame.kind, "provider ended the answer early");
                Err(Outcome::Broken(Fault::Failed))
            }
            FrameKind::Delta | FrameKind::Finish if !streams => Err(Outcome::Broken(Fault::Failed)),
            _ => Ok(()),
        }
    }
}

/// A document with its next piece; `None` if that is more than there may be.
fn joined(body: Option<Bytes>, piece: Bytes) -> Option<Bytes> {
    let Some(body) = body else { return Some(piece) };
    if body.len() + piece.len() > MAX_BODY {
        return None;
    }
    let mut body = BytesMut::from(body); // copied once: afterwards it is this job's alone
    body.extend_from_slice(&piece);
    Some(body.freeze())
}
