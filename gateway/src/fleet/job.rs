//! A job on a tunnel: frames out, frames in.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, StatusCode};
use lumbung_openapi::error::ErrorBody;
use lumbung_openapi::frame::{self, Frame, FrameError, FrameKind, FrameReader, MAX_PAYLOAD};

use super::last_words::{LastWords, send_last};
use super::peer::PEER_HEADER;
use super::tunnel::{collect, next_chunk};

/// Bodies up to this are copied behind the ticket into one DATA frame; larger ones go out as they are.
const COPY_UP_TO: usize = 16 << 10;
/// Room that any voucher's frame fits in.
const VOUCHER_ROOM: usize = 1 << 10;
/// A refusal larger than this is not read.
const MAX_REFUSAL: usize = 16 << 10;

/// Why a job did not begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The provider says no, in OpenAI's shape where it can.
    #[error("refused with status {status}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says, if it can be read.
        body: Option<Box<ErrorBody>>,
    },
    /// The connection or the stream broke.
    #[error("tunnel: {0}")]
    Tunnel(h2::Error),
    /// The gateway that has the provider's tunnel could not be reached. Not the provider's failure.
    #[error("on the way to another gateway: {0}")]
    Hop(String),
    /// The other gateway has the provider's tunnel no more. Not the provider's failure.
    #[error("the other gateway has no tunnel to it any more")]
    NoTunnel,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The connection or the stream broke.
    #[error("tunnel: {0}")]
    Tunnel(h2::Error),
    /// The provider does not keep to the protocol.
    #[error("protocol: {0}")]
    Frame(#[from] FrameError),
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Cut,
    /// The gateway that has the provider's tunnel was lost. Not the provider's failure.
    #[error("on the way from another gateway: {0}")]
    Hop(String),
}

/// What a job's stream leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The provider itself.
    Tunnel,
    /// Another gateway, which has its tunnel.
    Peer,
}

impl Origin {
    /// Whether the provider is to blame for a broken stream. Another gateway resets with `INTERNAL_ERROR` when the provider
    /// broke off, and with anything else, or not at all, when it lost the job itself.
    fn blames_provider(self, error: &h2::Error) -> bool {
        self == Self::Tunnel
            || (error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::INTERNAL_ERROR))
    }

    fn open_error(self, error: h2::Error) -> OpenError {
        if self.blames_provider(&error) { OpenError::Tunnel(error) } else { OpenError::Hop(error.to_string()) }
    }

    fn job_error(self, error: h2::Error) -> JobError {
        if self.blames_provider(&error) { JobError::Tunnel(error) } else { JobError::Hop(error.to_string()) }
    }
}

/// An accepted job. Dropping it cancels the answer at the provider.
pub struct JobStream {
    /// Stays open while the answer runs: vouchers follow the request.
    send: SendStream<Bytes>,
    receive: RecvStream,
    origin: Origin,
    /// Where its last voucher waits, if it may.
    last_words: Option<Arc<LastWords>>,
    reader: FrameReader,
    ready: VecDeque<Frame>,
}

impl JobStream {
    pub(super) async fn open(
        sender: &mut SendRequest<Bytes>,
        request: Request<()>,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
        origin: Origin,
    ) -> Result<Self, OpenError> {
        let asked = ask(sender, request, ticket, body, history).await;
        let (send, response) = asked.map_err(|error| origin.open_error(error))?;
        let status = response.status();
        if origin == Origin::Peer && response.headers().contains_key(PEER_HEADER) {
            return Err(match status {
                StatusCode::MISDIRECTED_REQUEST => OpenError::NoTunnel,
                _ => OpenError::Hop(format!("refused with status {status}")),
            });
        }
        if status != StatusCode::OK {
            let body = collect(response.into_body(), MAX_REFUSAL).await.map_err(|error| origin.open_error(error))?;
            let body = body.and_then(|body| serde_json::from_slice(&body).ok()).map(Box::new);
            return Err(OpenError::Refused { status, body });
        }
        let receive = response.into_body();
        Ok(Self { send, receive, origin, last_words: None, reader: FrameReader::default(), ready: VecDeque::new() })
    }

    /// The same, whose last voucher leaves with others.
    pub(super) fn with(self, last_words: &Arc<LastWords>) -> Self {
        Self { last_words: Some(last_words.clone()), ..self }
    }

