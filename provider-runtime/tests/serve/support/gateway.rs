//! The gateway's side: challenge, tunnel, receipts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use hyper::client::conn::http2;
use hyper::rt::Executor;
use lumbung_openapi::earnings::{EARNINGS_PATH, EarningsStatement};
use lumbung_openapi::error::{ErrorBody, ErrorObject};
use lumbung_openapi::jws;
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, DEMAND_PATH, Demand, JOIN_SCHEME, JOIN_TYP, JoinClaims, RECEIPTS_PATH, REPLICA_HEADER,
    TUNNEL_PATH, TUNNEL_PROTOCOL,
};
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptVerdict, ReceiptVerdicts};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::eventually;
use super::tunnel::Tunnel;

/// A gateway for one test.
pub struct TestGateway {
    pub address: SocketAddr,
    pub state: Arc<GatewayState>,
    server: JoinHandle<()>,
}

/// What it was told, and what it is to answer.
#[derive(Default)]
pub struct GatewayState {
    /// Signed joins: who, and what they claim.
    pub joins: Mutex<Vec<(String, JoinClaims)>>,
    tunnels: Mutex<Vec<Tunnel>>,
    connections: Connections,
    /// Every batch that verified.
    pub batches: Mutex<Vec<Vec<Receipt>>>,
    /// What becomes of receipts; committed if not set.
    pub verdict: Mutex<Option<ReceiptVerdict>>,
    /// Refuses receipts' requests with this status.
    pub receipts_status: Mutex<Option<StatusCode>>,
    /// What it says of earnings; 404 if not set.
    pub earnings: Mutex<Option<EarningsStatement>>,
    /// How often it was asked for them.
    pub statements: AtomicUsize,
    /// What it says of the models of its catalogue; that there is no such page if not set.
    pub catalogue: Mutex<Option<Vec<Demand>>>,
    /// Refuses challenges with this status.
    pub challenge_status: Mutex<Option<StatusCode>>,
    /// What time it says that it is, if not this machine's.
    pub date: Mutex<Option<&'static str>>,
    /// Refuses tunnels with this status.
    pub tunnel_status: Mutex<Option<StatusCode>>,
}

impl TestGateway {
    /// On a free port.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// On that port, as after a restart.
    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<GatewayState>::default();
        let router = Router::new()
            .route(CHALLENGE_PATH, get(challenge))
            .route(TUNNEL_PATH, get(tunnel))
            .route(RECEIPTS_PATH, post(receipts))
            .route(EARNINGS_PATH, get(earnings))
            .route(&format!("{DEMAND_PATH}{{*id}}"), get(demand))
            .with_state(state.clone());
        // Nagle's algorithm would hold back every second write by 40 ms.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next tunnel that a provider opens, or the one it has opened.
    pub async fn tunnel(&self) -> Tunnel {
        eventually("a provider opens a tunnel", async || self.state.tunnels.lock().unwrap().pop()).await
    }

    /// Breaks every tunnel, as a gateway does that dies.
    pub fn break_tunnels(&self) {
        self.state.connections.abort();
    }

    /// Goes away: the port refuses, the tunnels break.
    pub async fn stop(self) -> SocketAddr {
        self.break_tunnels();
        self.server.abort();
        let _ = self.server.await;
        eventually("the port is free", async || TcpStream::connect(self.address).await.err()).await;
        self.address
    }

    /// Receipts that came so far, each as often as it came.
    pub fn receipts(&self) -> Vec<Receipt> {
        self.state.batches.lock().unwrap().concat()
    }

    /// Waits for so many receipts.
    pub async fn receipts_of(&self, count: usize) -> Vec<Receipt> {
        eventually("receipts are offered", async || Some(self.receipts()).filter(|all| all.len() >= count)).await
    }
}

/// The tasks that tunnels consist of: they break when all of them end.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Connections {
    fn abort(&self) {
        self.0.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Connections {
    fn execute(&self, future: F) {
        self.0.lock().unwrap().push(tokio::spawn(async move {
            future.await;
        }));
    }
}

async fn challenge(State(state): State<Arc<GatewayState>>) -> Response {
    if let Some(status) = *state.challenge_status.lock().unwrap() {
        return error(status);
    }
    let challenge = Json(Challenge { challenge: "sign-me".into(), expires_at: now() + 60 });
    match *state.date.lock().unwrap() {
        Some(date) => ([(header::DATE, date)], challenge).into_response(),
        None => challenge.into_response(),
    }
}

async fn tunnel(State(state): State<Arc<GatewayState>>, headers: HeaderMap, mut request: Request) -> Response {
    if let Some(status) = *state.tunnel_status.lock().unwrap() {
        return error(status);
    }
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!(header(header::UPGRADE), TUNNEL_PROTOCOL);
    assert!(header(header::CONNECTION).eq_ignore_ascii_case("upgrade"));
    let token = header(header::AUTHORIZATION).strip_prefix(JOIN_SCHEME).unwrap().trim();
    let key = jws::embedded_key(token).unwrap();
    let claims: JoinClaims = key.verify(JOIN_TYP, token).unwrap();
    state.joins.lock().unwrap().push((key.thumbprint(), claims));

    let upgrade = hyper::upgrade::on(&mut request);
    let connections = state.connections.clone();
    connections.clone().execute(async move {
        let (sender, connection) = http2::handshake(connections, upgrade.await.unwrap()).await.unwrap();
        state.tunnels.lock().unwrap().push(Tunnel::new(sender, key.thumbprint()));
        let _ = connection.await;
    });
    let switch = [
        (header::CONNECTION.as_str(), "upgrade"),
        (header::UPGRADE.as_str(), TUNNEL_PROTOCOL),
        (REPLICA_HEADER, "replica-1"),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, switch).into_response()
}

async fn earnings(State(state): State<Arc<GatewayState>>) -> Response {
    state.statements.fetch_add(1, Ordering::SeqCst);
    match state.earnings.lock().unwrap().clone() {
        Some(statement) => Json(statement).into_response(),
        None => error(StatusCode::NOT_FOUND),
    }
}

async fn demand(State(state): State<Arc<GatewayState>>, Path(id): Path<String>) -> Response {
    let Some(catalogue) = state.catalogue.lock().unwrap().clone() else { return StatusCode::NOT_FOUND.into_response() };
    match catalogue.into_iter().find(|demand| demand.model == id) {
        Some(demand) => Json(demand).into_response(),
        None => (StatusCode::NOT_FOUND, r#"{"error":{"code":"model_not_found"}}"#).into_response(),
    }
}

async fn receipts(State(state): State<Arc<GatewayState>>, Json(batch): Json<ReceiptBatch>) -> Response {
    if let Some(status) = *state.receipts_status.lock().unwrap() {
        return error(status);
    }
    batch.verify().unwrap();
    let verdict = state.verdict.lock().unwrap().clone().unwrap_or(ReceiptVerdict::Committed);
    let verdicts = vec![verdict; batch.receipts.len()];
    state.batches.lock().unwrap().push(batch.receipts);
    Json(ReceiptVerdicts { verdicts }).into_response()
}

fn error(status: StatusCode) -> Response {
    let error = ErrorObject { message: "not now".into(), kind: "test".into(), param: None, code: None };
    (status, [(header::RETRY_AFTER, "1")], Json(ErrorBody { error })).into_response()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
