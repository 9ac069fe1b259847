//! Providers that are there, and do nothing: each holds a tunnel open and answers the gateway's polls. What they offer is a
//! model that nobody asks for.

use std::convert::Infallible;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, JOIN_SCHEME, JOIN_TYP, JoinClaims, ModelOffer, OFFER_PATH, Offer, Resume, TUNNEL_PATH,
    TUNNEL_PROTOCOL,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How many join at a time.
const AT_ONCE: usize = 16;

/// Tunnels that are open as long as this.
pub struct Tunnels(JoinSet<()>);

impl Tunnels {
    /// So many, each of a provider of its own.
    pub async fn open(port: u16, count: usize) -> anyhow::Result<Self> {
        let (mut open, mut joining) = (JoinSet::new(), JoinSet::new());
        for number in 0..count {
            if joining.len() >= AT_ONCE {
                serve_next(&mut joining, &mut open).await?;
            }
            joining.spawn(join(port, number));
        }
        while !joining.is_empty() {
            serve_next(&mut joining, &mut open).await?;
        }
        Ok(Self(open))
    }

    /// How many are open.
    pub fn count(&mut self) -> usize {
        while self.0.try_join_next().is_some() {}
        self.0.len()
    }
}

async fn serve_next(joining: &mut JoinSet<anyhow::Result<Upgraded>>, open: &mut JoinSet<()>) -> anyhow::Result<()> {
    let tunnel = joining.join_next().await.context("nobody joins")???;
    open.spawn(async move {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.timer(TokioTimer::new());
        // A tunnel that breaks is missing in the count.
        server.serve_connection(tunnel, service_fn(answer)).await.ok();
    });
    Ok(())
}

/// A challenge, a signed answer, an upgrade.
async fn join(port: u16, number: usize) -> anyhow::Result<Upgraded> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let host = format!("127.0.0.1:{port}");
    let get = |path: &str| Request::get(path.to_owned()).header(HOST, &host);

    let response = sender.send_request(get(CHALLENGE_PATH).body(Full::<Bytes>::default())?).await?;
    let challenge: Challenge = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    let claims = JoinClaims {
        aud: format!("http://{host}"),
        challenge: challenge.challenge,
        agent: concat!("loadtest/", env!("CARGO_PKG_VERSION")).into(),
    };
    let signed = SigningKey::from_seed(&seed).sign_with_jwk(JOIN_TYP, &claims);
    let request = get(TUNNEL_PATH).header(CONNECTION, "Upgrade").header(UPGRADE, TUNNEL_PROTOCOL);
    let request = request.header(AUTHORIZATION, format!("{JOIN_SCHEME} {signed}"));
    sender.ready().await?;
    let response = sender.send_request(request.body(Full::default())?).await?;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "no tunnel: status {}", response.status());
    Ok(hyper::upgrade::on(response).await?)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_poll = request.uri().path() == OFFER_PATH;
    let body = if is_poll { offer() } else { Bytes::new() };
    let mut response = Response::new(Full::new(body));
    if !is_poll {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

fn offer() -> Bytes {
    let model = ModelOffer {
        model: "lumbung/idle".into(),
        weights_digest: String::new(),
        quantization: "unknown".into(),
        context_length: 8192,
        slots: 1,
        ask: TokenPrice::default(),
        supported_parameters: Vec::new(),
        resume: Resume::None,
    };
    let offer = Offer { models: vec![model], ..Offer::default() };
    serde_json::to_vec(&offer).unwrap_or_default().into()
}
