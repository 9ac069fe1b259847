//! Vectors from the server: one JSON document, read whole.

use http::{HeaderValue, header};
use lumbung_openapi::chat::EmbeddingWish;
use lumbung_openapi::frame::PromptCount;
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::chunk::UpstreamUsage;
use super::reading::collect;
use super::working::{SOON, told};
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
        let mut asking = Box::pin(ask(self.authorized(request), wish.inputs.len()));
        let soon = tokio::time::timeout(SOON, &mut asking).await.ok().transpose()?;
        let (sender, events) = mpsc::channel(wish.inputs.len() + 2);
        tokio::spawn(async move {
            let tell = async {
                let made = match soon {
                    Some(made) => made,
                    None => told(asking, &sender).await.unwrap_or_else(|error| vec![Event::Failed(error)]),
                };
                for event in made {
                    if sender.send(event).await.is_err() {
                        return; // nobody waits for it any more
                    }
                }
            };
            tokio::select! {
                () = sender.closed() => {}
                () = tell => {}
            }
        });
        Ok(Generation { events })
    }
}

/// Asks for so many vectors, and waits for all of them.
async fn ask(request: RequestBuilder, inputs: usize) -> Result<Vec<Event>, EngineError> {
    let response = request.send().await.map_err(|error| EngineError::Failed(causes(&error)))?;
    if !response.status().is_success() {
        return Err(refusal::read(response).await);
    }
    let text = collect(response, MAX_DOCUMENT).await?;
    let mut document: Document = serde_json::from_slice(&text).map_err(|error| {
        EngineError::Failed(format!("the server's vectors are malformed at column {}", error.column()))
    })?;
    document.data.sort_by_key(|item| item.index); // most servers keep the order; where they do not, they number
    if document.data.len() != inputs {
        return Err(EngineError::Failed("the server gave another number of vectors than was asked for".into()));
    }
    let prompt = document.usage.and_then(UpstreamUsage::prompt).unwrap_or_default();
    let prompt = Event::Prompt(PromptCount { cached_tokens: 0, ..prompt });
    let vectors = document.data.into_iter().map(|item| Event::Vector(item.embedding));
    let finish = Event::Finish { choice: 0, reason: FinishReason::Stop };
    Ok(std::iter::once(prompt).chain(vectors).chain([finish]).collect())
}