    /// The next whole frame; `None` at the end of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, JobError> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            let chunk = next_chunk(&mut self.receive).await.map_err(|error| self.origin.job_error(error))?;
            let Some(chunk) = chunk else {
                return if self.reader.is_mid_frame() { Err(JobError::Cut) } else { Ok(None) };
            };
            let release = self.receive.flow_control().release_capacity(chunk.len());
            release.map_err(|error| self.origin.job_error(error))?;
            let ready = &mut self.ready;
            self.reader.push(chunk, |frame| ready.push_back(frame))?;
        }
    }

    /// Whether it comes from the provider itself, not through another gateway.
    pub fn is_direct(&self) -> bool {
        self.origin == Origin::Tunnel
    }

    /// Whether a further frame has arrived already.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a voucher can go out at once. Nothing waits for a provider that does not read, and nothing piles up for it.
    pub fn has_room(&mut self) -> bool {
        self.send.reserve_capacity(VOUCHER_ROOM);
        self.send.capacity() >= VOUCHER_ROOM
    }

    /// Sends a voucher for so many tokens.
    pub fn vouch(&mut self, voucher: &str, tokens: u32) {
        // A stream that has broken is noticed where it is read.
        drop(self.send.send_data(voucher_frame(voucher, tokens), false));
    }

    /// Sends the last voucher, which ends the request. Returns whether it goes at once; otherwise it goes with a job that is
    /// likely to follow, or in a moment. To be called when the answer has ended.
    pub fn finish(mut self, voucher: &str, tokens: u32) -> bool {
        let voucher = voucher_frame(voucher, tokens);
        if let Some(last_words) = self.last_words {
            return last_words.add(self.send, voucher);
        }
        send_last(&mut self.send, voucher);
        true
    }

    /// Tells the provider to stop at once.
    pub fn cancel(mut self) {
        self.send.send_reset(h2::Reason::CANCEL);
    }
}

fn voucher_frame(voucher: &str, tokens: u32) -> Bytes {
    let mut frame = BytesMut::with_capacity(frame::HEADER_LEN + voucher.len());
    frame::encode(&mut frame, FrameKind::Voucher, 0, tokens, &[], voucher.as_bytes());
    frame.freeze()
}

/// Sends ticket and request, and waits for the answer's head.
async fn ask(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    ticket: &str,
    body: &Bytes,
    history: Bytes,
) -> Result<(SendStream<Bytes>, http::Response<RecvStream>), h2::Error> {
    let (response, mut send) = sender.send_request(request, false)?;
    for chunk in request_chunks(ticket, body) {
        send.send_data(chunk, false)?;
    }
    if !history.is_empty() {
        send.send_data(history, false)?;
    }
    Ok((send, response.await?))
}

