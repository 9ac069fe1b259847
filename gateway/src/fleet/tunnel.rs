//! The gateway's end of a provider's tunnel: an HTTP/2 client on a connection that the provider dialled.
//!
//! Windows: each stream has its own of 256 KiB, the connection's is as good as unlimited, and whatever arrives is taken
//! at once into the job's own bounded buffer. So a client that reads slowly stalls nobody else (SPEED.md, point 3).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use lumbung_openapi::provider::{OFFER_PATH, Offer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::job::{JobStream, OpenError};
use crate::domain::ids::ProviderId;

const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Clients that leave in a burst reset as many streams; h2 must not take that for an attack of ours.
const MAX_RESET_STREAMS: usize = 8192;
/// An offer larger than this is no offer.
const MAX_OFFER: usize = 256 << 10;

/// One open tunnel.
pub struct Tunnel {
    /// Who is at the other end.
    pub provider: ProviderId,
    sender: SendRequest<Bytes>,
    open: AtomicBool,
    /// Jobs now, by model: counted here because a seat lasts only until the next offer.
    running: Mutex<HashMap<String, Arc<AtomicU32>>>,
}

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
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake(io)
            .await?;
        let tunnel = Self { provider, sender, open: AtomicBool::new(true), running: Mutex::default() };
        Ok((Arc::new(tunnel), connection))
    }

    /// Whether jobs may still be sent.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// No more jobs.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// The counter of running jobs of one model.
    pub(super) fn running(&self, model: &str) -> Arc<AtomicU32> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.entry(model.to_owned()).or_default().clone()
    }

    /// Asks what the provider offers now.
    pub async fn fetch_offer(&self, timeout: Duration) -> Result<Offer, OfferError> {
        tokio::time::timeout(timeout, self.fetch_offer_untimed()).await.map_err(|_| OfferError::Timeout)?
    }

    async fn fetch_offer_untimed(&self) -> Result<Offer, OfferError> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, _) = sender.send_request(request(Method::GET, OFFER_PATH), true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(OfferError::Malformed(format!("status {}", response.status())));
        }
        let body =
            collect(response.into_body(), MAX_OFFER).await?.ok_or_else(|| OfferError::Malformed("too large".into()))?;
        serde_json::from_slice(&body).map_err(|error| OfferError::Malformed(error.to_string()))
    }

    /// Sends a job in frames: its ticket, the client's body, and what earlier attempts have delivered. Returns when the
    /// provider has accepted or refused.
    pub async fn open_job(
        &self,
        path: &str,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
    ) -> Result<JobStream, OpenError> {
        let mut sender = self.sender.clone().ready().await?;
        JobStream::open(&mut sender, request(Method::POST, path), ticket, body, history).await
    }
}

fn request(method: Method, path: &str) -> Request<()> {
    // h2 wants an absolute URI; the authority means nothing inside a tunnel.
    let uri = format!("http://provider{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a path of our own makes a valid URI")
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
