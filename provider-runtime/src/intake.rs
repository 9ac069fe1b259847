//! A job as it comes in: the ticket's frame, the request's frame, what earlier attempts have delivered, and vouchers while
//! the answer streams.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use lumbung_openapi::chat::MAX_ANSWERS;
use lumbung_openapi::frame::{self, Frame, FrameKind, FrameReader, MAX_BODY, MAX_PAYLOAD};
use lumbung_openapi::jws;
use lumbung_openapi::ticket::Ticket;

use crate::engine::History;
use crate::refusal::Refusal;

/// How long the first frames may take to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after an answer's end its last voucher may take to arrive.
const LAST_WITHIN: Duration = Duration::from_secs(2);
/// No ticket and no voucher is larger: they are kept until their receipt is acknowledged.
const MAX_SIGNED_TEXT: usize = 16 << 10;

/// More tokens than this are not continued: four times the longest context that models have.
const MAX_HISTORY: u32 = 4 << 20;

/// A job whose first frames are there.
pub struct Intake {
    /// The ticket, a compact JWS.
    pub ticket_text: String,
    /// The same, read.
    pub ticket: Ticket,
    /// The client's request body as it came.
    pub request: Bytes,
    /// What earlier attempts have delivered, choice by choice; as many tokens as the ticket's `first_token`.
    pub history: Vec<History>,
    /// The rest of the stream.
    pub vouchers: Vouchers,
}

/// The rest of a job's stream: the gateway's vouchers, of which the last one counts.
pub struct Vouchers {
    /// `None` once it has ended.
    body: Option<Body>,
    reader: FrameReader,
    last: Option<Bytes>,
}

impl Intake {
    /// Waits for the first frames, not for the end of the body.
    pub async fn read(body: Body) -> Result<Self, Refusal> {
        tokio::time::timeout(ARRIVAL_TIMEOUT, read(body))
            .await
            .map_err(|_| Refusal::BadTicket("The job's first frames did not come in time."))?
    }
}

async fn read(body: Body) -> Result<Intake, Refusal> {
    const BEGINNING: &str = "A job must begin with a ticket and a request.";
    let mut arriving = Arriving { body, reader: FrameReader::default(), frames: VecDeque::new() };
    let ticket = arriving.next(FrameKind::Ticket, BEGINNING).await?;
    let request = read_request(&mut arriving, BEGINNING).await?;
    if ticket.payload.len() > MAX_SIGNED_TEXT {
        return Err(Refusal::BadTicket(BEGINNING));
    }
    let malformed = "The ticket is malformed.";
    let ticket_text = String::from_utf8(ticket.payload.into()).map_err(|_| Refusal::BadTicket(malformed))?;
    let ticket: Ticket = jws::peek(&ticket_text).map_err(|_| Refusal::BadTicket(malformed))?;
    let history = read_history(&mut arriving, ticket.first_token).await?;
    let mut vouchers = Vouchers { body: Some(arriving.body), reader: arriving.reader, last: None };
    arriving.frames.into_iter().for_each(|frame| vouchers.take(frame));
    Ok(Intake { ticket_text, ticket, request, history, vouchers })
}

/// The request, whose frames are as long as can be but for the last.
async fn read_request(arriving: &mut Arriving, otherwise: &'static str) -> Result<Bytes, Refusal> {
    let first = arriving.next(FrameKind::Request, otherwise).await?.payload;
    if first.len() < MAX_PAYLOAD {
        return Ok(first);
    }
    let (mut whole, mut is_last) = (BytesMut::from(first), false);
    while !is_last {
        let piece = arriving.next(FrameKind::Request, otherwise).await?.payload;
        is_last = piece.len() < MAX_PAYLOAD;
        if whole.len() + piece.len() > MAX_BODY {
            return Err(Refusal::BadTicket("The request is too long."));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// What earlier attempts have delivered, `first_token` tokens in all.
async fn read_history(arriving: &mut Arriving, first_token: u32) -> Result<Vec<History>, Refusal> {
    const UNLIKE: &str = "What was delivered before is not what the ticket says.";
    if first_token > MAX_HISTORY {
        return Err(Refusal::BadTicket("The answer is too long to be continued."));
    }
    let (mut history, mut tokens) = (Vec::<History>::new(), 0);
    while tokens < first_token {
        let frame = arriving.next(FrameKind::History, UNLIKE).await?;
        let ids: Vec<u32> = frame.token_ids().collect();
        tokens += ids.len() as u32; // at most MAX_IDS more than MAX_HISTORY
        let choice = usize::from(frame.choice);
        if u32::from(frame.choice) >= MAX_ANSWERS || ids.is_empty() || frame.tokens != tokens || tokens > first_token {
            return Err(Refusal::BadTicket(UNLIKE));
        }
        history.resize(history.len().max(choice + 1), History::default());
        history[choice].ids.extend(ids);
        history[choice].finished = *frame.payload == *frame::FINISHED;
    }
    Ok(history)
}

/// The frames of a job that have not been looked at yet.
struct Arriving {
    body: Body,
    reader: FrameReader,
    frames: VecDeque<Frame>,
}

impl Arriving {
    /// The next frame, which must be of this kind.
    async fn next(&mut self, kind: FrameKind, otherwise: &'static str) -> Result<Frame, Refusal> {
        while self.frames.is_empty() {
            let Some(Ok(part)) = self.body.frame().await else { return Err(Refusal::BadTicket(otherwise)) };
            let Ok(data) = part.into_data() else { continue };
            let frames = &mut self.frames;
            self.reader
                .push(data, |frame| frames.push_back(frame))
                .map_err(|_| Refusal::BadTicket("The job's frames are malformed."))?;
        }
        self.frames.pop_front().filter(|frame| frame.kind == kind).ok_or(Refusal::BadTicket(otherwise))
    }
}

impl Vouchers {
    /// Takes what has arrived. Left unread, it would fill the stream's window and stop the gateway.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        while let Some(body) = &mut self.body {
            let data = match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(part))) => part.into_data().unwrap_or_default(),
                // Whether the stream was reset is seen where the answer is sent.
                Poll::Ready(Some(Err(_)) | None) => {
                    self.body = None;
                    return;
                }
            };
            let mut frames = Vec::new();
            if self.reader.push(data, |frame| frames.push(frame)).is_err() {
                self.body = None;
            }
            frames.into_iter().for_each(|frame| self.take(frame));
        }
    }

    /// Whether no more can come.
    pub fn have_ended(&self) -> bool {
        self.body.is_none()
    }

    /// The last voucher that has arrived, a compact JWS.
    pub fn into_last(mut self) -> Option<String> {
        self.poll(&mut Context::from_waker(Waker::noop()));
        String::from_utf8(self.last?.into()).ok()
    }

    /// The last voucher of an answer that has reached its end: the gateway sends it when it has everything, and ends the
    /// stream with it. Waits for that, but not for long.
    pub async fn final_one(mut self) -> Option<String> {
        let ended = poll_fn(|cx| {
            self.poll(cx);
            if self.have_ended() { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = tokio::time::timeout(LAST_WITHIN, ended).await; // what has come until then counts
        self.into_last()
    }

    fn take(&mut self, frame: Frame) {
        if frame.kind == FrameKind::Voucher && frame.payload.len() <= MAX_SIGNED_TEXT {
            self.last = Some(frame.payload);
        }
    }
}
