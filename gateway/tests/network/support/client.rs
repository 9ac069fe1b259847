//! A client that sees every byte.

use futures_util::StreamExt;
use lumbung_gateway::domain::ids::AccountId;
use lumbung_openapi::reply::{ChatCompletion, ChatCompletionChunk, Usage};
use serde_json::{Value, json};

use super::MODEL;

pub struct Client {
    pub base: String,
    pub key: String,
    pub account: AccountId,
    pub http: reqwest::Client,
}

/// A whole stream, taken apart.
#[derive(Debug, Default)]
pub struct Streamed {
    pub id: String,
    pub text: String,
    pub usage: Option<Usage>,
    pub error: Option<Value>,
    pub done: bool,
    pub events: usize,
    /// Text and reason to end, choice by choice.
    choices: Vec<(String, Option<String>)>,
}

impl Client {
    pub fn new(base: String, key: String, account: AccountId) -> Self {
        Self { base, key, account, http: reqwest::Client::new() }
    }

    /// A request for the scripted model, with more members beside.
    pub fn body(question: &str, more: Value) -> Value {
        let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": question}]});
        let members = body.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        body
    }

    pub async fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.http.post(format!("{}/v1/chat/completions", self.base)).bearer_auth(&self.key);
        request.header("content-type", "application/json").body(body).send().await.expect("the gateway answers")
    }

    pub async fn ask(&self, question: &str, more: Value) -> ChatCompletion {
        let response = self.post(Self::body(question, more).to_string()).await;
        let status = response.status();
        let text = response.text().await.expect("a body");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("a completion")
    }

    /// Begins a stream.
    pub async fn open(&self, question: &str, more: Value) -> reqwest::Response {
        let mut body = Self::body(question, more);
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let response = self.post(body.to_string()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response
    }

    pub async fn stream(&self, question: &str, more: Value) -> Streamed {
        read(self.open(question, more).await).await
    }

    pub async fn receipt(&self, id: &str) -> Value {
        let response = self.get(&format!("/v1/receipts/{id}")).await;
        assert_eq!(response.status(), 200);
        response.json().await.expect("JSON")
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.key).send().await.expect("the gateway answers")
    }
}

/// Reads a stream to its end.
pub async fn read(response: reqwest::Response) -> Streamed {
    let mut streamed = Streamed::default();
    let (mut bytes, mut rest) = (response.bytes_stream(), Vec::new());
    while let Some(chunk) = bytes.next().await {
        rest.extend_from_slice(&chunk.expect("a stream that is not cut"));
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = rest.drain(..end + 2).collect();
            streamed.take(std::str::from_utf8(&event).expect("text"));
        }
    }
    assert!(rest.is_empty(), "the stream ended within an event");
    streamed
}

impl Streamed {
    /// Text and reason to end, choice by choice.
    pub fn choices(&self) -> Value {
        self.choices.iter().map(|(text, reason)| json!({"text": text, "reason": reason})).collect()
    }

    /// Takes one event.
    pub fn take(&mut self, event: &str) {
        assert!(!self.done, "something follows [DONE]: {event}");
        let data = event.trim_end().strip_prefix("data: ").unwrap_or_else(|| panic!("not an event: {event:?}"));
        if data == "[DONE]" {
            self.done = true;
            return;
        }
        let value: Value = serde_json::from_str(data).expect("JSON");
        if let Some(error) = value.get("error") {
            self.error = Some(error.clone());
            return;
        }
        let chunk: ChatCompletionChunk = serde_json::from_value(value).expect("a chunk");
        assert!(self.id.is_empty() || self.id == chunk.id, "one id in a stream");
        self.id = chunk.id;
        self.events += 1;
        for choice in chunk.choices {
            let index = choice.index as usize;
            self.choices.resize(self.choices.len().max(index + 1), Default::default());
            let (text, reason) = &mut self.choices[index];
            assert!(reason.is_none(), "a choice goes on after its end");
            text.extend(choice.delta.content.as_deref());
            *reason = choice.finish_reason;
            self.text.extend(choice.delta.content);
        }
        self.usage = chunk.usage.flatten().or(self.usage);
    }
}
