//! One HTTP/1.1 connection, kept open from request to request. Plain TCP: what TLS costs is the proxy's affair.

use std::time::Instant;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::{TcpSocket, lookup_host};

use crate::ask::{Ask, Reader};
use crate::stream::{Fault, StreamCheck, Usage};
use crate::tally::Live;

/// What the kernel may hold of an answer that its reader is slow to take.
const SLOW_READERS_BUFFER: u32 = 4 << 10;

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Target {
    authority: String,
    base: String,
    authorization: String,
}

/// What came back.
#[derive(Debug)]
pub enum Outcome {
    /// The answer, whole.
    Answered {
        /// When the head of the answer came.
        first_byte: Instant,
        /// When its first token came; of an answer in one piece, when all of it had come.
        first_token: Instant,
        /// What it used, as it says itself.
        usage: Usage,
    },
    /// The reader left, as it meant to.
    Left {
        /// The answer's id, if one had come.
        id: String,
        /// Tokens that had come.
        tokens: u64,
    },
    /// Another status than 200.
    Refused(u16),
    /// Status 200, and an answer that is not whole.
    Broken(Fault),
    /// The connection failed.
    Lost(String),
}

impl Target {
    /// `base_url` as an SDK has it, ending in `/v1`.
    pub fn new(base_url: &str, key: &str) -> anyhow::Result<Self> {
        let base: Uri = base_url.parse().with_context(|| format!("'{base_url}' is no URL"))?;
        if base.scheme_str() != Some("http") {
            bail!("'{base_url}' must begin with http://; put the load behind the proxy that ends TLS");
        }
        let host = base.host().with_context(|| format!("'{base_url}' names no host"))?;
        Ok(Self {
            authority: format!("{host}:{}", base.port_u16().unwrap_or(80)),
            base: base.path().trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {key}"),
        })
    }

    fn chat(&self, ask: &Ask) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::post(format!("{}/chat/completions", self.base));
        let request = request.header(HOST, &self.authority).header(AUTHORIZATION, &self.authorization);
        let request = match ask.traceparent {
            Some(trace) => request.header("traceparent", trace),
            None => request,
        };
        Ok(request.header(CONTENT_TYPE, "application/json").body(Full::new(ask.body.clone()))?)
    }

    /// Reads a document below the base URL, such as `/receipts/…`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = Request::get(format!("{}{path}", self.base));
        let request = request.header(HOST, &self.authority).header(AUTHORIZATION, &self.authorization);
        Connection::open(self, Reader::Steady).await?.call(request.body(Full::default())?).await
    }
}

/// An open connection.
pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Dials.
    pub async fn open(target: &Target, reader: Reader) -> anyhow::Result<Self> {
        let authority = &target.authority;
        let unreachable = || format!("cannot connect to {authority}");
        let address = lookup_host(authority).await.with_context(unreachable)?.next().with_context(unreachable)?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Reader::Slow(_) = reader {
            socket.set_recv_buffer_size(SLOW_READERS_BUFFER)?;
        }
        let stream = socket.connect(address).await.with_context(unreachable)?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; what went wrong is told to whoever waits for a response.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Whether another request may be sent.
    pub fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        self.0.ready().await.context("the connection was closed")?;
        self.0.send_request(request).await.context("no response")
    }

    /// Posts a document below the base URL, and reads the answer.
    pub async fn post(&mut self, target: &Target, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::post(format!("{}{path}", target.base)).header(CONTENT_TYPE, "application/json");
        let request = request.header(HOST, &target.authority).header(AUTHORIZATION, &target.authorization);
        self.call(request.body(Full::new(body.to_string().into()))?).await
    }

    async fn call(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Value> {
        let what = format!("{} {}", request.method(), request.uri());
        let response = self.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{what}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    /// Asks once and reads the answer to its end, or as far as its reader cares to. What arrives is counted in `live` as it
    /// does. A connection whose reader left must not be used again.
    pub async fn ask(&mut self, target: &Target, ask: &Ask, live: &Live) -> anyhow::Result<Outcome> {
        let response = self.send(target.chat(ask)?).await?;
        let first_byte = Instant::now();
        let status = response.status().as_u16();
        let body = response.into_body();
        if status != 200 {
            body.collect().await.context("an error's body was cut")?;
            return Ok(Outcome::Refused(status));
        }
        if ask.streams {
            return read_stream(body, ask.reader, first_byte, live).await;
        }
        let bytes = body.collect().await.context("the body was cut")?.to_bytes();
        Ok(match serde_json::from_slice(&bytes) {
            Ok(Completion { usage }) => Outcome::Answered { first_byte, first_token: Instant::now(), usage },
            Err(_) => Outcome::Broken(Fault::Malformed),
        })
    }
}

async fn read_stream(mut body: Incoming, reader: Reader, first_byte: Instant, live: &Live) -> anyhow::Result<Outcome> {
    let (mut check, mut first_token, mut last, mut tokens) = (StreamCheck::default(), None, None, 0);
    let mut pieces = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the stream was cut")?.into_data() else { continue };
        let now = Instant::now();
        let come = check.push(&data);
        pieces += come.pieces;
        live.count_chunks(come.pieces);
        if come.tokens > 0 {
            tokens += come.tokens;
            live.count_tokens(come.tokens);
            first_token.get_or_insert(now);
            if let Some(before) = last.replace(now) {
                live.count_pause(now - before);
            }
        }
        match reader {
            Reader::LeavesAfter(most) if pieces >= most => return Ok(Outcome::Left { id: check.id().into(), tokens }),
            Reader::Slow(pause) => tokio::time::sleep(pause).await,
            Reader::LeavesAfter(_) | Reader::Steady => {}
        }
    }
    Ok(match check.finish() {
        Ok(usage) => Outcome::Answered { first_byte, first_token: first_token.unwrap_or(first_byte), usage },
        Err(fault) => Outcome::Broken(fault),
    })
}

#[derive(Deserialize)]
struct Completion {
    usage: Usage,
}
