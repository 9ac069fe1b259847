//! The least gateway, in this process: a provider joins here as it does anywhere and hands over its receipts, which are
//! verified and then forgotten. What goes down its tunnel is in [`crate::direct`].

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lumbung_openapi::jws;
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, JOIN_SCHEME, JOIN_TYP, JoinClaims, RECEIPTS_PATH, REPLICA_HEADER, TUNNEL_PATH,
    TUNNEL_PROTOCOL,
};
use lumbung_openapi::receipt::{ReceiptBatch, ReceiptVerdict, ReceiptVerdicts};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use crate::direct::{REPLICA, Tunnel};
use crate::stub::now_secs;

/// What is to be signed: nobody else knows of this door.
const CHALLENGE: &str = "the only one";
/// How long it may be answered, in seconds.
const CHALLENGE_SECS: u64 = 60;

/// Where one provider joins.
pub struct Door {
    port: u16,
    joined: mpsc::Receiver<Tunnel>,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

struct State {
    joined: mpsc::Sender<Tunnel>,
    receipts: AtomicU64,
    /// What was first found to be wrong.
    fault: OnceLock<String>,
}

impl Door {
    /// On a free port.
    pub async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (sender, joined) = mpsc::channel(1);
        let state = Arc::new(State { joined: sender, receipts: AtomicU64::new(0), fault: OnceLock::new() });
        let mut serving = JoinSet::new();
        serving.spawn(state.clone().serve(listener));
        Ok(Self { port, joined, state, _serving: serving })
    }

    /// Its port on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The tunnel of the provider that joins.
    ///
    /// # Errors
    /// It was not there in time.
    pub async fn tunnel(&mut self, within: Duration) -> anyhow::Result<Tunnel> {
        let joined = tokio::time::timeout(within, self.joined.recv()).await;
        joined.context("no provider has joined in time")?.context("the door is closed")
    }

    /// Receipts that were taken so far.
    ///
    /// # Errors
    /// A provider did not join, or its receipts do not verify.
    pub fn receipts(&self) -> anyhow::Result<u64> {
        match self.state.fault.get() {
            None => Ok(self.state.receipts.load(Ordering::Relaxed)),
            Some(fault) => bail!("{fault}"),
        }
    }
}

impl State {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((connection, _)) = listener.accept().await {
            // A connection that cannot be set so is only slower, and none on loopback is.
            connection.set_nodelay(true).ok();
            let state = self.clone();
            let answer = service_fn(move |request| state.clone().answer(request));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(connection), answer);
            connections.spawn(serving.with_upgrades());
            while connections.try_join_next().is_some() {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let answered = match request.uri().path() {
            CHALLENGE_PATH => json(&Challenge { challenge: CHALLENGE.into(), expires_at: now_secs() + CHALLENGE_SECS }),
            TUNNEL_PATH => self.let_in(request).context("a provider does not join as it should"),
            RECEIPTS_PATH => self.take_receipts(request.into_body()).await.context("receipts are not in order"),
            _ => Ok(status(StatusCode::NOT_FOUND)),
        };
        Ok(answered.unwrap_or_else(|error| {
            self.note(&error);
            status(StatusCode::BAD_REQUEST)
        }))
    }

    /// Turns the connection round: after the 101 this process is the HTTP/2 client on it.
    fn let_in(self: &Arc<Self>, mut request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let token = request.headers().get(AUTHORIZATION).context("nothing signed")?.to_str()?;
        let token = token.strip_prefix(JOIN_SCHEME).context("another scheme")?.trim();
        let key = jws::embedded_key(token)?;
        let claims: JoinClaims = key.verify(JOIN_TYP, token)?;
        ensure!(claims.challenge == CHALLENGE, "another challenge");

        let upgrade = hyper::upgrade::on(&mut request);
        let state = self.clone();
        tokio::spawn(async move {
            let opened = async { Tunnel::open(TokioIo::new(upgrade.await?), key.thumbprint()).await };
            match opened.await {
                Ok((tunnel, connection)) => {
                    // A second one, which nobody wants, ends here.
                    state.joined.try_send(tunnel).ok();
                    // Whoever waits for an answer learns of its end.
                    connection.await.ok();
                }
                Err(error) => state.note(&error.context("the connection did not turn into a tunnel")),
            }
        });
        let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(TUNNEL_PROTOCOL));
        headers.insert(REPLICA_HEADER, HeaderValue::from_static(REPLICA));
        Ok(response)
    }

    /// Says that all of them are in the books. On another thread: a thousand at once would hold up the job that is timed.
    async fn take_receipts(&self, body: Incoming) -> anyhow::Result<Response<Full<Bytes>>> {
        let body = body.collect().await?.to_bytes();
        let verified = spawn_blocking(move || {
            let batch: ReceiptBatch = serde_json::from_slice(&body)?;
            batch.verify()?;
            anyhow::Ok(batch.receipts.len())
        });
        let count = verified.await??;
        self.receipts.fetch_add(count as u64, Ordering::Relaxed);
        json(&ReceiptVerdicts { verdicts: vec![ReceiptVerdict::Committed; count] })
    }

    fn note(&self, error: &anyhow::Error) {
        self.fault.get_or_init(|| format!("{error:#}"));
    }
}

fn json(body: &impl Serialize) -> anyhow::Result<Response<Full<Bytes>>> {
    let mut response = Response::new(Full::from(serde_json::to_vec(body)?));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
