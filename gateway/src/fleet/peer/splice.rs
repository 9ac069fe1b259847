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

/// The most that is kept of a direction: the longest document there is, which comes all at once, or a whole request with
/// what earlier attempts have delivered.
const MAX_KEPT: usize = frame::MAX_BODY + frame::MAX_PAYLOAD;
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

#[cfg(test)]
mod tests {
    use h2::{client, server};
    use http::Request;
    use tokio::io::DuplexStream;

    use super::*;

    /// Both ends of a job that is passed on: the gateway's that asks, and the provider's.
    struct Ends {
        request: SendStream<Bytes>,
        answer: ResponseFuture,
        asked: RecvStream,
        respond: SendResponse<Bytes>,
    }

    type Streams = (SendStream<Bytes>, ResponseFuture, RecvStream, SendResponse<Bytes>);

    /// A stream on a connection of its own, from both ends. Windows are as large as they may be: who does not read is
    /// noticed by the buffer, not by the window.
    async fn stream() -> Streams {
        let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
        let accepting = tokio::spawn(async move {
            let mut builder = server::Builder::new();
            builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
            let mut connection = builder.handshake::<_, Bytes>(far).await.expect("a handshake");
            let stream = connection.accept().await.expect("a stream").expect("a request");
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            stream
        });
        let (mut sender, connection) = client::handshake(near).await.expect("a handshake");
        tokio::spawn(async move { drop(connection.await) });
        let (answer, request) = sender.send_request(Request::new(()), false).expect("a stream");
        let (asked, respond) = accepting.await.expect("a task");
        (request, answer, asked.into_body(), respond)
    }

    async fn joined() -> Ends {
        let (request, answer, listened, to_asker) = stream().await;
        let (to_provider, answered, asked, respond) = stream().await;
        tokio::spawn(splice(listened, to_provider, answered, to_asker));
        Ends { request, answer, asked, respond }
    }

    async fn read(stream: &mut RecvStream, length: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < length {
            let chunk = stream.data().await.expect("more").expect("whole");
            stream.flow_control().release_capacity(chunk.len()).expect("it was taken");
            read.extend_from_slice(&chunk);
        }
        read
    }

    fn numbered(count: u32) -> Vec<u8> {
        (0..count).flat_map(u32::to_be_bytes).collect()
    }

    #[tokio::test]
    async fn what_either_side_says_comes_to_the_other_in_order_and_ends() {
        let mut ends = joined().await;
        let said = numbered(1_000);
        for piece in said.chunks(10) {
            ends.request.send_data(Bytes::copy_from_slice(piece), false).expect("open");
        }
        assert_eq!(read(&mut ends.asked, said.len()).await, said);

        let mut answering = ends.respond.send_response(Response::new(()), false).expect("open");
        let mut body = ends.answer.await.expect("an answer").into_body();
        let answer = numbered(50_000);
        for piece in answer.chunks(700) {
            answering.send_data(Bytes::copy_from_slice(piece), false).expect("open");
        }
        assert_eq!(read(&mut body, answer.len()).await, answer);
        // The last word of each is passed on, also after the other's.
        answering.send_data(Bytes::from_static(b"end"), true).expect("open");
        assert_eq!(read(&mut body, 3).await, b"end");
        assert!(body.data().await.is_none());
        ends.request.send_data(Bytes::from_static(b"voucher"), true).expect("open");
        assert_eq!(read(&mut ends.asked, 7).await, b"voucher");
        assert!(ends.asked.data().await.is_none());
    }

    #[tokio::test]
    async fn a_provider_that_breaks_off_is_told_from_a_job_that_is_lost_here() {
        let mut ends = joined().await;
        let mut answering = ends.respond.send_response(Response::new(()), false).expect("open");
        answering.send_data(Bytes::from_static(b"so far"), false).expect("open");
        let mut body = ends.answer.await.expect("an answer").into_body();
        assert_eq!(read(&mut body, 6).await, b"so far");
        answering.send_reset(Reason::CANCEL);
        let broken = body.data().await.expect("an end").expect_err("broken off");
        assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
    }

    #[tokio::test]
    async fn a_provider_is_told_at_once_that_nobody_waits_any_more() {
        for has_answered in [false, true] {
            let mut ends = joined().await;
            let mut answering = None;
            if has_answered {
                answering = Some(ends.respond.send_response(Response::new(()), false).expect("open"));
                (&mut ends.answer).await.expect("an answer");
            }
            ends.request.send_reset(Reason::CANCEL);
            let reason = match &mut answering {
                Some(answering) => poll_fn(|cx| answering.poll_reset(cx)).await,
                None => poll_fn(|cx| ends.respond.poll_reset(cx)).await,
            };
            assert_eq!(reason.expect("a reason"), Reason::CANCEL);
        }
    }

    #[tokio::test]
    async fn who_does_not_read_loses_its_own_job() {
        let mut ends = joined().await;
        let mut answering = ends.respond.send_response(Response::new(()), false).expect("open");
        let body = ends.answer.await.expect("an answer").into_body();
        // Nothing of the body is read.
        let sent = async {
            let mut sent = 0;
            loop {
                answering.reserve_capacity(TOGETHER);
                let Some(Ok(room)) = poll_fn(|cx| answering.poll_capacity(cx)).await else { return };
                sent += room;
                assert!(sent < 2 * MAX_KEPT, "it is kept without end");
                if answering.send_data(Bytes::from(vec![0; room]), false).is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), sent).await.expect("the provider is told");
        drop(body);
    }
}
