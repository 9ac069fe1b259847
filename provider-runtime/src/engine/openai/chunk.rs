//! One chunk of a server's stream, read as leniently as servers differ: members may be missing or null.

use std::collections::BTreeMap;

use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::reply::{TokenKinds, TokenLogprob, TopLogprob};
use serde::Deserialize;
use serde_json::Value;

use crate::engine::FinishReason;

/// One chunk.
#[derive(Debug, Default, Deserialize)]
pub struct Chunk {
    /// What is new.
    #[serde(default)]
    pub choices: Option<Vec<ChunkChoice>>,
    /// In the last chunk, in one after it, or in each.
    #[serde(default)]
    pub usage: Option<UpstreamUsage>,
    /// The server cannot go on.
    #[serde(default)]
    pub error: Option<Value>,
    /// `error`, where the chunk itself is one.
    #[serde(default)]
    pub object: Option<String>,
}

/// What is new of one choice.
#[derive(Debug, Deserialize)]
pub struct ChunkChoice {
    /// Which one.
    #[serde(default)]
    pub index: Option<u32>,
    /// The new part.
    #[serde(default)]
    delta: Option<UpstreamDelta>,
    /// All of it, from a server that streams nothing; some send it beside the other.
    #[serde(default)]
    message: Option<UpstreamDelta>,
    /// The new part, where a prompt is gone on with.
    #[serde(default)]
    pub text: Option<String>,
    /// Of the tokens in this chunk.
    #[serde(default)]
    pub logprobs: Option<UpstreamLogprobs>,
    /// In the choice's last chunk.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// The new part.
#[derive(Debug, Default, Deserialize)]
pub struct UpstreamDelta {
    /// Text.
    #[serde(default)]
    pub content: Option<String>,
    /// Text that is not part of the answer; servers disagree on the name.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// The same under its other name.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// In place of an answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Parts of tool calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<UpstreamCall>>,
}

/// A part of a tool call. Servers leave out any of it.
#[derive(Debug, Deserialize)]
pub struct UpstreamCall {
    /// Which of the choice's calls.
    #[serde(default)]
    pub index: Option<u32>,
    /// Names the call.
    #[serde(default)]
    pub id: Option<String>,
    /// The tool, and its arguments.
    #[serde(default)]
    pub function: Option<UpstreamFunction>,
}

/// A tool, and its arguments.
#[derive(Debug, Default, Deserialize)]
pub struct UpstreamFunction {
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// JSON text; from some servers the JSON itself.
    #[serde(default)]
    pub arguments: Option<Value>,
}

impl UpstreamFunction {
    /// The arguments' text.
    pub fn arguments_text(&self) -> String {
        match &self.arguments {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(json) => json.to_string(),
        }
    }
}

/// Log-probabilities.
#[derive(Debug, Default, Deserialize)]
pub struct UpstreamLogprobs {
    /// One for each token.
    #[serde(default)]
    pub content: Option<Vec<UpstreamLogprob>>,
    /// The same where a prompt is gone on with: lists side by side.
    #[serde(default)]
    tokens: Option<Vec<String>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f32>>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
}

/// One token's.
#[derive(Debug, Deserialize)]
pub struct UpstreamLogprob {
    token: String,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Option<Vec<UpstreamLogprob>>,
}

/// Tokens counted by the server.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct UpstreamUsage {
    #[serde(default)]
    prompt_tokens: Option<u32>,
    #[serde(default)]
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<UpstreamPromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<UpstreamCompletionDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamCompletionDetails {
    reasoning_tokens: Option<u32>,
    audio_tokens: Option<u32>,
    text_tokens: Option<u32>,
    accepted_prediction_tokens: Option<u32>,
    rejected_prediction_tokens: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamPromptDetails {
    cached_tokens: Option<u32>,
    cache_write_tokens: Option<u32>,
    audio_tokens: Option<u32>,
    image_tokens: Option<u32>,
    text_tokens: Option<u32>,
}

impl ChunkChoice {
    /// What is new.
    pub fn take_delta(&mut self) -> UpstreamDelta {
        self.delta.take().or(self.message.take()).unwrap_or_default()
    }
}

impl UpstreamDelta {
    /// The reasoning, under whichever name.
    pub fn take_reasoning(&mut self) -> String {
        let named = [self.reasoning.take(), self.reasoning_content.take()];
        named.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default()
    }
}

impl UpstreamLogprobs {
    /// As clients get them.
    pub fn into_tokens(self) -> Vec<TokenLogprob> {
        if let Some(tokens) = self.tokens {
            return side_by_side(
                tokens,
                self.token_logprobs.unwrap_or_default(),
                self.top_logprobs.unwrap_or_default(),
            );
        }
        let entries = self.content.unwrap_or_default();
        entries
            .into_iter()
            .map(|entry| TokenLogprob {
                top_logprobs: entry
                    .top_logprobs
                    .unwrap_or_default()
                    .into_iter()
                    .map(|top| TopLogprob {
                        bytes: bytes_of(top.bytes, &top.token),
                        token: top.token,
                        logprob: top.logprob,
                    })
                    .collect(),
                bytes: bytes_of(entry.bytes, &entry.token),
                token: entry.token,
                logprob: entry.logprob,
            })
            .collect()
    }
}

fn side_by_side(
    tokens: Vec<String>,
    logprobs: Vec<Option<f32>>,
    tops: Vec<Option<BTreeMap<String, f32>>>,
) -> Vec<TokenLogprob> {
    let mut tops = tops.into_iter();
    let one = |(token, logprob): (String, Option<f32>)| {
        let mut top_logprobs: Vec<TopLogprob> = tops
            .next()
            .flatten()
            .unwrap_or_default()
            .into_iter()
            .map(|(token, logprob)| TopLogprob { bytes: token.as_bytes().to_vec(), token, logprob })
            .collect();
        top_logprobs.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
        // A prompt's first token has none.
        TokenLogprob { bytes: token.as_bytes().to_vec(), logprob: logprob.unwrap_or(0.0), token, top_logprobs }
    };
    tokens.into_iter().zip(logprobs).map(one).collect()
}

fn bytes_of(bytes: Option<Vec<u8>>, token: &str) -> Vec<u8> {
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

impl UpstreamUsage {
    /// The prompt's count, if this tells one.
    pub fn prompt(self) -> Option<PromptCount> {
        let prompt_tokens = self.prompt_tokens.filter(|tokens| *tokens > 0)?;
        let cached_tokens = self.prompt_tokens_details.unwrap_or_default().cached_tokens.unwrap_or(0);
        Some(PromptCount { prompt_tokens, cached_tokens: cached_tokens.min(prompt_tokens) })
    }

    /// Completion tokens spent on reasoning, if this tells them.
    pub fn reasoning(self) -> Option<u32> {
        self.completion_tokens_details?.reasoning_tokens
    }

    /// What else this tells of tokens.
    pub fn kinds(self) -> TokenKinds {
        let prompt = self.prompt_tokens_details.unwrap_or_default();
        let completion = self.completion_tokens_details.unwrap_or_default();
        TokenKinds {
            cache_write: prompt.cache_write_tokens,
            prompt_audio: prompt.audio_tokens,
            prompt_image: prompt.image_tokens,
            prompt_text: prompt.text_tokens,
            completion_audio: completion.audio_tokens,
            completion_text: completion.text_tokens,
            accepted_prediction: completion.accepted_prediction_tokens,
            rejected_prediction: completion.rejected_prediction_tokens,
        }
    }

    /// Completion tokens over all choices, if this tells them.
    pub fn completion(self) -> Option<u32> {
        self.completion_tokens
    }
}

/// Why a choice ended, by the server's word; `None` if it was cut off.
pub fn finish_reason(name: &str) -> Option<FinishReason> {
    match name {
        "length" => Some(FinishReason::Length),
        "tool_calls" | "function_call" => Some(FinishReason::ToolCalls),
        "content_filter" => Some(FinishReason::ContentFilter),
        "abort" | "error" => None,
        // `stop`, and servers' own names for ends of the model's own: `eos`, `eos_token`, `end_turn`.
        _ => Some(FinishReason::Stop),
    }
}
