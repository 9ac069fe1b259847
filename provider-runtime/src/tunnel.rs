//! Keeping a tunnel up: dial, serve HTTP/2 on it, dial again when it ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lumbung_link::{Patience, gather};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::provider::{MOVE_PATH, OFFER_PATH, REPLICAS_HEADER, STANDING_HEADER};
use reqwest::Upgraded;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::gateway::causes;
use crate::identity::Identity;
use crate::job;
use crate::join::{JoinError, Joined, join};
use crate::node::{Connected, Node};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A tunnel that was up for so long was a good one: the next wait starts from the beginning.
const GOOD_TUNNEL: Duration = Duration::from_secs(30);
/// A provider that is banned, or dials the wrong address, stays so until a person acts.
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// The longest `retry-after` that is heeded.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// How often a gateway that has a tunnel already is dialled again in a row, and the pauses between and after.
const DUPLICATE_DIALS: u32 = 5;
const DUPLICATE_WAIT: Duration = Duration::from_millis(300);
const NO_OTHER_WAIT: Duration = Duration::from_secs(30);
/// What a drained tunnel may take to send what it still has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps one tunnel up until `stop`, of `most` that lead to different gateways where they can: this is the one with that
/// `number`. Jobs that still run then are cut off.
pub async fn keep_up(node: Arc<Node>, identity: Arc<Identity>, number: usize, most: usize, stop: CancellationToken) {
    let (mut backoff, mut left) = (Backoff::new(FIRST_WAIT, LONGEST_WAIT), JoinSet::new());
    let (mut turn, mut duplicates) = (number, 0);
    loop {
        let dialling = tokio::select! {
            () = stop.cancelled() => break,
            dialling = node.room_for_tunnel(most) => dialling,
        };
        let address = node.gateway.address_in_turn(turn);
        turn += 1;
        let wait = tokio::select! {
            () = stop.cancelled() => break,
            joined = join(&node.gateway, address, &identity.key) => match joined {
                Ok(joined) => match node.connect(&joined.replica) {
                    Some(connected) => {
                        drop(dialling);
                        let up_since = Instant::now();
                        duplicates = 0;
                        let moves = serve_here(&node, joined, connected, &stop, &mut left).await;
                        if moves || up_since.elapsed() >= GOOD_TUNNEL {
                            backoff.reset();
                        }
                        backoff.next_wait()
                    }
                    None => {
                        drop(dialling);
                        duplicates += 1;
                        wait_after_duplicate(&joined.replica, duplicates)
                    }
                },
                Err(error) => {
                    drop(dialling);
                    wait_after(&error, &mut backoff)
                }
            },
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    left.join_all().await;
}

/// Serves a tunnel until it ends, or until its gateway says that it is about to stop: then what runs on it goes on in
/// `left`, another gateway can be dialled, and this returns `true`.
async fn serve_here(
    node: &Arc<Node>,
    joined: Joined,
    connected: Connected,
    stop: &CancellationToken,
    left: &mut JoinSet<()>,
) -> bool {
    let Joined { io, replica } = joined;
    let moving = CancellationToken::new();
    while left.try_join_next().is_some() {}
    let serving = serve(node.clone(), io, replica.clone(), moving.clone(), stop.clone());
    let (ended, has_ended) = oneshot::channel::<()>();
    left.spawn(async move {
        serving.await;
        drop(ended);
    });
    let moves = tokio::select! {
        _ = has_ended => false,
        () = moving.cancelled() => true,
    };
    if moves {
        tracing::info!(replica, "this gateway is about to stop: dialling another");
    }
    drop(connected);
    moves
}

/// Behind a proxy, the next dial may lead to another gateway; after some it seems that there is none.
fn wait_after_duplicate(replica: &str, duplicates: u32) -> Duration {
    let base = if duplicates.is_multiple_of(DUPLICATE_DIALS) { NO_OTHER_WAIT } else { DUPLICATE_WAIT };
    let wait = base.mul_f64(rand::random_range(0.5..=1.0));
    tracing::debug!(replica, wait_ms = wait.as_millis() as u64, "a second tunnel to the same gateway is no use");
    wait
}

fn wait_after(error: &JoinError, backoff: &mut Backoff) -> Duration {
    let wait = backoff.next_wait();
    match error {
        JoinError::Stale(_) | JoinError::Failed(_) => {
            tracing::warn!(wait_ms = wait.as_millis() as u64, "no tunnel: {error}");
            wait
        }
        JoinError::Later { after, .. } => {
            let wait = wait.max(after.unwrap_or_default().min(LONGEST_RETRY_AFTER));
            tracing::info!(wait_ms = wait.as_millis() as u64, "no tunnel: {error}");
            wait
        }
        JoinError::Refused(_) => {
            let wait = REFUSED_WAIT + wait;
            tracing::error!(wait_ms = wait.as_millis() as u64, "{error}. Serving nothing until its operator allows it");
            wait
        }
    }
}

/// Serves a tunnel until it ends, or until `stop`.
async fn serve(node: Arc<Node>, io: Upgraded, replica: String, moving: CancellationToken, stop: CancellationToken) {
    tracing::info!(replica, "tunnel is up");
    let service = TowerToHyperService::new(router(node.clone(), replica.clone(), moving));
    let (io, writer) = gather(io, Patience::OneTurn);
    let serving = async {
        let connection = http2_server().serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            // What still runs when the time to finish is over is cut off.
            () = stop.cancelled() => match node.models.running() > 0 {
                true => Ok(()),
                false => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(CLOSE_TIMEOUT, connection.as_mut()).await.unwrap_or(Ok(()))
                }
            },
        }
    };
    match writer.drive(serving).await {
        Ok(()) => tracing::info!(replica, "tunnel closed"),
        Err(error) => tracing::warn!(replica, "tunnel broke: {}", causes(&error)),
    }
}

