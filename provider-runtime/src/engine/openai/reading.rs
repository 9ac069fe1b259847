//! A server's stream, turned into events.

use std::time::Duration;

use lumbung_openapi::reply::TokenKinds;
use reqwest::Response;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::calls::UpstreamCalls;
use super::chunk::{Chunk, ChunkChoice, UpstreamUsage, finish_reason};
use super::sse::{SseError, SseReader};
use super::working::told;
use crate::engine::calls::CallIds;
use crate::engine::{EngineError, Event, FinishReason, Tokens};
use crate::gateway::causes;

/// Once every choice is complete: how long the usage may still take, from servers that keep the connection open.
const USAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest document that is read: no answer may be longer.
const MAX_DOCUMENT: usize = lumbung_openapi::frame::MAX_BODY;

/// A server that sends more of them than this for each token that was asked for does not heed the limit.
const CHUNKS_PER_TOKEN: u32 = 2;

/// What is known of one answer so far.
pub struct Reading {
    /// The most tokens of one choice.
    limit: u32,
    choices: Vec<ChoiceState>,
    usage: UpstreamUsage,
    is_prompt_told: bool,
}

struct ChoiceState {
    /// As far as the limit goes.
    tokens: u32,
    /// Those that came one by one, and chunks that may each be a part of one.
    told: u32,
    chunks: u32,
    reasoning_tokens: u32,
    calls: UpstreamCalls,
    reason: Option<FinishReason>,
}

impl ChoiceState {
    /// Whether there are surely more tokens than were asked for: of chunks, some servers make two of one token.
    fn is_beyond(&self, limit: u32) -> bool {
        self.told >= limit || self.chunks >= limit.saturating_mul(CHUNKS_PER_TOKEN)
    }
}

impl Reading {
    /// For so many choices of the job of so many tokens at most.
    pub fn new(job: &str, choices: u32, limit: u32) -> Self {
        let choice = |choice| ChoiceState {
            tokens: 0,
            told: 0,
            chunks: 0,
            reasoning_tokens: 0,
            calls: UpstreamCalls::new(CallIds { job: job.to_owned(), choice, short: false }),
            reason: None,
        };
        Self {
            limit,
            choices: (0..choices as u8).map(choice).collect(),
            usage: UpstreamUsage::default(),
            is_prompt_told: false,
        }
    }

    /// Reads to the end: a stream, or, from a server that streams nothing, one document.
    pub async fn run(mut self, response: Response, is_document: bool, events: &mpsc::Sender<Event>) {
        let read = match is_document {
            true => match told(collect(response, MAX_DOCUMENT), events).await {
                Ok(document) => self.take_document(&document, events).await,
                Err(error) => Err(error),
            },
            false => self.read(response, events).await,
        };
        let last = match read {
            Ok(()) => self.last_events(),
            Err(error) => vec![Event::Failed(error)],
        };
        for event in last {
            // Where nobody listens any more, nobody is to be told.
            let _ = events.send(event).await;
        }
    }

