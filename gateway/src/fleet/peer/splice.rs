//! Joins the stream on which another gateway asks with one on the provider's tunnel.
//!
//! Both sides are always drained, into a buffer of a set size: a gateway or a provider that does not read stalls nobody
//! else, and loses its own job when the buffer is full. What has come together is passed on together, no empty frame is
//! sent but to end a stream, and whichever side goes away, the other is told at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http::header::CONTENT_TYPE;
use lumbung_openapi::frame;

/// The most that is kept of a direction: a job's whole buffer at the gateway that asks, or a whole request with what
/// earlier attempts have delivered.
const MAX_KEPT: usize = 2 * frame::MAX_PAYLOAD;
/// What is passed on together, at most.
const TOGETHER: usize = 16 << 10;
/// How long after an answer's end the last voucher may take: a provider waits no longer for it.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(3);

/// Why a direction ended before its end.
enum Cut {
    /// Whoever sends has gone.
    Source,
    /// Whoever receives has gone, or wants no more.
    Sink,
    /// Whoever receives does not read.
    Full,
}

/// Passes a job on until both sides have said their last word.
pub(super) async fn splice(
    request: RecvStream,
    mut to_provider: SendStream<Bytes>,
    answer: ResponseFuture,
    mut respond: SendResponse<Bytes>,
) {
    let mut up = Direction::new(request);
    let mut up_ended = false;
    // Until the provider has answered, its answer, the request and the other gateway's patience are waited for together.
    let answer = {
        let mut answer = std::pin::pin!(answer);
        poll_fn(|cx| {
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Cut::Sink));
            }
            if !up_ended && let Poll::Ready(ended) = up.poll(&mut to_provider, cx) {
                up_ended = true;
                if let Some(cut) = of_the_asker(ended) {
                    return Poll::Ready(Err(cut));
                }
            }
            answer.as_mut().poll(cx).map_err(|_| Cut::Source)
        })
        .await
    };
    let (head, body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(cut) => {
            to_provider.send_reset(Reason::CANCEL);
            return respond.send_reset(told(&cut));
        }
    };
    let mut passed = Response::new(());
    *passed.status_mut() = head.status;
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        passed.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    let Ok(mut to_asker) = respond.send_response(passed, false) else {
        return to_provider.send_reset(Reason::CANCEL);
    };
    let mut down = Direction::new(body);
    let ended = poll_fn(|cx| {
        if !up_ended && let Poll::Ready(ended) = up.poll(&mut to_provider, cx) {
            up_ended = true;
            if let Some(cut) = of_the_asker(ended) {
                return Poll::Ready(Err(cut));
            }
        }
        down.poll(&mut to_asker, cx)
    })
    .await;
    if let Err(cut) = ended {
        to_provider.send_reset(Reason::CANCEL);
        return to_asker.send_reset(told(&cut));
    }
    if !up_ended {
        // The answer is whole; the voucher for all of it is still to come.
        let _ = tokio::time::timeout(LAST_WORD_WITHIN, poll_fn(|cx| up.poll(&mut to_provider, cx))).await;
    }
}

/// The end of the request's direction matters where the gateway that asks is the cause. A provider that will not read on
/// says more where it answers.
fn of_the_asker(ended: Result<(), Cut>) -> Option<Cut> {
    ended.err().filter(|cut| !matches!(cut, Cut::Sink))
}

/// What the gateway that asks is told: `INTERNAL_ERROR` means that the provider broke off, anything else that its job was
/// lost here.
fn told(cut: &Cut) -> Reason {
    match cut {
        Cut::Source => Reason::INTERNAL_ERROR,
        Cut::Sink => Reason::CANCEL,
        Cut::Full => Reason::ENHANCE_YOUR_CALM,
    }
}

/// One direction of a job.
struct Direction {
    source: RecvStream,
    has_all: bool,
    kept: VecDeque<Bytes>,
    kept_len: usize,
}

impl Direction {
    fn new(source: RecvStream) -> Self {
        Self { source, has_all: false, kept: VecDeque::new(), kept_len: 0 }
    }

    /// Takes what has come and sends what there is room for. Ready when all of it is sent, the end too, or cannot be.
    fn poll(&mut self, sink: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        self.drain(cx)?;
        if sink.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Cut::Sink));
        }
        let gone = |_: h2::Error| Cut::Sink;
        while self.kept_len > 0 {
            sink.reserve_capacity(self.kept_len.min(TOGETHER));
            let room = match ready!(sink.poll_capacity(cx)) {
                Some(room) => room.map_err(gone)?,
                None => return Poll::Ready(Err(Cut::Sink)),
            };
            if room == 0 {
                continue; // told of room that was used meanwhile
            }
            let piece = self.take(room);
            let is_last = self.has_all && self.kept_len == 0;
            sink.send_data(piece, is_last).map_err(gone)?;
            if is_last {
                return Poll::Ready(Ok(()));
            }
        }
        match self.has_all {
            true => Poll::Ready(sink.send_data(Bytes::new(), true).map_err(gone)),
            false => Poll::Pending,
        }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Cut> {
        while !self.has_all {
            let chunk = match self.source.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => {
                    self.has_all = true;
                    return Ok(());
                }
                // It has said all it will and reads no more (RFC 9113, section 8.1).
                Poll::Ready(Some(Err(error))) if error.reason() == Some(Reason::NO_ERROR) => {
                    self.has_all = true;
                    return Ok(());
                }
                Poll::Ready(Some(Err(_))) => return Err(Cut::Source),
                Poll::Ready(Some(Ok(chunk))) => chunk,
            };
            let release = self.source.flow_control().release_capacity(chunk.len());
            release.map_err(|_| Cut::Source)?;
            self.has_all = self.source.is_end_stream();
            if !chunk.is_empty() {
                self.kept_len += chunk.len();
                self.kept.push_back(chunk);
            }
            if self.kept_len > MAX_KEPT {
                return Err(Cut::Full);
            }
        }
        Ok(())
    }

    /// The next so many bytes, or fewer: small chunks put together, a large one as it is.
    fn take(&mut self, room: usize) -> Bytes {
        let first_is_enough = |kept: &VecDeque<Bytes>| kept.len() == 1 || kept[0].len() >= room.min(TOGETHER);
        let piece = if first_is_enough(&self.kept) {
            let first = &mut self.kept[0];
            let piece = first.split_to(first.len().min(room));
            if first.is_empty() {
                self.kept.pop_front();
            }
            piece
        } else {
            let mut together = BytesMut::with_capacity(room.min(self.kept_len));
            while together.len() < room.min(TOGETHER)
                && let Some(first) = self.kept.front_mut()
            {
                together.extend_from_slice(&first.split_to(first.len().min(room - together.len())));
                if first.is_empty() {
                    self.kept.pop_front();
                }
            }
            together.freeze()
        };
        self.kept_len -= piece.len();
        piece
    }
}