/// What a tunnel serves: the gateway's poll and its word that it is about to stop (`moving`), and jobs at the path that the client used.
fn router(node: Arc<Node>, replica: String, moving: CancellationToken) -> Router {
    let offer = move |State(node): State<Arc<Node>>, headers: HeaderMap| {
        node.note_asked(&replica);
        let replicas = headers.get(REPLICAS_HEADER).and_then(|count| count.to_str().ok()?.parse().ok());
        node.count_replicas(replicas.unwrap_or(1));
        // Shown to people, so only what can be a word.
        let standing = headers.get(STANDING_HEADER).and_then(|standing| standing.to_str().ok());
        let is_word = |text: &&str| text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_lowercase());
        standing.filter(is_word).into_iter().for_each(|standing| node.set_standing(standing));
        std::future::ready(Json(node.offer()))
    };
    let move_on = async move || {
        moving.cancel();
        StatusCode::NO_CONTENT
    };
    let router = Router::new().route(OFFER_PATH, get(offer)).route(MOVE_PATH, post(move_on));
    let route = |router: Router<Arc<Node>>, endpoint: Endpoint| {
        router.route(endpoint.path(), post(move |node, request| job::serve(endpoint, node, request)))
    };
    Endpoint::ALL.into_iter().fold(router, route).with_state(node)
}

fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        // A dead gateway is noticed, and the path through a NAT kept open.
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        // Clients that leave in a burst are ordinary here; with h2's limit of 20 they end the tunnel (ENHANCE_YOUR_CALM).
        // As many jobs as there may be slots, and room for the gateway's polls: unanswered, they would end the tunnel.
        .max_concurrent_streams(4096 + 64)
        .max_pending_accept_reset_streams(8192)
        .max_local_error_reset_streams(None)
        // The connection's window is far above a stream's, so that unread requests do not stall the others.
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(64 << 20)
        .max_send_buf_size(128 << 10)
        .max_header_list_size(16 << 10)
        // The gateway knows what time it is.
        .auto_date_header(false);
    server
}
