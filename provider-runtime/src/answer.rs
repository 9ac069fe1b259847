//! An answer on its way: the body of a job's response, which makes frames of an engine's events as HTTP/2 asks for
//! them. HTTP/2 drops it when the gateway resets the stream or is gone; that drops the generation, and keeps the
//! receipt for what was handed over until then.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::{ErrorObject, InvalidRequest};
use lumbung_openapi::frame::{AnswerEnd, FrameKind, MAX_BODY, MAX_PAYLOAD, PromptCount};
use lumbung_openapi::receipt::{Receipt, ReceiptClaims};
use lumbung_openapi::reply::TokenKinds;
use lumbung_openapi::ticket::Ticket;
use tokio::time::{Instant, Sleep};

use crate::engine::{EngineError, Event, FinishReason, Generation, History, Tokens};
use crate::intake::Vouchers;
use crate::journal::Place;
use crate::node::Node;
use crate::observe::Times;
use crate::outgoing::Outgoing;
use crate::refusal::Refusal;
use crate::render::{Dialect, Shape};
use crate::replay::Replay;
use crate::served::Slot;

/// How often the gateway learns of the progress of an answer that is not streamed.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// How often it learns that there is progress where no tokens are counted.
const LIFE_EVERY: Duration = Duration::from_secs(1);
/// Events that are taken at once, and bytes that one DATA frame is filled up to while more events are ready.
const EVENTS_AT_ONCE: usize = 128;
const ENOUGH_BYTES: usize = 32 << 10;

/// A job that was accepted: what its answer needs beside the engine.
pub struct Accepted {
    /// The provider.
    pub node: Arc<Node>,
    /// The ticket as it came.
    pub ticket_text: String,
    /// The same, read.
    pub ticket: Ticket,
    /// Digest of the weights that answer.
    pub weights_digest: String,
    /// Held until the answer is over.
    pub slot: Slot,
    /// The receipt's place in the journal.
    pub place: Place,
    /// The rest of the request's body.
    pub vouchers: Vouchers,
    /// When it came, and what it belongs to.
    pub times: Times,
}

/// An answer on its way.
pub struct Answer {
    outgoing: Outgoing,
    /// `None` once the answer is over.
    running: Option<Running>,
}

/// What is there while the engine works.
struct Running {
    job: Accepted,
    generation: Generation,
    rendering: Box<dyn Dialect>,
    shape: Shape,
    /// What the client has from earlier attempts.
    replay: Replay,
    /// Whether vectors were made that the gateway has not learned of.
    has_worked: bool,
    /// When progress is due, where the answer is not streamed.
    next_progress: Option<Pin<Box<Sleep>>>,
    finished: Vec<Option<FinishReason>>,
    prompt: PromptCount,
    /// The engine's own final count.
    total: Option<u32>,
    /// Tokens spent on reasoning, so far.
    reasoning_tokens: u32,
    /// What else the engine tells of the tokens.
    kinds: TokenKinds,
    /// Reused from poll to poll.
    events: Vec<Event>,
}

/// How an answer ended.
enum Ending {
    /// With what goes to the gateway in one piece.
    Complete(Option<BytesMut>),
    Failed(EngineError),
    Cancelled,
}

