//! A job as it comes in: the ticket's frame, the request's frame, and vouchers while the answer streams.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use lumbung_openapi::frame::{Frame, FrameKind, FrameReader};

use crate::refusal::Refusal;

/// How long the first two frames may take to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after an answer's end its last voucher may take to arrive.
const LAST_WITHIN: Duration = Duration::from_secs(2);
/// No ticket and no voucher is larger: they are kept until their receipt is acknowledged.
const MAX_SIGNED_TEXT: usize = 16 << 10;

/// A job whose first frames are there.
pub struct Intake {
    /// The ticket, a compact JWS.
    pub ticket: String,
    /// The client's request body as it came.
    pub request: Bytes,
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
    /// Waits for the first two frames, not for the end of the body.
    pub async fn read(body: Body) -> Result<Self, Refusal> {
        tokio::time::timeout(ARRIVAL_TIMEOUT, read(body))
            .await
            .map_err(|_| Refusal::BadTicket("The job's first frames did not come in time."))?
    }
}

async fn read(mut body: Body) -> Result<Intake, Refusal> {
    let (mut reader, mut frames) = (FrameReader::default(), VecDeque::new());
    while frames.len() < 2 {
        let Some(Ok(part)) = body.frame().await else {
            return Err(Refusal::BadTicket("A job must begin with a ticket and a request."));
        };
        let Ok(data) = part.into_data() else { continue };
        reader
            .push(data, |frame| frames.push_back(frame))
            .map_err(|_| Refusal::BadTicket("The job's frames are malformed."))?;
    }
    let ticket = frames.pop_front().filter(|frame| frame.kind == FrameKind::Ticket);
    let request = frames.pop_front().filter(|frame| frame.kind == FrameKind::Request);
    let ticket = ticket.filter(|frame| frame.payload.len() <= MAX_SIGNED_TEXT);
    let (Some(ticket), Some(request)) = (ticket, request) else {
        return Err(Refusal::BadTicket("A job must begin with a ticket and a request."));
    };
    let ticket =
        String::from_utf8(ticket.payload.into()).map_err(|_| Refusal::BadTicket("The ticket is malformed."))?;
    let mut vouchers = Vouchers { body: Some(body), reader, last: None };
    frames.into_iter().for_each(|frame| vouchers.take(frame));
    Ok(Intake { ticket, request: request.payload, vouchers })
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
