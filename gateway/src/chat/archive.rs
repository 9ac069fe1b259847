//! Responses that are kept for their clients, where the operator has turned that on: a request that goes on from one gets the
//! earlier turns before its own input, and an answer that is to be kept is written down before its end is sent.

use std::time::Duration;

use bytes::Bytes;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::MAX_PAYLOAD;
use lumbung_openapi::responses::{Storing, expand, input_items, take_apart};
use tracing::error;

use super::BOOKS_PATIENCE;
use super::error::ApiError;
use crate::domain::ids::{AccountId, JobId};
use crate::store::{KeptResponse, Store, StoreError, Turn};

/// Whoever keeps responses.
pub struct Archive {
    store: Store,
    /// How long; `None`: not at all.
    retention: Option<Duration>,
    /// The largest body with all turns in it, in bytes.
    max_body: usize,
}

/// What is kept of a request until its answer is complete.
#[derive(Clone, Debug)]
pub struct Keeping {
    input: String,
    previous: Option<String>,
}

impl Archive {
    /// Keeps responses so long; not at all without a `retention`.
    pub fn new(store: Store, retention: Option<Duration>, max_body: usize) -> Self {
        Self { store, retention, max_body: max_body.min(MAX_PAYLOAD) }
    }

    /// A request's body with all of its turns, and what is to be kept of it. Other endpoints' bodies are as they were, and
    /// so is one that neither goes on from a response nor wants to be kept: then no database is asked.
    pub async fn open(
        &self,
        endpoint: Endpoint,
        account: &AccountId,
        body: Bytes,
    ) -> Result<(Bytes, Option<Keeping>), ApiError> {
        if endpoint != Endpoint::Responses {
            return Ok((body, None));
        }
        let asked = Storing::read(&body)?;
        if self.retention.is_none() {
            return asked.refusal().map_or(Ok((body, None)), |refusal| Err(refusal.into()));
        }
        let store = asked.store.unwrap_or(true); // OpenAI's default
        if !store && asked.previous.is_none() {
            return Ok((body, None));
        }
        endpoint.normalize(&body)?; // what is wrong with it is told by the client's own numbers
        let job = JobId::fresh().to_string();
        let input = input_items(&body, job.trim_start_matches("job_"))?;
        let earlier = match &asked.previous {
            Some(id) => self.turns(account, id).await?.ok_or_else(|| not_kept(id))?,
            None => Vec::new(),
        };
        let turns = earlier.iter().flat_map(|turn| [turn.input.as_str(), turn.output.as_str()]);
        let turns: Vec<&str> = turns.chain([input.as_str()]).collect();
        let expanded = expand(&body, &turns, store)?;
        if expanded.len() > self.max_body {
            return Err(too_long(self.max_body).into());
        }
        Ok((Bytes::from(expanded), store.then_some(Keeping { input, previous: asked.previous })))
    }

    /// Keeps an answer, of which `end` is the last that is sent. Where the books do not take it, the client has its answer all
    /// the same, and the response is not found later.
    pub async fn keep(&self, account: &AccountId, id: &str, keeping: Keeping, end: &[u8]) {
        let (Some(retention), Some(parts)) = (self.retention, take_apart(end)) else { return };
        let Keeping { input, previous } = keeping;
        let response = KeptResponse { id: id.to_owned(), previous, input, parts };
        let keeping = tokio::time::timeout(BOOKS_PATIENCE, self.store.keep_response(account, &response, retention));
        if let Err(error) = keeping.await.unwrap_or(Err(StoreError::Silent)) {
            error!(%error, id, "a response was not kept");
        }
    }

    async fn turns(&self, account: &AccountId, id: &str) -> Result<Option<Vec<Turn>>, ApiError> {
        let reading = tokio::time::timeout(BOOKS_PATIENCE, self.store.response_turns(account, id));
        reading.await.unwrap_or(Err(StoreError::Silent)).map_err(|error| {
            error!(%error, "a conversation was not read");
            ApiError::BooksUnavailable
        })
    }
}

fn not_kept(id: &str) -> InvalidRequest {
    InvalidRequest {
        message: format!(
            "There is no response '{id}' of this account, or one that it goes on from was deleted or is kept no longer."
        ),
        param: Some("previous_response_id".into()),
        code: Some("previous_response_not_found"),
    }
}

fn too_long(limit: usize) -> InvalidRequest {
    InvalidRequest {
        message: format!("With its earlier turns the request is larger than {limit} bytes. Begin a new conversation."),
        param: Some("previous_response_id".into()),
        code: Some("context_length_exceeded"),
    }
}