impl Answer {
    /// Begins to send what the engine makes beyond what has been delivered.
    pub fn new(
        job: Accepted,
        generation: Generation,
        shape: Shape,
        rendering: Box<dyn Dialect>,
        delivered: Vec<History>,
    ) -> Self {
        let next_progress = (!shape.stream).then(|| Box::pin(tokio::time::sleep(Duration::ZERO)));
        job.node.counters.started.add(1);
        let running = Running {
            job,
            generation,
            rendering,
            shape,
            replay: Replay::new(delivered),
            has_worked: false,
            next_progress,
            finished: vec![None; shape.choices],
            prompt: PromptCount::default(),
            total: None,
            reasoning_tokens: 0,
            kinds: TokenKinds::default(),
            events: Vec::new(),
        };
        Self { outgoing: Outgoing::new(shape.choices), running: Some(running) }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while let Some(running) = &mut self.running {
            if self.outgoing.len() >= ENOUGH_BYTES {
                running.frame_what_is_due(&mut self.outgoing, cx);
                // What waits for a token to go with it is waited for here.
                if self.outgoing.has_framed() {
                    break;
                }
            }
            match running.poll_events(&mut self.outgoing, cx) {
                Poll::Ready(Some(ending)) => self.end(ending),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    running.frame_what_is_due(&mut self.outgoing, cx);
                    break;
                }
            }
        }
        match (self.outgoing.take(), &self.running) {
            (Some(bytes), _) => Poll::Ready(Some(bytes)),
            (None, None) => Poll::Ready(None),
            (None, Some(_)) => Poll::Pending,
        }
    }

    fn end(&mut self, ending: Ending) {
        if let Some(running) = self.running.take() {
            running.end(ending, &mut self.outgoing);
        }
    }
}

impl Running {
    /// Takes what the engine has made by now. Ready with an ending if that was the last of it.
    fn poll_events(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) -> Poll<Option<Ending>> {
        self.job.vouchers.poll(cx);
        let mut events = std::mem::take(&mut self.events);
        let received = self.generation.events.poll_recv_many(cx, &mut events, EVENTS_AT_ONCE);
        let taken = events.drain(..).try_for_each(|event| self.take(event, outgoing));
        self.events = events;
        match (taken, received) {
            (Err(error), _) => Poll::Ready(Some(Ending::Failed(error))),
            (Ok(()), Poll::Ready(0)) => Poll::Ready(Some(self.ending())),
            (Ok(()), Poll::Ready(_)) => Poll::Ready(None),
            (Ok(()), Poll::Pending) => Poll::Pending,
        }
    }

