//! Accepting connections: no delay on small writes, limits on headers and on how many there are, TLS where it is this
//! gateway's business, and a clean stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::{Method, Request};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use lumbung_openapi::endpoint::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{debug, warn};

use super::begun::Begun;
use super::flat::Flat;
use super::guard::Peer;
use super::layers::{answer_directly, for_browsers, is_of_a_browser};
use super::{Shared, chat};

/// With what HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How soon a connection that has sent a part of it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a client may take to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// How long a connection may be idle between requests, the head of the next one included, as hyper counts it. Longer than
/// nginx keeps one to its upstreams (60 s): a request that crosses a close on its way would be lost.
const IDLE_FOR: Duration = Duration::from_secs(75);
/// Where this gateway's health is told.
const HEALTH: &str = "/health/";
/// Connections at a time on which a draining gateway tells its health.
const MOST_ASK_FOR_HEALTH: usize = 64;

/// What every connection serves.
struct Served {
    shared: Arc<Shared>,
    router: Router,
    for_browsers: Router,
}

/// What a connection serves: each request with its peer's address.
#[derive(Clone)]
struct FromPeer {
    served: Arc<Served>,
    peer: Peer,
}

impl Service<Request<Incoming>> for FromPeer {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        if is_of_a_browser(&request) {
            return Box::pin(self.served.for_browsers.clone().call(request));
        }
        let Some(endpoint) = asked_of(&request) else { return Box::pin(self.served.router.clone().call(request)) };
        let served = self.served.clone();
        Box::pin(async move {
            let answer = |request, id| chat::answer(endpoint, &served.shared, id, request);
            Ok(answer_directly(&served.shared, endpoint.path(), request, answer).await)
        })
    }
}

/// The endpoint that a request is for: a `POST` to its very path.
fn asked_of<B>(request: &Request<B>) -> Option<Endpoint> {
    let path = request.uri().path();
    Endpoint::ALL.into_iter().find(|endpoint| request.method() == Method::POST && path == endpoint.path())
}

/// Serves until told to stop, then lets what is running end within `drain`. With `tls`, nothing is served without.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    max_connections: usize,
    stop: CancellationToken,
    drain: Duration,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_FOR);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let graceful = GracefulShutdown::new();
    let router = super::router(shared.clone());
    let served = Arc::new(Served { shared, for_browsers: for_browsers(router.clone()), router });
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = stop.cancelled() => break,
        };
        let Some((socket, peer)) = accepted else { continue };
        if graceful.count() >= max_connections {
            drop(socket);
            continue;
        }
        let service = FromPeer { peer: Peer(peer.ip()), served: served.clone() };
        // From here on the connection is counted.
        let watcher = graceful.watcher();
        let (tls, builder, stop) = (tls.clone(), builder.clone(), stop.clone());
        tokio::spawn(async move {
            match open(tls, socket, &stop).await {
                Some(Opened::Plain(socket)) => {
                    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
                    note_end(watcher.watch(connection).await);
                }
                Some(Opened::Tls(socket)) => {
                    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
                    note_end(watcher.watch(connection).await);
                }
                None => {}
            }
        });
    }
    let ended = tokio::time::timeout(drain, graceful.shutdown());
    tokio::select! {
        ended = ended => if ended.is_err() {
            warn!(drain_secs = drain.as_secs(), "connections were still open at the end of the drain");
        },
        () = tell_health(&listener, tls, &builder, served) => {}
    }
}

/// While what has begun comes to its end, the port still says how this gateway is, and nothing else: a proxy that got no
/// answer would take it for dead, and cut what runs. Whoever asks for anything else finds the connection closed before an
/// answer, as if nobody had listened, and goes to another gateway.
async fn tell_health(
    listener: &TcpListener,
    tls: Option<TlsAcceptor>,
    builder: &Builder<TokioExecutor>,
    served: Arc<Served>,
) {
    let mut asking = tokio::task::JoinSet::new();
    loop {
        let Some((socket, peer)) = accept(listener).await else { continue };
        while asking.try_join_next().is_some() {}
        if asking.len() >= MOST_ASK_FOR_HEALTH {
            continue;
        }
        let service = FromPeer { peer: Peer(peer.ip()), served: served.clone() };
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let answer = request.uri().path().starts_with(HEALTH).then(|| service.call(request));
            async move {
                match answer {
                    Some(answer) => Ok(answer.await.unwrap_or_else(|never| match never {})),
                    None => Err(std::io::Error::other("the gateway is about to end")),
                }
            }
        });
        let (tls, builder) = (tls.clone(), builder.clone());
        asking.spawn(async move {
            let answered = match open(tls, socket, &CancellationToken::new()).await {
                Some(Opened::Plain(socket)) => builder.serve_connection(TokioIo::new(socket), service).await,
                Some(Opened::Tls(socket)) => builder.serve_connection(TokioIo::new(socket), service).await,
                None => Ok(()),
            };
            note_end(answered);
        });
    }
}

/// The next connection; `None` if there was none after all.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((socket, peer)) => match socket.set_nodelay(true) {
            Ok(()) => Some((socket, peer)),
            Err(error) => {
                debug!(%error, "no TCP_NODELAY");
                None
            }
        },
        Err(error) => {
            // Out of file descriptors, say: others close meanwhile.
            warn!(%error, "connection not accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// A connection whose other end has begun to speak HTTP.
enum Opened {
    Plain(Flat<TcpStream>),
    Tls(Box<Begun<TlsStream<TcpStream>>>),
}

/// Whoever says nothing in time, or not before `stop`, or wants no TLS where there is TLS, gets no further.
async fn open(tls: Option<TlsAcceptor>, socket: TcpStream, stop: &CancellationToken) -> Option<Opened> {
    if !says_something(&socket, stop).await {
        return None;
    }
    let Some(tls) = tls else { return Some(Opened::Plain(Flat(socket))) };
    let socket = shake_hands(&tls, socket).await?;
    // hyper waits for the first bytes without a limit here, too.
    let begun = tokio::time::timeout(HEAD_WITHIN, Begun::read(socket, PREFACE));
    tokio::select! {
        biased;
        begun = begun => Some(Opened::Tls(Box::new(begun.ok()?.ok()?))),
        () = stop.cancelled() => None,
    }
}

fn note_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// Whether the other end says in time, and before `stop`, which protocol it speaks: hyper waits for that without a limit.
async fn says_something(socket: &TcpStream, stop: &CancellationToken) -> bool {
    let mut head = [0; PREFACE.len()];
    let speaks = async {
        loop {
            match socket.peek(&mut head).await {
                Ok(0) | Err(_) => return false,
                Ok(length) if length < PREFACE.len() && PREFACE.starts_with(&head[..length]) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(_) => return true,
            }
        }
    };
    tokio::select! {
        biased;
        speaks = tokio::time::timeout(HEAD_WITHIN, speaks) => speaks.unwrap_or(false),
        () = stop.cancelled() => false,
    }
}

/// TLS from here on; `None` if the other end does not want it, or takes too long.
async fn shake_hands(tls: &TlsAcceptor, socket: TcpStream) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(HEAD_WITHIN, tls.accept(socket)).await {
        Ok(Ok(socket)) => Some(socket),
        Ok(Err(error)) => {
            debug!(%error, "no TLS");
            None
        }
        Err(_) => {
            debug!("no TLS in time");
            None
        }
    }
}
