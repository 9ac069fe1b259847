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
    /// Text, tool calls and reason to end, choice by choice.
    choices: Vec<Choice>,
    /// The models that chunks name, each once.
    pub models: Vec<String>,
}

/// One choice of a stream, put together.
#[derive(Clone, Debug, Default)]
struct Choice {
    text: String,
    calls: Vec<Value>,
    reason: Option<String>,
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
    /// Text, tool calls if any, and reason to end, choice by choice.
    pub fn choices(&self) -> Value {
        let choice = |Choice { text, calls, reason }: &Choice| match calls.is_empty() {
            true => json!({"text": text, "reason": reason}),
            false => json!({"text": text, "calls": calls, "reason": reason}),
        };
        self.choices.iter().map(choice).collect()
    }

    /// Puts the parts of tool calls together: names and ids come once, arguments in pieces.
    fn take_calls(&mut self, index: usize, delta: &Value) {
        for part in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = part["index"].as_u64().expect("a call's index") as usize;
            let calls = &mut self.choices[index].calls;
            if calls.len() == at {
                calls.push(json!({"id": part["id"], "name": part["function"]["name"], "arguments": ""}));
            } else {
                assert!(part["id"].is_null() && part["function"]["name"].is_null(), "a call is named twice: {part}");
            }
            let so_far = calls[at]["arguments"].as_str().expect("text").to_owned();
            calls[at]["arguments"] = (so_far + part["function"]["arguments"].as_str().unwrap_or_default()).into();
        }
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
        let chunk: ChatCompletionChunk = serde_json::from_value(value.clone()).expect("a chunk");
        assert!(self.id.is_empty() || self.id == chunk.id, "one id in a stream");
        self.id = chunk.id;
        self.events += 1;
        if !self.models.contains(&chunk.model) {
            self.models.push(chunk.model);
        }
        for choice in chunk.choices {
            let index = choice.index as usize;
            self.choices.resize(self.choices.len().max(index + 1), Choice::default());
            assert!(self.choices[index].reason.is_none(), "a choice goes on after its end");
            self.choices[index].text.extend(choice.delta.content.as_deref());
            self.choices[index].reason = choice.finish_reason;
            self.text.extend(choice.delta.content);
            let part = value["choices"].as_array().into_iter().flatten().find(|part| part["index"] == index);
            part.into_iter().for_each(|part| self.take_calls(index, &part["delta"]));
        }
        self.usage = chunk.usage.flatten().or(self.usage);
    }
}
