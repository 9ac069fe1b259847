//! A job on a tunnel: frames out, frames in.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, StatusCode};
use lumbung_openapi::error::ErrorBody;
use lumbung_openapi::frame::{self, Frame, FrameError, FrameKind, FrameReader};

use super::tunnel::collect;

/// Bodies up to this are copied behind the ticket into one DATA frame; larger ones go out as they are.
const COPY_UP_TO: usize = 16 << 10;
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
    Tunnel(#[from] h2::Error),
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The connection or the stream broke.
    #[error("tunnel: {0}")]
    Tunnel(#[from] h2::Error),
    /// The provider does not keep to the protocol.
    #[error("protocol: {0}")]
    Frame(#[from] FrameError),
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Cut,
}

/// An accepted job. Dropping it cancels the answer at the provider.
pub struct JobStream {
    /// Held open: dropping it would not cancel, resetting it does.
    send: SendStream<Bytes>,
    receive: RecvStream,
    reader: FrameReader,
    ready: VecDeque<Frame>,
}

impl JobStream {
    pub(super) async fn open(
        sender: &mut SendRequest<Bytes>,
        request: Request<()>,
        ticket: &str,
        body: &Bytes,
    ) -> Result<Self, OpenError> {
        let (response, mut send) = sender.send_request(request, false)?;
        let (first, rest) = request_chunks(ticket, body);
        send.send_data(first, rest.is_none())?;
        if let Some(rest) = rest {
            send.send_data(rest, true)?;
        }
        let response = response.await?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = collect(response.into_body(), MAX_REFUSAL).await?;
            let body = body.and_then(|body| serde_json::from_slice(&body).ok()).map(Box::new);
            return Err(OpenError::Refused { status, body });
        }
        Ok(Self { send, receive: response.into_body(), reader: FrameReader::default(), ready: VecDeque::new() })
    }

    /// The next whole frame; `None` at the end of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, JobError> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            let Some(chunk) = self.receive.data().await else {
                return if self.reader.is_mid_frame() { Err(JobError::Cut) } else { Ok(None) };
            };
            let chunk = chunk?;
            self.receive.flow_control().release_capacity(chunk.len())?;
            let ready = &mut self.ready;
            self.reader.push(chunk, |frame| ready.push_back(frame))?;
        }
    }

    /// Tells the provider to stop at once.
    pub fn cancel(mut self) {
        self.send.send_reset(h2::Reason::CANCEL);
    }
}

/// Ticket and request as frames; a large body follows by itself, uncopied.
fn request_chunks(ticket: &str, body: &Bytes) -> (Bytes, Option<Bytes>) {
    let mut head = BytesMut::with_capacity(2 * frame::HEADER_LEN + ticket.len() + body.len().min(COPY_UP_TO));
    frame::encode(&mut head, FrameKind::Ticket, 0, 0, &[], ticket.as_bytes());
    if body.len() <= COPY_UP_TO {
        frame::encode(&mut head, FrameKind::Request, 0, 0, &[], body);
        return (head.freeze(), None);
    }
    frame::encode_header(&mut head, FrameKind::Request, 0, 0, 0, body.len());
    (head.freeze(), Some(body.clone()))
}
