//! Vectors from the server: one JSON document, read whole.

use http::{HeaderValue, header};
use lumbung_openapi::chat::EmbeddingWish;
use lumbung_openapi::frame::PromptCount;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::chunk::UpstreamUsage;
use super::{OpenAiEngine, endpoint, refusal, request};
use crate::engine::{EngineError, Event, FinishReason, Generation, Job};
use crate::gateway::causes;

/// The largest document that is read: 2,048 vectors of 1,024 numbers, as text.
const MAX_DOCUMENT: usize = 64 << 20;

#[derive(Deserialize)]
struct Document {
    data: Vec<Item>,
    #[serde(default)]
    usage: Option<UpstreamUsage>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: Option<usize>,
    embedding: Vec<f32>,
}

impl OpenAiEngine {
    pub(super) async fn embed(&self, job: &Job<'_>, wish: &EmbeddingWish<'_>) -> Result<Generation, EngineError> {
        // As numbers, which every server knows.
        let changes = [("model", json!(self.upstream.model)), ("encoding_format", json!("float"))];
        let request = self
            .client
            .post(endpoint(&self.upstream.base, "embeddings"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(request::changed(job.body, changes)?);
        let mut response =
            self.authorized(request).send().await.map_err(|error| EngineError::Failed(causes(&error)))?;
        if !response.status().is_success() {
            return Err(refusal::read(response).await);
        }
        let mut text = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| EngineError::Failed(causes(&error)))? {
            text.extend_from_slice(&part);
            if text.len() > MAX_DOCUMENT {
                return Err(EngineError::Failed("the server's document is too long".into()));
            }
        }
        let document: Document = serde_json::from_slice(&text).map_err(|error| {
            EngineError::Failed(format!("the server's vectors are malformed at column {}", error.column()))
        })?;
        events(document, wish)
    }
}

fn events(mut document: Document, wish: &EmbeddingWish<'_>) -> Result<Generation, EngineError> {
    document.data.sort_by_key(|item| item.index); // most servers keep the order; where they do not, they number
    if document.data.len() != wish.inputs.len() {
        return Err(EngineError::Failed("the server gave another number of vectors than was asked for".into()));
    }
    let prompt = document.usage.and_then(UpstreamUsage::prompt).unwrap_or_default();
    let prompt = PromptCount { cached_tokens: 0, ..prompt };
    let (sender, events) = mpsc::channel(document.data.len() + 2);
    let vectors = document.data.into_iter().map(|item| Event::Vector(item.embedding));
    let finish = Event::Finish { choice: 0, reason: FinishReason::Stop };
    for event in std::iter::once(Event::Prompt(prompt)).chain(vectors).chain([finish]) {
        sender.try_send(event).map_err(|error| EngineError::Failed(error.to_string()))?;
    }
    Ok(Generation { events })
}
