//! A server's stream, turned into events.

use std::time::Duration;

use reqwest::Response;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::chunk::{Chunk, ChunkChoice, UpstreamUsage, finish_reason};
use super::sse::SseReader;
use crate::engine::{EngineError, Event, FinishReason, Tokens};
use crate::gateway::causes;

/// Once every choice is complete: how long the usage may still take, from servers that keep the connection open.
const USAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of one answer so far.
pub struct Reading {
    /// The most tokens of one choice.
    limit: u32,
    choices: Vec<ChoiceState>,
    usage: UpstreamUsage,
    is_prompt_told: bool,
}

#[derive(Clone, Default)]
struct ChoiceState {
    tokens: u32,
    reason: Option<FinishReason>,
}

/// What one event of the stream comes to.
#[derive(Debug)]
enum Step {
    Events(Vec<Event>),
    Done,
}

impl Reading {
    /// For so many choices of so many tokens at most.
    pub fn new(choices: u32, limit: u32) -> Self {
        Self {
            limit,
            choices: vec![ChoiceState::default(); choices as usize],
            usage: UpstreamUsage::default(),
            is_prompt_told: false,
        }
    }

    /// Reads to the end. An error of the channel means that nobody listens any more, which needs no answer.
    pub async fn run(mut self, response: Response, events: &mpsc::Sender<Event>) {
        let result = self.read(response, events).await;
        let last = match result {
            Ok(()) => self.last_events(),
            Err(error) => vec![Event::Failed(error)],
        };
        for event in last {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn read(&mut self, mut response: Response, events: &mpsc::Sender<Event>) -> Result<(), EngineError> {
        let mut sse = SseReader::default();
        let mut give_up = None;
        loop {
            let part = match give_up {
                None => response.chunk().await,
                Some(at) => tokio::time::timeout_at(at, response.chunk()).await.unwrap_or(Ok(None)),
            };
            let part = part.map_err(|error| EngineError::Failed(causes(&error)));
            let mut data = Vec::new();
            let is_end = match part {
                // A connection that breaks after the last word takes nothing away.
                Err(_) if self.is_complete() => true,
                Err(error) => return Err(error),
                Ok(None) => {
                    data.extend(sse.finish().map_err(failed)?);
                    true
                }
                Ok(Some(bytes)) => {
                    sse.push(&bytes, |event| data.push(event)).map_err(failed)?;
                    false
                }
            };
            for event in data {
                match self.take(&event)? {
                    Step::Done => return Ok(()),
                    Step::Events(new) => {
                        for event in new {
                            events.send(event).await.map_err(failed)?;
                        }
                    }
                }
            }
            if is_end {
                return Ok(());
            }
            if give_up.is_none() && self.is_complete() {
                give_up = Some(Instant::now() + USAGE_TIMEOUT);
            }
        }
    }

    fn take(&mut self, data: &str) -> Result<Step, EngineError> {
        let data = data.trim();
        if data == "[DONE]" {
            // Some servers say why an answer ended only by this.
            self.choices.iter_mut().filter(|choice| choice.tokens > 0).for_each(|choice| {
                choice.reason.get_or_insert(FinishReason::Stop);
            });
            return Ok(Step::Done);
        }
        if data.is_empty() {
            return Ok(Step::Events(Vec::new()));
        }
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|error| EngineError::Failed(format!("a chunk is malformed: {error}")))?;
        if chunk.error.is_some() || chunk.object.as_deref() == Some("error") {
            return Err(EngineError::Failed("the server broke off with an error".into()));
        }
        let mut events = Vec::new();
        if let Some(usage) = chunk.usage {
            self.usage = usage;
            if let Some(prompt) = usage.prompt().filter(|_| !self.is_prompt_told) {
                self.is_prompt_told = true;
                events.push(Event::Prompt(prompt));
            }
        }
        for choice in chunk.choices.into_iter().flatten() {
            self.take_choice(choice, &mut events)?;
        }
        Ok(Step::Events(events))
    }

    fn take_choice(&mut self, chunk: ChunkChoice, events: &mut Vec<Event>) -> Result<(), EngineError> {
        let index = chunk.index.unwrap_or(0);
        let limit = self.limit;
        let choice = self.choices.get_mut(index as usize);
        let choice = choice.ok_or_else(|| EngineError::Failed(format!("choice {index} was not asked for")))?;
        if choice.reason.is_some() {
            return Ok(());
        }
        let index = index as u8;
        let delta = chunk.delta.unwrap_or_default();
        let logprobs = chunk.logprobs.unwrap_or_default().into_tokens();
        let has_reasoning = delta.has_reasoning();
        let text = delta.content.unwrap_or_default();
        let count = match logprobs.len() as u32 {
            // Reasoning was made and is paid for; it is not part of the text that is passed on.
            0 => u32::from(!text.is_empty() || has_reasoning),
            count => count,
        };
        if count > 0 {
            choice.tokens = choice.tokens.saturating_add(count);
            events.push(Event::Tokens(Tokens { choice: index, count, ids: Vec::new(), text, logprobs }));
        }
        let reason = match chunk.finish_reason.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                Some(finish_reason(name).ok_or_else(|| EngineError::Failed(format!("the server ended with '{name}'")))?)
            }
            // A server that does not heed the limit is not listened to beyond it.
            None if choice.tokens >= limit => Some(FinishReason::Length),
            None => None,
        };
        if let Some(reason) = reason {
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
            return vec![Event::Failed(EngineError::Failed("the server's stream ended before the answer".into()))];
        }
        Vec::new()
    }
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Failed(error.to_string())
}
