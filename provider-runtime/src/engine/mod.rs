//! What answers: one trait, three implementations.
//!
//! - `mistral`: mistralrs in this process
//! - `openai`: any OpenAI-compatible server beside this process (vLLM, SGLang, llama.cpp, Ollama)
//! - `scripted`: answers from a script, for tests
//!
//! An engine turns a request into a stream of [`Event`]s and knows nothing of frames, tickets or HTTP towards the
//! gateway: [`crate::render`] makes the client's bytes from events, the same for every engine.

use async_trait::async_trait;
use bytes::Bytes;
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::Resume;
use lumbung_openapi::reply::{TokenKinds, TokenLogprob};
use tokio::sync::mpsc;

pub mod calls;
pub mod faulty;
#[cfg(feature = "mistral")]
pub mod mistral;
pub mod openai;
pub mod scripted;
pub mod text;

/// A loaded model that can answer.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What it serves and what it can do.
    fn describe(&self) -> &EngineModel;

    /// Begins an answer. Returns once the request is known to be servable (prompt tokenized and within the context),
    /// before the first token. Dropping the [`Generation`] cancels the answer at once.
    async fn generate(&self, job: Job<'_>) -> Result<Generation, EngineError>;
}

/// What an engine serves and what it can do.
#[derive(Clone, Debug)]
pub struct EngineModel {
    /// SHA-256 over the sorted list of file name and SHA-256 of weights, tokenizer and template: `sha256:<hex>`. Empty for a sidecar.
    pub weights_digest: String,
    /// As OpenRouter names them: `f32`, `bf16`, `int4` … or `unknown`.
    pub quantization: String,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Which of OpenAI's parameters are honoured.
    pub supported: ParameterSet,
    /// Whether an answer that another provider began can be continued.
    pub resume: Resume,
}

/// One request for an engine.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Names the job, the same for every provider that works on it: what is made up beside the tokens follows from it.
    pub id: &'a str,
    /// The request as parsed.
    pub request: &'a ChatRequest<'a>,
    /// The body that it was parsed from, for engines that pass it on: a conversation's is that of a chat, at whichever
    /// endpoint it came.
    pub body: &'a Bytes,
    /// The most completion tokens per choice: the ticket's limit and the client's, whichever is lower.
    pub max_completion_tokens: u32,
    /// What is drawn at random follows from it: the request's own, or one that all attempts at the job have in common.
    pub seed: i64,
    /// What earlier attempts have delivered, choice by choice; empty for an answer from its beginning.
    ///
    /// An engine that can resume passes these tokens through everything that a token goes through, and sends their events
    /// as if they were made now; then it goes on. Whoever takes the events leaves out what was delivered.
    pub history: &'a [History],
}

/// What earlier attempts have delivered of one choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether its end was delivered too.
    pub finished: bool,
}

/// An answer in the making. Dropping it cancels the answer.
#[derive(Debug)]
pub struct Generation {
    /// The answer's events in order, over a bounded channel. Closes after every choice has finished or failed.
    pub events: mpsc::Receiver<Event>,
}

/// What happens while an answer is made.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt was counted: once, as early as the engine knows it (a sidecar may know only at the end).
    Prompt(PromptCount),
    /// Tokens were made.
    Tokens(Tokens),
    /// The vector of the next input, where vectors are asked for.
    Vector(Vec<f32>),
    /// The engine works at what it can show only when it is whole: at most once a second.
    Working,
    /// One choice is complete.
    Finish {
        /// Which one.
        choice: u8,
        /// Why.
        reason: FinishReason,
    },
    /// The engine's own final count of completion tokens over all choices, where it differs from the sum of [`Tokens::count`].
    Total(u32),
    /// The engine's own final count of reasoning tokens over all choices, where it differs from the sum of
    /// [`Tokens::reasoning_count`].
    ReasoningTotal(u32),
    /// What else the engine tells of the tokens, at the end.
    Kinds(TokenKinds),
    /// The answer cannot go on. The last event.
    Failed(EngineError),
}

/// Tokens of one choice, and what they completed: reasoning, text, refusal and calls, shown in this order. What tokens show
/// comes in the event that counts them, or with later tokens: an answer may be cut between any two events, and is continued
/// from the tokens of the first.
///
/// All text is whole UTF-8 characters: a character still incomplete, or text that may become a stop sequence or a tag, is
/// held back.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Which choice.
    pub choice: u8,
    /// How many.
    pub count: u32,
    /// How many of them were spent on reasoning, its tags included.
    pub reasoning_count: u32,
    /// Their ids, where the engine tells them; then as many as `count`.
    pub ids: Vec<u32>,
    /// What the model thinks before it answers, without its tags.
    pub reasoning: String,
    /// The answer's text.
    pub text: String,
    /// In place of an answer, where an engine tells refusals apart.
    pub refusal: String,
    /// Tools that are called.
    pub calls: Vec<CallDelta>,
    /// One per token of this event, if asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A part of a tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallDelta {
    /// Which of the choice's calls, from 0. They come one after another, each in one piece.
    pub call: u32,
    /// In a call's first part.
    pub head: Option<CallHead>,
    /// More of the arguments' JSON text, which need not end where a value does.
    pub arguments: String,
}

/// What a tool call begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHead {
    /// Names the call, so that its result can be told; the same on whichever provider it is made.
    pub id: String,
    /// The tool.
    pub name: String,
}

impl Tokens {
    /// Whether there is something that a client would be shown.
    pub fn shows(&self) -> bool {
        !(self.text.is_empty() && self.reasoning.is_empty() && self.refusal.is_empty() && self.calls.is_empty())
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's own end, or a stop sequence.
    Stop,
    /// A stop sequence, where the engine tells which: its number in the request.
    StopSequence(u8),
    /// The token limit or the end of the context.
    Length,
    /// The model calls tools.
    ToolCalls,
    /// Withheld by a filter.
    ContentFilter,
}

impl FinishReason {
    /// OpenAI's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop | Self::StopSequence(_) => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// Why an engine does not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The request is at fault: the client should be told, and no other provider asked.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// Every slot is taken: another provider may be asked.
    #[error("every slot is taken")]
    Busy,
    /// The engine is at fault: another provider may be asked. The text is for this provider's own log.
    #[error("engine failed: {0}")]
    Failed(String),
}
