//! Accepting connections: no delay on small writes, limits on headers and on how many there are, TLS where it is this
//! gateway's business, and a clean stop.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::guard::Peer;
use super::layers::{for_browsers, is_of_a_browser};

/// With what HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How soon a connection that has sent a part of it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a client may take to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// What a connection serves: the routes, each request with its peer's address.
#[derive(Clone)]
struct FromPeer {
    router: Router,
    for_browsers: Router,
    peer: Peer,
}

impl tower::Service<Request<Incoming>> for FromPeer {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // as the router itself
    }

    fn call(&mut self, mut request: Request<Incoming>) -> RouteFuture<Infallible> {
        request.extensions_mut().insert(self.peer);
        match is_of_a_browser(&request) {
            true => self.for_browsers.call(request),
            false => self.router.call(request),
        }
    }
}

/// Serves until told to stop, then lets what is running end within `drain`. With `tls`, nothing is served without.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    max_connections: usize,
    stop: CancellationToken,
    drain: Duration,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
    let graceful = GracefulShutdown::new();
    let served =
        FromPeer { for_browsers: for_browsers(router.clone()), router, peer: Peer(Ipv4Addr::UNSPECIFIED.into()) };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, say: others close meanwhile.
                warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if graceful.count() >= max_connections {
            drop(socket);
            continue;
        }
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "no TCP_NODELAY");
            continue;
        }
        let service = TowerToHyperService::new(FromPeer { peer: Peer(peer.ip()), ..served.clone() });
        // From here on the connection is counted.
        let watcher = graceful.watcher();
        let Some(tls) = &tls else {
            let (builder, stop) = (builder.clone(), stop.clone());
            tokio::spawn(async move {
                if !says_something(&socket, &stop).await {
                    return;
                }
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
                note_end(watcher.watch(connection).await);
            });
            continue;
        };
        let (tls, builder, stop) = (tls.clone(), builder.clone(), stop.clone());
        tokio::spawn(async move {
            if !says_something(&socket, &stop).await {
                return;
            }
            let Some(socket) = shake_hands(&tls, socket).await else { return };
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
            note_end(watcher.watch(connection).await);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        warn!(drain_secs = drain.as_secs(), "connections were still open at the end of the drain");
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
