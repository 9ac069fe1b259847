//! A server that speaks OpenAI's API in one of the ways that servers do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A server for one test.
pub struct Upstream {
    pub address: SocketAddr,
    pub state: Arc<UpstreamState>,
}

/// What it was asked, and how it answers.
pub struct UpstreamState {
    /// Bodies and authorizations so far.
    pub requests: Mutex<Vec<(Value, String)>>,
    pub reply: Mutex<Reply>,
    /// Milliseconds before it answers at all.
    pub delay_ms: AtomicU64,
    /// Answers that were dropped before their end.
    pub cancelled: AtomicUsize,
}

/// How it answers.
#[derive(Clone)]
pub enum Reply {
    /// Refuses.
    Refusal(u16, &'static str),
    /// Answers with one document, whatever was asked.
    Document(Value),
    /// Sends these parts as they are, one after the other, and closes the connection.
    Parts(Vec<Vec<u8>>),
    /// The same, and then nothing while the connection stays open.
    PartsThenSilence(Vec<Vec<u8>>),
}

impl UpstreamState {
    async fn take_its_time(&self) {
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
    }
}

impl Upstream {
    pub async fn start(reply: Reply) -> Self {
        let state = Arc::new(UpstreamState {
            requests: Mutex::default(),
            reply: Mutex::new(reply),
            delay_ms: AtomicU64::new(0),
            cancelled: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(chat))
            .route("/v1/embeddings", post(embeddings))
            .route("/v1/models", get(models))
            .with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1/", self.address)
    }

    pub fn answer_with(&self, reply: Reply) {
        *self.state.reply.lock().unwrap() = reply;
    }

    pub fn take(&self, time: Duration) {
        self.state.delay_ms.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    pub fn last_request(&self) -> (Value, String) {
        self.state.requests.lock().unwrap().last().unwrap().clone()
    }

    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(Ordering::SeqCst)
    }
}

async fn models() -> Json<Value> {
    Json(json!({"object": "list", "data": [{"id": "upstream-name", "object": "model", "max_model_len": 2048}]}))
}

/// Vectors out of order, as a server may give them that works in batches.
async fn embeddings(State(state): State<Arc<UpstreamState>>, body: Bytes) -> Json<Value> {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let count = body["input"].as_array().map_or(1, Vec::len);
    state.requests.lock().unwrap().push((body, String::new()));
    state.take_its_time().await;
    let data: Vec<Value> = (0..count).rev().map(|at| json!({"index": at, "embedding": [at, 0.5]})).collect();
    Json(json!({"object": "list", "data": data, "usage": {"prompt_tokens": 9, "total_tokens": 9}}))
}

async fn chat(State(state): State<Arc<UpstreamState>>, headers: HeaderMap, body: Bytes) -> Response {
    let key = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    state.requests.lock().unwrap().push((serde_json::from_slice(&body).unwrap(), key));
    state.take_its_time().await;
    let reply = state.reply.lock().unwrap().clone();
    let (parts, stays_open) = match reply {
        Reply::Refusal(status, body) => return (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Reply::Document(document) => return Json(document).into_response(),
        Reply::Parts(parts) => (parts, false),
        Reply::PartsThenSilence(parts) => (parts, true),
    };
    let guard = Guard { state, is_whole: false };
    let parts = stream::iter(parts).then(async |part| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        part
    });
    let silence = stream::once(async move {
        if stays_open {
            std::future::pending::<()>().await;
        }
        Vec::new()
    });
    let whole = stream::unfold((Box::pin(parts.chain(silence)), guard), async |(mut parts, mut guard)| {
        match parts.next().await {
            Some(part) => Some((Ok::<_, std::convert::Infallible>(part), (parts, guard))),
            None => {
                guard.is_whole = true;
                None
            }
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(whole)).into_response()
}

struct Guard {
    state: Arc<UpstreamState>,
    is_whole: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_whole {
            self.state.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A stream's text, in parts of one event each.
pub fn events(events: &[Value]) -> Vec<Vec<u8>> {
    events.iter().map(|event| format!("data: {event}\n\n").into_bytes()).collect()
}

/// A chunk with text.
pub fn text(text: &str) -> Value {
    json!({"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
}

/// A chunk that ends the first choice.
pub fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

/// The usage's own chunk.
pub fn usage(prompt: u32, completion: u32) -> Value {
    json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": {"cached_tokens": 2}}})
}
