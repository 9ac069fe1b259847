//! An OpenAI-compatible server such as people run beside a provider: it notes what it is asked, and answers what it is told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A server for one test.
pub struct Sidecar {
    address: SocketAddr,
    state: Arc<Shared>,
}

struct Shared {
    /// Bodies so far, as they came.
    asked: Mutex<Vec<String>>,
    /// A document's choices and usage.
    answer: Mutex<Value>,
}

impl Sidecar {
    pub async fn start() -> Self {
        let state = Arc::new(Shared { asked: Mutex::default(), answer: Mutex::new(said("Padi.", json!({}))) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .route("/v1/completions", post(answer))
            .route("/asked", get(last_asked))
            .layer(DefaultBodyLimit::disable())
            .with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, state }
    }

    /// Where its API is.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where clients can look at the last body.
    pub fn asked_url(&self) -> String {
        format!("http://{}/asked", self.address)
    }

    /// From now on it answers with these choices and this usage.
    pub fn answer_with(&self, answer: Value) {
        *self.state.answer.lock().expect("no panic") = answer;
    }

    /// The last body, as it came.
    pub fn asked(&self) -> String {
        self.state.asked.lock().expect("no panic").last().expect("it was asked").clone()
    }

    /// How often it was asked.
    pub fn count(&self) -> usize {
        self.state.asked.lock().expect("no panic").len()
    }
}

/// One message, and the usage.
pub fn said(text: &str, usage: Value) -> Value {
    json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": usage})
}

async fn last_asked(State(state): State<Arc<Shared>>) -> String {
    state.asked.lock().expect("no panic").last().cloned().unwrap_or_default()
}

async fn answer(State(state): State<Arc<Shared>>, body: Bytes) -> Response {
    let text = String::from_utf8(body.to_vec()).expect("text");
    let asked: Value = serde_json::from_str(&text).expect("JSON");
    state.asked.lock().expect("no panic").push(text);
    let answer = state.answer.lock().expect("no panic").clone();
    if asked["stream"] != true {
        return Json(answer).into_response();
    }
    let event = |event: Value| format!("data: {event}\n\n");
    let mut events: String = answer["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .cloned()
        .map(|mut choice| {
            let members = choice.as_object_mut().expect("an object");
            if let Some(message) = members.remove("message") {
                members.insert("delta".into(), message);
            }
            event(json!({"object": "chat.completion.chunk", "choices": [choice]}))
        })
        .collect();
    events += &event(json!({"choices": [], "usage": answer["usage"]}));
    ([(CONTENT_TYPE, "text/event-stream")], events + "data: [DONE]\n\n").into_response()
}