    /// A document is a chunk that has everything.
    async fn take_document(&mut self, text: &[u8], events: &mpsc::Sender<Event>) -> Result<(), EngineError> {
        let text = std::str::from_utf8(text).map_err(|_| failed(SseError::NotUtf8))?;
        let mut new = Vec::new();
        self.take(text, &mut new)?;
        for event in new {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn read(&mut self, mut response: Response, events: &mpsc::Sender<Event>) -> Result<(), EngineError> {
        let mut sse = SseReader::default();
        let mut give_up_at: Option<Instant> = None;
        loop {
            let part = match give_up_at {
                None => response.chunk().await,
                Some(at) if at <= Instant::now() => return Ok(()),
                Some(at) => tokio::time::timeout_at(at, response.chunk()).await.unwrap_or(Ok(None)),
            };
            let mut data = Vec::new();
            let is_end = match part {
                Ok(Some(bytes)) => {
                    sse.push(&bytes, |event| data.push(event)).map_err(failed)?;
                    false
                }
                Ok(None) => {
                    data.extend(sse.finish().map_err(failed)?);
                    true
                }
                // A connection that breaks after the last word takes nothing away.
                Err(_) if self.is_complete() => true,
                Err(error) => return Err(EngineError::Failed(causes(&error))),
            };
            let (mut new, mut is_done) = (Vec::new(), is_end);
            for event in data {
                is_done |= self.take(&event, &mut new)?;
            }
            for event in new {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            if is_done {
                return Ok(());
            }
            if give_up_at.is_none() && self.is_complete() {
                give_up_at = Some(Instant::now() + USAGE_TIMEOUT);
            }
        }
    }

    /// Takes one event's data. Returns whether it is the last.
    fn take(&mut self, data: &str, events: &mut Vec<Event>) -> Result<bool, EngineError> {
        let data = data.trim();
        if data == "[DONE]" {
            self.finish_by_done(events);
            return Ok(true);
        }
        if data.is_empty() {
            return Ok(false);
        }
        let chunk: Chunk = serde_json::from_str(data)
            // The error's own text may quote the answer.
            .map_err(|error| EngineError::Failed(format!("a chunk is malformed at column {}", error.column())))?;
        if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
            return Err(EngineError::Failed("the server broke off with an error".into()));
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage;
            if let Some(prompt) = usage.prompt().filter(|_| !self.is_prompt_told) {
                self.is_prompt_told = true;
                events.push(Event::Prompt(prompt));
            }
        }
        for choice in chunk.choices.into_iter().flatten() {
            self.take_choice(choice, events)?;
        }
        Ok(false)
    }

    /// Some servers say that an answer ended only by this.
    fn finish_by_done(&mut self, events: &mut Vec<Event>) {
        for (index, choice) in self.choices.iter_mut().enumerate() {
            if choice.reason.is_none() && choice.tokens > 0 {
                let reason = if choice.calls.has_any() { FinishReason::ToolCalls } else { FinishReason::Stop };
                choice.reason = Some(reason);
                events.push(Event::Finish { choice: index as u8, reason });
            }
        }
    }

    fn take_choice(&mut self, mut chunk: ChunkChoice, events: &mut Vec<Event>) -> Result<(), EngineError> {
        let index = chunk.index.unwrap_or(0);
        let limit = self.limit;
        let choice = self.choices.get_mut(index as usize);
        let choice = choice.ok_or_else(|| EngineError::Failed(format!("choice {index} was not asked for")))?;
        if choice.reason.is_some() {
            return Ok(());
        }
        let index = index as u8;
        let mut delta = chunk.take_delta();
        let logprobs = chunk.logprobs.unwrap_or_default().into_tokens();
        let mut tokens = Tokens {
            choice: index,
            reasoning: delta.take_reasoning(),
            text: delta.content.or(chunk.text).unwrap_or_default(),
            refusal: delta.refusal.unwrap_or_default(),
            calls: delta.tool_calls.into_iter().flatten().filter_map(|call| choice.calls.take(call)).collect(),
            logprobs,
            ..Tokens::default()
        };
        // Most servers tell no number of tokens until the end: a chunk that shows something counts as one.
        match tokens.logprobs.len() as u32 {
            0 => choice.chunks = choice.chunks.saturating_add(tokens.shows().into()),
            told => choice.told = choice.told.saturating_add(told),
        }
        let counted = choice.told.saturating_add(choice.chunks).min(limit);
        tokens.count = counted - choice.tokens;
        if !tokens.reasoning.is_empty() {
            tokens.reasoning_count = tokens.count;
        }
        if tokens.count > 0 || tokens.shows() {
            choice.tokens = counted;
            choice.reasoning_tokens = choice.reasoning_tokens.saturating_add(tokens.reasoning_count);
            events.push(Event::Tokens(tokens));
        }
        let reason = match chunk.finish_reason.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => Some(
                finish_reason(name).ok_or_else(|| EngineError::Failed(format!("the server ended with '{name}'")))?,
            ),
            // A server that does not heed the limit is not listened to beyond it.
            None if choice.is_beyond(limit) => Some(FinishReason::Length),
            None => None,
        };
        if let Some(reason) = reason {
            // Some servers say `stop` after calls.
            let reason = match reason {
                FinishReason::Stop if choice.calls.has_any() => FinishReason::ToolCalls,
                reason => reason,
            };
            choice.reason = Some(reason);
            events.push(Event::Finish { choice: index, reason });
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.reason.is_some())
    }

    /// What is left to say when the stream has ended.
    fn last_events(&self) -> Vec<Event> {
        if !self.is_complete() {
            let why = "the server's stream ended before the answer was complete";
            return vec![Event::Failed(EngineError::Failed(why.into()))];
        }
        let sum = |of: fn(&ChoiceState) -> u32| self.choices.iter().map(of).fold(0, u32::saturating_add);
        let (counted, reasoned) = (sum(|choice| choice.tokens), sum(|choice| choice.reasoning_tokens));
        let total = self.usage.completion().filter(|told| *told > 0 && *told != counted);
        let reasoning = self.usage.reasoning().filter(|told| *told > 0 && *told != reasoned);
        let kinds = Some(self.usage.kinds()).filter(|kinds| *kinds != TokenKinds::default());
        [total.map(Event::Total), reasoning.map(Event::ReasoningTotal), kinds.map(Event::Kinds)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// A document to its end, if that is no longer than so many bytes.
pub async fn collect(mut response: Response, most: usize) -> Result<Vec<u8>, EngineError> {
    let mut text = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| EngineError::Failed(causes(&error)))? {
        text.extend_from_slice(&part);
        if text.len() > most {
            return Err(EngineError::Failed("the server's document is too long".into()));
        }
    }
    Ok(text)
}

fn failed(error: SseError) -> EngineError {
    EngineError::Failed(error.to_string())
}
