//! Where other gateways connect: whoever has proved that it is one may pass on jobs for the providers of this one's tunnels.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use lumbung_telemetry::trace::{Context, Kind, Span, TRACEPARENT};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::badge::Badge;
use super::splice::splice;
use super::tls::PeerTls;
use super::{BoxedIo, HELLO_PATH, MAX_STREAMS, PEER_HEADER, PROVIDER_HEADER};
use crate::domain::ids::{ProviderId, ReplicaId};
use crate::fleet::clock::{unix_micros, unix_secs};
use crate::fleet::tunnel::{CONNECTION_WINDOW, MAX_RESET_STREAMS, STREAM_WINDOW, Tunnel};

/// Connections that have not proved yet whose they are: strangers cannot take more than this.
const MAX_STRANGERS: usize = 64;
/// How long that may take.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// How long a provider's tunnel may take to have a stream free.
const STREAM_WITHIN: Duration = Duration::from_secs(1);

/// This gateway's tunnels by provider: those that other gateways may use.
#[derive(Default)]
pub struct Tunnels(RwLock<HashMap<ProviderId, Arc<Tunnel>>>);

impl Tunnels {
    pub(in crate::fleet) fn set(&self, provider: &ProviderId, tunnel: Option<Arc<Tunnel>>) {
        let mut tunnels = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match tunnel {
            Some(tunnel) => tunnels.insert(provider.clone(), tunnel),
            None => tunnels.remove(provider),
        };
    }

    fn to(&self, provider: &ProviderId) -> Option<Arc<Tunnel>> {
        let tunnels = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tunnels.get(provider).filter(|tunnel| tunnel.is_open()).cloned()
    }
}

/// Serves other gateways until `stop`; returns when what they had begun by then has ended.
pub async fn serve(
    listener: TcpListener,
    tunnels: Arc<Tunnels>,
    badge: Arc<Badge>,
    tls: Option<PeerTls>,
    stop: CancellationToken,
) {
    let (strangers, mut tasks) = (Arc::new(Semaphore::new(MAX_STRANGERS)), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                warn!(%error, "a gateway's connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = strangers.clone().try_acquire_owned() else { continue };
        let (tunnels, badge, tls, stop) = (tunnels.clone(), badge.clone(), tls.clone(), stop.clone());
        tasks.spawn(async move {
            match timeout(HELLO_WITHIN, welcome(socket, &badge, tls.as_ref())).await {
                Ok(Ok((peer, connection))) => attend(peer, connection, place, &tunnels, &stop).await,
                Ok(Err(error)) => warn!(%error, "a connection to the gateways' port is refused"),
                Err(_) => debug!("a connection to the gateways' port said nothing in time"),
            }
        });
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

type Accepted = Connection<BoxedIo, Bytes>;

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] h2::Error),
    #[error("it ended before it said hello")]
    Silent,
    #[error("its first request is no hello")]
    NoHello,
    #[error("its hello is {0}")]
    Badge(#[from] super::badge::BadgeError),
}

/// Waits for a connection's hello, and answers it.
async fn welcome(socket: TcpStream, badge: &Badge, tls: Option<&PeerTls>) -> Result<(ReplicaId, Accepted), Refusal> {
    socket.set_nodelay(true)?;
    let io: BoxedIo = match tls {
        Some(tls) => tls.accept(socket).await?,
        None => Box::new(socket),
    };
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(None)
        .max_header_list_size(16 << 10)
        .handshake(io)
        .await?;
    let (request, mut respond) = connection.accept().await.ok_or(Refusal::Silent)??;
    let text = request.headers().get(AUTHORIZATION).and_then(|text| text.to_str().ok());
    let said = match text {
        Some(text) if request.uri().path() == HELLO_PATH => {
            badge.welcome(text, unix_secs()).await.map_err(Refusal::Badge)
        }
        _ => Err(Refusal::NoHello),
    };
    match said {
        Ok((peer, welcome)) => {
            respond.send_response(Response::new(()), false)?.send_data(welcome.into(), true)?;
            Ok((peer, connection))
        }
        Err(refusal) => {
            refuse(&mut respond, StatusCode::UNAUTHORIZED);
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {} // what it asks beside is not looked at; the caller's time limit ends it
            Err(refusal)
        }
    }
}

/// Serves a gateway's jobs until it goes away.
async fn attend(
    peer: ReplicaId,
    mut connection: Accepted,
    place: OwnedSemaphorePermit,
    tunnels: &Arc<Tunnels>,
    stop: &CancellationToken,
) {
    drop(place); // no stranger any more
    info!(%peer, "another gateway is connected");
    let mut stopping = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => drop(tokio::spawn(pass(tunnels.clone(), request, respond))),
            Some(Err(error)) => {
                debug!(%peer, %error, "the connection from another gateway broke");
                break;
            }
            None => break,
        }
    }
    info!(%peer, "another gateway is no longer connected");
}

/// Passes one job on to its provider.
async fn pass(tunnels: Arc<Tunnels>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let provider = request.headers().get(PROVIDER_HEADER).and_then(|id| id.to_str().ok()?.parse().ok());
    let (Some(provider), &Method::POST) = (provider, request.method()) else {
        return refuse(&mut respond, StatusCode::BAD_REQUEST);
    };
    let Some(tunnel) = tunnels.to(&provider) else { return refuse(&mut respond, StatusCode::MISDIRECTED_REQUEST) };
    let path = request.uri().path().to_owned();
    // This gateway's part of the trace; one that tells nobody passes on the asker's.
    let (trace, began_us) = (Context::follow(request.headers()), unix_micros());
    let told = trace.map(|trace| trace.header()).or_else(|| request.headers().get(TRACEPARENT).cloned());
    let opened = tokio::select! {
        opened = timeout(STREAM_WITHIN, tunnel.pass_on(&path, told)) => opened,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    match opened {
        Ok(Ok((answer, to_provider))) => splice(request.into_body(), to_provider, answer, respond).await,
        Ok(Err(error)) => {
            debug!(%provider, %error, "a tunnel did not take a job of another gateway's");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
        Err(_) => refuse(&mut respond, StatusCode::SERVICE_UNAVAILABLE),
    }
    if let Some(trace) = trace {
        let span = Span::new(trace, Kind::Server, "pass on".into(), began_us, unix_micros());
        span.with("http.route", path).with("lumbung.provider.id", provider.to_string()).send();
    }
}

/// Says no in this gateway's own name.
fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(PEER_HEADER, HeaderValue::from_static("refused"));
    drop(respond.send_response(response, true)); // it may have gone
}
