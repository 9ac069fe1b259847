//! The gateway's end of a provider's tunnel: an HTTP/2 client on a connection that the provider dialled.
//!
//! Windows: each stream has its own of 256 KiB, the connection's is as good as unlimited, and whatever arrives is taken
//! at once into the job's own bounded buffer. So a client that reads slowly stalls nobody else (SPEED.md, point 3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Method, Request, StatusCode};
use lumbung_link::{Patience, gather};
use lumbung_openapi::provider::{MOVE_PATH, OFFER_PATH, Offer, REPLICAS_HEADER, STANDING_HEADER};
use lumbung_telemetry::trace::{Context, TRACEPARENT};
use tokio::io::{AsyncRead, AsyncWrite};

use super::job::{JobStream, OpenError, Origin};
use super::last_words::LastWords;
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;

pub(super) const STREAM_WINDOW: u32 = 256 << 10;
pub(super) const CONNECTION_WINDOW: u32 = 1 << 30;
/// Clients that leave in a burst reset as many streams; h2 must not take that for an attack of ours.
pub(super) const MAX_RESET_STREAMS: usize = 8192;
/// An offer larger than this is no offer.
const MAX_OFFER: usize = 256 << 10;

/// One open tunnel.
pub struct Tunnel {
    /// Who is at the other end.
    pub provider: ProviderId,
    sender: SendRequest<Bytes>,
    last_words: Arc<LastWords>,
    state: AtomicU8,
}

/// Jobs are sent.
const OPEN: u8 = 0;
/// No more of them: the provider has dialled again. What runs goes on.
const SUPERSEDED: u8 = 1;
/// It is to end.
const CLOSED: u8 = 2;

/// Why an offer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// The connection or the stream broke.
    #[error("tunnel: {0}")]
    Tunnel(#[from] h2::Error),
    /// It did not come in time.
    #[error("no answer in time")]
    Timeout,
    /// Not what was asked for.
    #[error("malformed offer: {0}")]
    Malformed(String),
}

impl Tunnel {
    /// Turns the roles round on an upgraded connection. The second value drives the connection and must be polled
    /// until it ends, which is the end of the tunnel.
    pub async fn open<IO>(
        provider: ProviderId,
        io: IO,
    ) -> Result<(Arc<Self>, impl Future<Output = Result<(), h2::Error>>), h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // No patience: the last voucher of a job that is alone must have left before its client is told (`chat::attempt`).
        let (io, writer) = gather(io, Patience::None);
        let (sender, connection) = client_builder().handshake(io).await?;
        let last_words = Arc::<LastWords>::default();
        let tunnel = Self { provider, sender, last_words: last_words.clone(), state: AtomicU8::new(OPEN) };
        let driven = async move {
            tokio::select! {
                biased;
                ended = writer.drive(connection) => ended,
                never = last_words.send_in_time() => match never {},
            }
        };
        Ok((Arc::new(tunnel), driven))
    }

    /// Whether jobs may still be sent.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Whether it is to end.
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// No more jobs; what runs on it goes on, for as long as the provider answers on it.
    pub fn supersede(&self) {
        self.state.fetch_max(SUPERSEDED, Ordering::AcqRel);
    }

    /// The later tunnel is gone: this one has jobs again.
    pub fn reinstate(&self) {
        let _ = self.state.compare_exchange(SUPERSEDED, OPEN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// No more of it.
    pub fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// Asks what the provider offers now, and tells it how many gateways there are and how far it is trusted.
    pub async fn fetch_offer(
        &self,
        replicas: usize,
        standing: Standing,
        timeout: Duration,
    ) -> Result<Offer, OfferError> {
        tokio::time::timeout(timeout, self.fetch_offer_untimed(replicas, standing))
            .await
            .map_err(|_| OfferError::Timeout)?
    }

    async fn fetch_offer_untimed(&self, replicas: usize, standing: Standing) -> Result<Offer, OfferError> {
        let mut sender = self.sender.clone().ready().await?;
        let mut request = request(Method::GET, OFFER_PATH);
        request.headers_mut().insert(REPLICAS_HEADER, replicas.into());
        request.headers_mut().insert(STANDING_HEADER, HeaderValue::from_static(standing.as_str()));
        let (response, _) = sender.send_request(request, true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(OfferError::Malformed(format!("status {}", response.status())));
        }
        let body =
            collect(response.into_body(), MAX_OFFER).await?.ok_or_else(|| OfferError::Malformed("too large".into()))?;
        serde_json::from_slice(&body).map_err(|error| OfferError::Malformed(error.to_string()))
    }

    /// Asks the provider to dial another gateway, and to keep this tunnel for what runs on it.
    pub async fn ask_to_move(&self, timeout: Duration) -> Result<(), OfferError> {
        let ask = async {
            let mut sender = self.sender.clone().ready().await?;
            let (response, _) = sender.send_request(request(Method::POST, MOVE_PATH), true)?;
            response.await.map(drop)
        };
        Ok(tokio::time::timeout(timeout, ask).await.map_err(|_| OfferError::Timeout)??)
    }

    /// Sends a job in frames: its ticket, the client's body, and what earlier attempts have delivered. Returns when the
    /// provider has accepted or refused.
    pub async fn open_job(
        &self,
        path: &str,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
        trace: Option<Context>,
    ) -> Result<JobStream, OpenError> {
        let mut sender = self.sender.clone().ready().await.map_err(OpenError::Tunnel)?;
        let mut request = request(Method::POST, path);
        tell_trace(&mut request, trace);
        self.last_words.job_begins();
        let job = JobStream::open(&mut sender, request, ticket, body, history, Origin::Tunnel).await?;
        Ok(job.with(&self.last_words))
    }

    /// Begins a job that another gateway passes on: its frames follow as they come.
    pub(super) async fn pass_on(
        &self,
        path: &str,
        trace: Option<HeaderValue>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = request(Method::POST, path);
        trace.into_iter().for_each(|trace| drop(request.headers_mut().insert(TRACEPARENT, trace)));
        self.sender.clone().ready().await?.send_request(request, false)
    }
}

/// The settings of every connection on which this gateway asks.
pub(super) fn client_builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

pub(super) fn request(method: Method, path: &str) -> Request<()> {
    // h2 wants an absolute URI; the authority means nothing inside a tunnel.
    let uri = format!("http://provider{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a path of our own makes a valid URI")
}

/// Names the trace that a job is part of, if that is sampled.
pub(super) fn tell_trace(request: &mut Request<()>, trace: Option<Context>) {
    if let Some(trace) = trace {
        request.headers_mut().insert(TRACEPARENT, trace.header());
    }
}

/// A small body as a whole; `None` when it is larger than `limit`.
pub(super) async fn collect(mut body: h2::RecvStream, limit: usize) -> Result<Option<Vec<u8>>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(chunk) = next_chunk(&mut body).await? {
        body.flow_control().release_capacity(chunk.len())?;
        if whole.len() + chunk.len() > limit {
            return Ok(None);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Some(whole))
}

/// The next chunk of a body. A reset with NO_ERROR only says that the provider has answered and will not read on (RFC 9113,
/// section 8.1): an end like any other, for a request that stays open.
pub(super) async fn next_chunk(body: &mut h2::RecvStream) -> Result<Option<Bytes>, h2::Error> {
    match body.data().await {
        Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => Ok(None),
        chunk => chunk.transpose(),
    }
}