    fn take(&mut self, event: Event, outgoing: &mut Outgoing) -> Result<(), EngineError> {
        match event {
            Event::Prompt(prompt) => {
                let prompt = payable(prompt, &self.job.ticket);
                self.prompt = prompt;
                outgoing.frame(FrameKind::Prompt, &prompt.to_bytes());
                match self.replay.is_empty() {
                    true => self.rendering.prompt(outgoing.payload(0), prompt),
                    false => self.rendering.prompt(&mut BytesMut::new(), prompt),
                }
            }
            Event::Tokens(tokens) => {
                self.check_choice(tokens.choice)?;
                self.reasoning_tokens = self.reasoning_tokens.saturating_add(tokens.reasoning_count);
                return match self.replay.has(&tokens)? {
                    true => self.repeat_tokens(tokens),
                    false => self.take_tokens(tokens, outgoing),
                };
            }
            Event::Working => outgoing.frame(FrameKind::Progress, b""),
            Event::Vector(vector) => {
                self.has_worked = true;
                self.rendering.vector(&vector);
                return self.check_length();
            }
            Event::Finish { choice, reason } => {
                self.check_choice(choice)?;
                self.finished[usize::from(choice)] = Some(reason);
                match self.replay.has_end(choice)? {
                    true => self.rendering.finish(&mut BytesMut::new(), choice, reason),
                    false => {
                        self.rendering.finish(outgoing.payload(choice), choice, reason);
                        outgoing.finish(choice);
                    }
                }
            }
            Event::Total(total) => self.total = Some(total),
            Event::ReasoningTotal(total) => self.reasoning_tokens = total,
            Event::Kinds(kinds) => self.kinds = kinds,
            Event::Failed(EngineError::Invalid(invalid)) => return Err(self.shape.endpoint.named(invalid).into()),
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn take_tokens(&mut self, tokens: Tokens, outgoing: &mut Outgoing) -> Result<(), EngineError> {
        self.job.node.counters.completion_tokens.add(u64::from(tokens.count));
        self.job.times.tokens_came();
        outgoing.count(&tokens, self.frame_kind());
        let (choice, is_opening) = (tokens.choice, tokens.count == 0);
        self.render(tokens, outgoing.payload(choice))?;
        match is_opening && outgoing.held() > MAX_PAYLOAD {
            true => Err(InvalidRequest::value("echo", "'echo' would repeat more than can be streamed.").into()),
            false => Ok(()),
        }
    }

    /// The client has what these show, or an earlier attempt has told of them: only the rendering goes on.
    fn repeat_tokens(&mut self, tokens: Tokens) -> Result<(), EngineError> {
        self.render(tokens, &mut BytesMut::new())
    }

    fn render(&mut self, tokens: Tokens, out: &mut BytesMut) -> Result<(), EngineError> {
        self.rendering.tokens(out, tokens);
        self.check_length()
    }

    fn check_length(&self) -> Result<(), EngineError> {
        match self.rendering.kept() > MAX_BODY {
            true => Err(self.too_long()),
            false => Ok(()),
        }
    }

    fn check_choice(&self, choice: u8) -> Result<(), EngineError> {
        match self.finished.get(usize::from(choice)) {
            Some(None) => Ok(()),
            Some(Some(_)) => Err(EngineError::Failed(format!("choice {choice} goes on after its end"))),
            None => Err(EngineError::Failed(format!("choice {choice} was not asked for"))),
        }
    }

    /// A stream's bytes are due at once; the progress of a whole answer now and then.
    fn frame_what_is_due(&mut self, outgoing: &mut Outgoing, cx: &mut Context<'_>) {
        match &mut self.next_progress {
            None => outgoing.frame_payloads(),
            Some(next) => {
                let has_tokens = outgoing.has_uncounted();
                if (has_tokens || self.has_worked) && next.as_mut().poll(cx).is_ready() {
                    let every = match has_tokens {
                        true => {
                            outgoing.frame_all(FrameKind::Progress);
                            PROGRESS_EVERY
                        }
                        false => {
                            outgoing.frame(FrameKind::Progress, b"");
                            LIFE_EVERY
                        }
                    };
                    self.has_worked = false;
                    next.as_mut().reset(Instant::now() + every);
                }
            }
        }
    }

    /// The engine has said all it has to say: is that an answer?
    fn ending(&self) -> Ending {
        if !self.finished.iter().all(Option::is_some) {
            return Ending::Failed(EngineError::Failed("it stopped before the answer was complete".into()));
        }
        match self.rendering.last() {
            Some(body) if body.len() > MAX_BODY => Ending::Failed(self.too_long()),
            last => Ending::Complete(last),
        }
    }

    /// The request asks for more than one answer may be.
    fn too_long(&self) -> EngineError {
        let (param, most) = match self.shape.endpoint {
            Endpoint::Embeddings => ("input", "Send fewer inputs at once, or ask for vectors as 'base64'."),
            _ if self.shape.logprobs => ("top_logprobs", "Ask for fewer of them, or for fewer tokens."),
            _ => ("max_tokens", "Ask for fewer tokens."),
        };
        let message = format!("The answer is longer than {} MiB. {most}", MAX_BODY >> 20);
        self.shape.endpoint.named(InvalidRequest::value(param, message)).into()
    }

    fn frame_kind(&self) -> FrameKind {
        match self.next_progress {
            None => FrameKind::Delta,
            Some(_) => FrameKind::Progress,
        }
    }

    /// Frames what is left, keeps the receipt, and lets go of the engine and the slot.
    fn end(self, ending: Ending, outgoing: &mut Outgoing) {
        let kind = self.frame_kind();
        let Self { job, generation, finished, prompt, total, reasoning_tokens, kinds, .. } = self;
        drop(generation);
        let is_cancelled = matches!(ending, Ending::Cancelled);
        let outcome = match ending {
            Ending::Complete(_) => "complete",
            Ending::Failed(_) => "failed",
            Ending::Cancelled => "cancelled",
        };
        match ending {
            Ending::Complete(body) => {
                outgoing.frame_all(kind);
                for piece in body.iter().flat_map(|body| body.chunks(MAX_PAYLOAD)) {
                    outgoing.frame(FrameKind::Body, piece);
                }
                // Only the end may tell another count than what came before it.
                let total = total.map(|total| total.min(job.ticket.max_completion_tokens));
                outgoing.correct(total.unwrap_or(outgoing.tokens()));
                let finish_reason = finished[0].map_or("", FinishReason::name).to_owned();
                let end = AnswerEnd { finish_reason, reasoning_tokens, kinds };
                outgoing.frame(FrameKind::End, end.to_text().as_bytes());
                job.node.counters.finished.add(1);
            }
            Ending::Failed(error) => {
                match &error {
                    // A server's own words may quote the prompt.
                    EngineError::Invalid(invalid) => {
                        tracing::debug!(job = job.ticket.job, param = invalid.param, "the request is at fault");
                    }
                    error => tracing::warn!(job = job.ticket.job, model = job.ticket.model, "{error}"),
                }
                outgoing.frame_counted(kind);
                outgoing.frame(FrameKind::Error, &error_payload(error));
                job.node.counters.failed.add(1);
            }
            Ending::Cancelled => job.node.counters.cancelled.add(1),
        }
        let claims = ReceiptClaims {
            weights_digest: job.weights_digest,
            prompt_tokens: prompt.prompt_tokens,
            cached_tokens: prompt.cached_tokens,
            completion_tokens: outgoing.tokens(),
            delivered_sha256: outgoing.delivered(),
        };
        let claims = serde_json::to_string(&claims).expect("claims of our own types serialize");
        job.times.over(&job.node, job.slot.served(), &job.ticket, outcome, (prompt, outgoing.tokens()));
        if !is_cancelled {
            outgoing.frame(FrameKind::Receipt, claims.as_bytes());
        }
        tracing::debug!(
            job = job.ticket.job,
            attempt = job.ticket.attempt,
            tokens = outgoing.tokens(),
            is_cancelled,
            "job over"
        );
        let Accepted { ticket_text: ticket, place, vouchers, slot, .. } = job;
        match is_cancelled || vouchers.have_ended() {
            true => place.keep(Receipt { ticket, claims, voucher: vouchers.into_last() }),
            // The gateway has the claims already; its word on the whole answer is under way, and the slot need not wait.
            false => drop(tokio::spawn(async move {
                place.keep(Receipt { ticket, claims, voucher: vouchers.final_one().await });
            })),
        }
        drop(slot);
    }

    /// Counts what the engine made and nobody took any more.
    fn count_unsent(&mut self) {
        while let Ok(event) = self.generation.events.try_recv() {
            if let Event::Tokens(tokens) = event
                && self.replay.has(&tokens).is_ok_and(|delivered| !delivered)
            {
                self.job.node.counters.completion_tokens.add(u64::from(tokens.count));
            }
        }
    }
}

/// A server's count as far as the ticket pays for it: a claim above that is refused, and the rest with it.
fn payable(prompt: PromptCount, ticket: &Ticket) -> PromptCount {
    match ticket.max_prompt_tokens {
        0 => prompt, // paid to an earlier attempt
        most => {
            PromptCount { prompt_tokens: prompt.prompt_tokens.min(most), cached_tokens: prompt.cached_tokens.min(most) }
        }
    }
}

fn error_payload(error: EngineError) -> Vec<u8> {
    let (_, object): (_, ErrorObject) = Refusal::from(error).into_parts();
    serde_json::to_vec(&object).expect("an error object serializes")
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_bytes(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    /// Known with the last bytes, so that no empty DATA frame follows them.
    fn is_end_stream(&self) -> bool {
        self.running.is_none() && !self.outgoing.has_framed()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            running.count_unsent();
            self.end(Ending::Cancelled);
        }
    }
}
