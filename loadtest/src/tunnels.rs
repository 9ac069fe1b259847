//! Many providers without engines, each with a tunnel of its own.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::StatusCode;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, JOIN_SCHEME, JOIN_TYP, JoinClaims, TUNNEL_PATH, TUNNEL_PROTOCOL,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stub::{Receipts, Stub, Trade};

/// How many join at a time.
const AT_ONCE: usize = 16;

/// Tunnels that are open as long as this.
pub struct Tunnels {
    port: u16,
    trade: Trade,
    receipts: Receipts,
    open: JoinSet<()>,
    _offering: JoinSet<()>,
}

impl Tunnels {
    /// None yet.
    pub fn new(port: u16, trade: Trade) -> anyhow::Result<Self> {
        let (receipts, offering) = Receipts::offer_at(&format!("http://127.0.0.1:{port}"))?;
        Ok(Self { port, trade, receipts, open: JoinSet::new(), _offering: offering })
    }

    /// Opens more, until there are so many, each of a provider of its own.
    pub async fn open(&mut self, count: usize) -> anyhow::Result<()> {
        let mut joining = JoinSet::new();
        for number in self.open.len()..count {
            if joining.len() >= AT_ONCE {
                self.serve_next(&mut joining).await?;
            }
            joining.spawn(join(self.port, self.stub(number)));
        }
        while !joining.is_empty() {
            self.serve_next(&mut joining).await?;
        }
        Ok(())
    }

    /// How many are open.
    pub fn count(&mut self) -> usize {
        while self.open.try_join_next().is_some() {}
        self.open.len()
    }

    fn stub(&self, number: usize) -> Arc<Stub> {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        Arc::new(Stub { key: SigningKey::from_seed(&seed), trade: self.trade, receipts: self.receipts.clone() })
    }

    async fn serve_next(&mut self, joining: &mut JoinSet<anyhow::Result<(Arc<Stub>, Upgraded)>>) -> anyhow::Result<()> {
        let (stub, tunnel) = joining.join_next().await.context("nobody joins")???;
        self.open.spawn(async move {
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.timer(TokioTimer::new());
            let answer = service_fn(|request| stub.clone().answer(request));
            // A tunnel that breaks is missing in the count.
            server.serve_connection(tunnel, answer).await.ok();
        });
        Ok(())
    }
}

/// A challenge, a signed answer, an upgrade.
async fn join(port: u16, stub: Arc<Stub>) -> anyhow::Result<(Arc<Stub>, Upgraded)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let host = format!("127.0.0.1:{port}");
    let get = |path: &str| Request::get(path.to_owned()).header(HOST, &host);

    let response = sender.send_request(get(CHALLENGE_PATH).body(Full::<Bytes>::default())?).await?;
    let challenge: Challenge = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    let claims = JoinClaims {
        aud: format!("http://{host}"),
        challenge: challenge.challenge,
        agent: concat!("loadtest/", env!("CARGO_PKG_VERSION")).into(),
    };
    let signed = stub.key.sign_with_jwk(JOIN_TYP, &claims);
    let request = get(TUNNEL_PATH).header(CONNECTION, "Upgrade").header(UPGRADE, TUNNEL_PROTOCOL);
    let request = request.header(AUTHORIZATION, format!("{JOIN_SCHEME} {signed}"));
    sender.ready().await?;
    let response = sender.send_request(request.body(Full::default())?).await?;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "no tunnel: status {}", response.status());
    Ok((stub, hyper::upgrade::on(response).await?))
}
