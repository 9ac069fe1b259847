//! A tunnel from the gateway's end: the offer, and jobs.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::ErrorObject;
use lumbung_openapi::frame::{self, Frame, FrameKind, FrameReader};
use lumbung_openapi::jws::HmacKey;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::provider::{OFFER_PATH, Offer};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};
use tokio::sync::mpsc;

use super::gateway::now;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// The gateway's end of a tunnel.
#[derive(Clone)]
pub struct Tunnel {
    sender: SendRequest<Body>,
    /// Who opened it.
    pub provider: String,
    /// Where jobs are sent.
    pub endpoint: Endpoint,
}

/// What a provider answered to a job.
pub enum Answered {
    /// It began to answer.
    Begun(Stream),
    /// It refused.
    Refused(StatusCode, ErrorObject),
}

/// An answer that has begun. Dropping it resets the stream.
pub struct Stream {
    body: Incoming,
    reader: FrameReader,
    frames: VecDeque<Frame>,
    /// The still-open body of the request.
    pub request: mpsc::Sender<Bytes>,
    /// DATA frames so far.
    pub data_frames: usize,
}

impl Tunnel {
    pub fn new(sender: SendRequest<Body>, provider: String) -> Self {
        Self { sender, provider, endpoint: Endpoint::Chat }
    }

    pub async fn offer(&mut self) -> Offer {
        let request = Request::get(format!("http://provider{OFFER_PATH}")).body(Empty::new().boxed_unsync()).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    /// A ticket that suits the tests' provider and this request.
    pub fn ticket(&self, request: &str) -> Ticket {
        Ticket {
            replica: "replica-1".into(),
            allowance: "allow_1".into(),
            job: "job_1".into(),
            attempt: 1,
            first_token: 0,
            provider: self.provider.clone(),
            model: "test/model".into(),
            digests: vec![],
            price: TokenPrice { prompt: usd("0.05"), completion: usd("0.10") },
            fee_bps: 500,
            max_prompt_tokens: 1000,
            max_completion_tokens: 1_000_000,
            whole: false,
            ceiling: usd("1"),
            request_sha256: Hash::of(request.as_bytes()),
            public_id: "chatcmpl-1".into(),
            public_model: "test/model".into(),
            created: 1_700_000_000,
            start_by: now() + 60,
            claim_by: now() + 600,
        }
    }

    /// Sends a job, leaving its body open.
    pub async fn send(&mut self, ticket: &str, request: &str) -> Answered {
        let mut first = BytesMut::new();
        frame::encode(&mut first, FrameKind::Ticket, 0, 0, &[], ticket.as_bytes());
        frame::encode(&mut first, FrameKind::Request, 0, 0, &[], request.as_bytes());
        self.send_frames(first.freeze()).await
    }

    pub async fn send_frames(&mut self, first: Bytes) -> Answered {
        let (sender, receiver) = mpsc::channel(8);
        sender.try_send(first).unwrap();
        let parts = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| {
            let bytes = receiver.recv().await?;
            Some((Ok(http_body::Frame::data(bytes)), receiver))
        });
        let body = StreamBody::new(parts).boxed_unsync();
        let request = Request::post(format!("http://provider{}", self.endpoint.path())).body(body).unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status();
        if status == StatusCode::OK {
            assert_eq!(response.headers()["content-type"], "application/x-lumbung-frames");
            return Answered::Begun(Stream {
                body: response.into_body(),
                reader: FrameReader::default(),
                frames: VecDeque::new(),
                request: sender,
                data_frames: 0,
            });
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let error: lumbung_openapi::error::ErrorBody = serde_json::from_slice(&body).unwrap();
        Answered::Refused(status, error.error)
    }

    /// Sends a job with a ticket that suits it.
    pub async fn ask(&mut self, request: &str) -> Answered {
        let ticket = sign(&self.ticket(request));
        self.send(&ticket, request).await
    }
}

/// A ticket's text, as a gateway would sign it.
pub fn sign(ticket: &Ticket) -> String {
    HmacKey::from_secret(&[7; 32]).sign(TICKET_TYP, "k1", ticket)
}

pub fn usd(text: &str) -> NanoUsd {
    text.parse().unwrap()
}

impl Answered {
    pub fn begun(self) -> Stream {
        match self {
            Self::Begun(stream) => stream,
            Self::Refused(status, error) => panic!("refused: {status} {error:?}"),
        }
    }

    /// Status and code of the refusal.
    pub fn refused(self) -> (u16, String) {
        match self {
            Self::Begun(_) => panic!("not refused"),
            Self::Refused(status, error) => (status.as_u16(), error.code.unwrap_or_default().into_owned()),
        }
    }
}

impl Stream {
    /// The next frame; `None` at the end, or when the stream breaks.
    pub async fn next(&mut self) -> Option<Frame> {
        while self.frames.is_empty() {
            let data = self.body.frame().await?.ok()?.into_data().ok()?;
            assert!(!data.is_empty(), "an empty DATA frame");
            self.data_frames += 1;
            let frames = &mut self.frames;
            self.reader.push(data, |frame| frames.push_back(frame)).unwrap();
        }
        self.frames.pop_front()
    }

    /// Every frame to the end.
    pub async fn all(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        assert!(!self.reader.is_mid_frame());
        frames
    }
}

/// Payloads of these frames that are for the client, one after the other.
pub fn client_bytes(frames: &[Frame]) -> Vec<u8> {
    frames.iter().filter(|frame| frame.kind.is_for_client()).flat_map(|frame| frame.payload.to_vec()).collect()
}

/// A ticket with a change.
pub fn with(ticket: &Ticket, change: impl FnOnce(&mut Ticket)) -> Ticket {
    let mut ticket = ticket.clone();
    change(&mut ticket);
    ticket
}