/// Ticket and request as frames; a large body follows by itself, uncopied.
fn request_chunks(ticket: &str, body: &Bytes) -> Vec<Bytes> {
    let mut head = BytesMut::with_capacity(2 * frame::HEADER_LEN + ticket.len() + body.len().min(COPY_UP_TO));
    frame::encode(&mut head, FrameKind::Ticket, 0, 0, &[], ticket.as_bytes());
    if body.len() <= COPY_UP_TO {
        frame::encode(&mut head, FrameKind::Request, 0, 0, &[], body);
        return vec![head.freeze()];
    }
    let (mut chunks, mut rest) = (Vec::new(), body.clone());
    loop {
        let piece = rest.split_to(rest.len().min(MAX_PAYLOAD));
        let is_last = piece.len() < MAX_PAYLOAD;
        frame::encode_header(&mut head, FrameKind::Request, 0, 0, 0, piece.len());
        chunks.extend([head.split().freeze(), piece].into_iter().filter(|chunk| !chunk.is_empty()));
        if is_last {
            return chunks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Respond = h2::server::SendResponse<Bytes>;

    /// Opens a job at a provider that answers so; what `answer` returns lives as long as the provider.
    async fn open<T: Send + 'static>(
        answer: impl FnOnce(RecvStream, Respond) -> T + Send + 'static,
    ) -> Result<JobStream, OpenError> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.expect("a connection");
            let (request, respond) = connection.accept().await.expect("a job").expect("a job");
            let _kept = answer(request.into_body(), respond);
            while connection.accept().await.is_some() {}
        });
        let (sender, connection) = h2::client::handshake(ours).await.expect("a connection");
        tokio::spawn(connection);
        let request = Request::post("http://provider/").body(()).expect("a request");
        let mut sender = sender.ready().await.expect("ready");
        JobStream::open(&mut sender, request, "ticket", &Bytes::from_static(b"{}"), Bytes::new(), Origin::Tunnel).await
    }

    fn respond_with(status: StatusCode, mut respond: Respond) -> SendStream<Bytes> {
        let mut response = http::Response::new(());
        *response.status_mut() = status;
        respond.send_response(response, false).expect("a response")
    }

    #[test]
    fn a_large_request_goes_in_several_frames_of_which_the_last_is_shorter() {
        for (length, frames) in
            [(1, 1), (COPY_UP_TO + 1, 1), (MAX_PAYLOAD - 1, 1), (MAX_PAYLOAD, 2), (2 * MAX_PAYLOAD + 7, 3)]
        {
            let body = Bytes::from(vec![b'x'; length]);
            let (mut reader, mut read) = (FrameReader::default(), Vec::new());
            for chunk in request_chunks("ticket", &body) {
                assert!(!chunk.is_empty());
                reader.push(chunk, |frame| read.push(frame)).expect("frames");
            }
            let requests: Vec<Frame> = read.split_off(1);
            assert_eq!((read[0].kind, requests.len()), (FrameKind::Ticket, frames), "{length} bytes");
            assert!(requests.iter().all(|frame| frame.kind == FrameKind::Request));
            let lengths: Vec<usize> = requests.iter().map(|frame| frame.payload.len()).collect();
            assert_eq!((lengths.iter().sum::<usize>(), lengths[frames - 1] < MAX_PAYLOAD), (length, true));
            assert!(lengths[..frames - 1].iter().all(|length| *length == MAX_PAYLOAD));
        }
    }

    #[tokio::test]
    async fn a_provider_that_reads_nothing_neither_blocks_the_answer_nor_fills_memory() {
        let mut job = open(|unread, respond| {
            let mut answer = respond_with(StatusCode::OK, respond);
            let mut frame = BytesMut::new();
            frame::encode(&mut frame, FrameKind::Progress, 0, 1, &[], b"");
            answer.send_data(frame.freeze(), false).expect("sent");
            (unread, answer)
        })
        .await
        .expect("accepted");
        let mut sent = 0;
        for tokens in 0..1000 {
            if job.has_room() {
                job.vouch(&"v".repeat(300), tokens);
                sent += 1;
            }
            tokio::task::yield_now().await;
        }
        assert!((1..250).contains(&sent), "{sent} vouchers fit into a window of 64 KiB");
        let frame = job.next().await.expect("the answer goes on").expect("a frame");
        assert_eq!((frame.kind, frame.tokens), (FrameKind::Progress, 1));
        job.finish("last", 1000); // resets the stream, for nobody would read it
    }

    #[tokio::test]
    async fn a_refusal_is_understood_though_the_request_is_still_open() {
        let refused = open(|request, respond| {
            let mut answer = respond_with(StatusCode::SERVICE_UNAVAILABLE, respond);
            let body = r#"{"error":{"message":"busy","type":"t","param":null,"code":"provider_busy"}}"#;
            answer.send_data(Bytes::from_static(body.as_bytes()), true).expect("sent");
            drop((request, answer)); // h2 resets the stream with NO_ERROR
        })
        .await;
        let Err(OpenError::Refused { status, body: Some(body) }) = refused else { panic!("not understood") };
        assert_eq!((status.as_u16(), body.error.code.as_deref()), (503, Some("provider_busy")));
    }

    #[tokio::test]
    async fn an_answer_whose_provider_lets_go_of_the_request_is_whole() {
        let mut job = open(|request, respond| {
            let mut answer = respond_with(StatusCode::OK, respond);
            let mut frame = BytesMut::new();
            frame::encode(&mut frame, FrameKind::End, 0, 1, &[], b"stop");
            answer.send_data(frame.freeze(), true).expect("sent");
            drop((request, answer));
        })
        .await
        .expect("accepted");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await; // everything has arrived, the reset too
        assert_eq!(job.next().await.expect("no error").map(|frame| frame.kind), Some(FrameKind::End));
        assert!(job.next().await.expect("an end, no error").is_none());
        job.finish("last", 1);
    }
}
