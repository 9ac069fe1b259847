//! The connection to another gateway, which is kept up as long as that gateway is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use h2::client::SendRequest;
use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use lumbung_telemetry::trace::Context;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::badge::{Badge, BadgeError};
use super::tls::PeerTls;
use super::{BoxedIo, HELLO_PATH, PROVIDER_HEADER};
use crate::domain::ids::{ProviderId, ReplicaId};
use crate::fleet::clock::unix_secs;
use crate::fleet::job::{JobStream, OpenError, Origin};
use crate::fleet::tunnel::{client_builder, collect, request, tell_trace};

/// How long a connection may take to be there, handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How often a connection is tried with a ping, and how long the answer may take: a gateway that was frozen or cut off is
/// noticed before its clients give up.
const PING_EVERY: Duration = Duration::from_millis(500);
const PONG_WITHIN: Duration = Duration::from_secs(2);
/// The pauses between attempts.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long a job waits for a connection that is being made for the first time, or for a free stream.
const PATIENCE: Duration = Duration::from_secs(1);
/// A welcome larger than this is none.
const MAX_WELCOME: usize = 4 << 10;

/// Another gateway, and the connection to it.
pub struct Peer {
    /// Which one.
    pub replica: ReplicaId,
    address: String,
    /// `None` while there is no connection.
    sender: ArcSwapOption<SendRequest<Bytes>>,
    /// Whether jobs may be sent: also before the first connection is there.
    is_open: AtomicBool,
    /// Told of every change.
    changed: watch::Sender<()>,
    keeper: ArcSwapOption<AbortHandle>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("not within {CONNECT_WITHIN:?}")]
    Timeout,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] h2::Error),
    #[error("it refuses with status {0}")]
    Refused(StatusCode),
    #[error("its welcome is {0}")]
    Badge(#[from] BadgeError),
}

/// A connection that has been made.
struct Dialled {
    sender: SendRequest<Bytes>,
    ping: h2::PingPong,
    driver: Driver,
}

/// Drives a connection, until it ends or this is dropped.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Peer {
    /// The gateway at an address (`host:port`). A connection is kept up from now until this is [closed](Self::close).
    pub fn start(replica: ReplicaId, address: String, badge: Arc<Badge>, tls: Option<PeerTls>) -> Arc<Self> {
        let peer = Arc::new(Self {
            replica,
            address,
            sender: ArcSwapOption::empty(),
            is_open: AtomicBool::new(true),
            changed: watch::Sender::new(()),
            keeper: ArcSwapOption::empty(),
        });
        let keeper = tokio::spawn(keep_up(peer.clone(), badge, tls));
        peer.keeper.store(Some(Arc::new(keeper.abort_handle())));
        peer
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether jobs may be sent.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// No more jobs; those that run may end.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::Release);
        if let Some(keeper) = self.keeper.load_full() {
            keeper.abort();
        }
        self.sender.store(None);
    }

    /// Sends a job for `provider`, as [`Tunnel::open_job`](crate::fleet::tunnel::Tunnel::open_job) does.
    pub async fn open_job(
        &self,
        provider: &ProviderId,
        path: &str,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
        trace: Option<Context>,
    ) -> Result<JobStream, OpenError> {
        let lost = |why: &str| OpenError::Hop(format!("{}: {why}", self.replica));
        let sender = timeout(PATIENCE, self.sender()).await.ok().flatten().ok_or_else(|| lost("not connected"))?;
        let sender = timeout(PATIENCE, sender.ready()).await.map_err(|_| lost("no stream is free"))?;
        let mut sender = sender.map_err(|error| lost(&error.to_string()))?;
        let mut request = request(Method::POST, path);
        let name = http::HeaderValue::from_str(provider.as_str()).map_err(|_| lost("a provider's id is no header"))?;
        request.headers_mut().insert(PROVIDER_HEADER, name);
        tell_trace(&mut request, trace);
        JobStream::open(&mut sender, request, ticket, body, history, Origin::Peer).await
    }

    /// The connection; waits for the first one. `None` when there is none and none is to be waited for.
    async fn sender(&self) -> Option<SendRequest<Bytes>> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(sender) = &*self.sender.load() {
                return Some(SendRequest::clone(sender));
            }
            if !self.is_open() {
                return None;
            }
            changed.changed().await.ok()?;
        }
    }

    fn set(&self, sender: Option<SendRequest<Bytes>>) {
        self.is_open.store(sender.is_some(), Ordering::Release);
        self.sender.store(sender.map(Arc::new));
        self.changed.send_replace(());
    }
}

/// Connects, and again when the connection breaks.
async fn keep_up(peer: Arc<Peer>, badge: Arc<Badge>, tls: Option<PeerTls>) {
    let mut wait = FIRST_WAIT;
    loop {
        let dialled = timeout(CONNECT_WITHIN, dial(&peer, &badge, tls.as_ref())).await;
        match dialled.unwrap_or(Err(DialError::Timeout)) {
            Ok(dialled) => {
                info!(peer = %peer.replica, address = peer.address, "connected to another gateway");
                peer.set(Some(dialled.sender.clone()));
                wait = FIRST_WAIT;
                let why = watch_over(dialled).await;
                peer.set(None);
                warn!(peer = %peer.replica, why, "the connection to another gateway broke");
            }
            Err(error) => {
                peer.set(None);
                warn!(peer = %peer.replica, address = peer.address, %error, "another gateway cannot be reached");
            }
        }
        // Not all at the same moment, when one comes back.
        sleep(wait + jitter()).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Waits for the end of a connection, and ends it when nobody answers any more.
async fn watch_over(mut dialled: Dialled) -> &'static str {
    loop {
        tokio::select! {
            _ = &mut dialled.driver.0 => return "it was closed",
            () = sleep(PING_EVERY) => {}
        }
        match timeout(PONG_WITHIN, dialled.ping.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return "it was closed",
            Err(_) => return "no answer to a ping",
        }
    }
}

async fn dial(peer: &Peer, badge: &Badge, tls: Option<&PeerTls>) -> Result<Dialled, DialError> {
    let socket = TcpStream::connect(&peer.address).await?;
    socket.set_nodelay(true)?;
    let io: BoxedIo = match tls {
        Some(tls) => tls.connect(&peer.address, socket).await?,
        None => Box::new(socket),
    };
    let (sender, mut connection) = client_builder().handshake(io).await?;
    let ping = connection.ping_pong().ok_or_else(|| std::io::Error::other("no pings"))?;
    let driver = Driver(tokio::spawn(async move {
        let _ = connection.await; // why it ended, its streams say
    }));
    greet(peer, badge, sender.clone()).await?;
    Ok(Dialled { sender, ping, driver })
}

/// Each end proves who it is.
async fn greet(peer: &Peer, badge: &Badge, sender: SendRequest<Bytes>) -> Result<(), DialError> {
    let greeting = badge.greet(peer.replica, unix_secs());
    let mut hello: Request<()> = request(Method::POST, HELLO_PATH);
    let text = http::HeaderValue::from_str(&greeting.text).map_err(std::io::Error::other)?;
    hello.headers_mut().insert(AUTHORIZATION, text);
    let (response, _) = sender.ready().await?.send_request(hello, true)?;
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(DialError::Refused(response.status()));
    }
    let welcome = collect(response.into_body(), MAX_WELCOME).await?.unwrap_or_default();
    Ok(badge.is_welcome(&greeting, &String::from_utf8_lossy(&welcome)).await?)
}

fn jitter() -> Duration {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte); // without entropy: none
    Duration::from_millis(u64::from(byte[0]) / 4)
}
