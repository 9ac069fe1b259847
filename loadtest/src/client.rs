//! One HTTP/1.1 connection, kept open from request to request. Plain TCP: what TLS costs is the proxy's affair.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::stream::{Fault, StreamCheck};

/// Where the load goes, and what is asked.
#[derive(Clone, Debug)]
pub struct Target {
    authority: String,
    uri: Uri,
    authorization: String,
    body: Bytes,
    streams: bool,
}

/// What came back.
#[derive(Debug)]
pub enum Outcome {
    /// The answer, whole.
    Answered {
        /// When the first piece of the answer came.
        first_piece: Instant,
        /// As the answer's usage has it.
        completion_tokens: u64,
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
    pub fn new(base_url: &str, key: &str, request: &serde_json::Value) -> anyhow::Result<Self> {
        let base: Uri = base_url.parse().with_context(|| format!("'{base_url}' is no URL"))?;
        if base.scheme_str() != Some("http") {
            bail!("'{base_url}' must begin with http://; put the load behind the proxy that ends TLS");
        }
        let host = base.host().with_context(|| format!("'{base_url}' names no host"))?;
        let path = format!("{}/chat/completions", base.path().trim_end_matches('/'));
        Ok(Self {
            authority: format!("{host}:{}", base.port_u16().unwrap_or(80)),
            uri: path.parse()?,
            authorization: format!("Bearer {key}"),
            body: request.to_string().into(),
            streams: request["stream"] == true,
        })
    }

    fn request(&self) -> Request<Full<Bytes>> {
        Request::post(self.uri.clone())
            .header(HOST, &self.authority)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(self.body.clone()))
            .expect("headers of visible ASCII")
    }
}

/// A connection that is opened when it is first needed, and again after it was lost.
#[derive(Default)]
pub struct Client {
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Asks once and reads the answer to its end. `chunks` goes up by one for each streamed piece, as it arrives.
    pub async fn ask(&mut self, target: &Target, chunks: &AtomicU64) -> Outcome {
        match self.try_ask(target, chunks).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.connection = None;
                Outcome::Lost(format!("{error:#}"))
            }
        }
    }

    async fn try_ask(&mut self, target: &Target, chunks: &AtomicU64) -> anyhow::Result<Outcome> {
        let connection = match self.connection.take() {
            Some(open) if !open.is_closed() => self.connection.insert(open),
            _ => self.connection.insert(connect(&target.authority).await?),
        };
        connection.ready().await.context("the connection was closed")?;
        let response = connection.send_request(target.request()).await.context("no response")?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status != 200 {
            body.collect().await.context("an error's body was cut")?;
            return Ok(Outcome::Refused(status));
        }
        if !target.streams {
            let bytes = body.collect().await.context("the body was cut")?.to_bytes();
            return Ok(read_completion(&bytes));
        }
        let (mut check, mut first_piece) = (StreamCheck::default(), None);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.context("the stream was cut")?.into_data() else { continue };
            first_piece.get_or_insert_with(Instant::now);
            chunks.fetch_add(check.push(&data), Relaxed);
        }
        Ok(match check.finish() {
            Ok(completion_tokens) => {
                Outcome::Answered { first_piece: first_piece.unwrap_or_else(Instant::now), completion_tokens }
            }
            Err(fault) => Outcome::Broken(fault),
        })
    }
}

async fn connect(authority: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; what went wrong is told to whoever waits for a response.
    tokio::spawn(connection);
    Ok(sender)
}

#[derive(Deserialize)]
struct Completion {
    usage: CompletionUsage,
}

#[derive(Deserialize)]
struct CompletionUsage {
    completion_tokens: u64,
}

fn read_completion(bytes: &[u8]) -> Outcome {
    match serde_json::from_slice::<Completion>(bytes) {
        Ok(Completion { usage }) => {
            Outcome::Answered { first_piece: Instant::now(), completion_tokens: usage.completion_tokens }
        }
        Err(_) => Outcome::Broken(Fault::Malformed),
    }
}
