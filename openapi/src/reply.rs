//! What a client gets back. Source: OpenAI's API specification of August 2026; `reasoning` beside `reasoning_content`
//! because servers and clients disagree on the name.

use serde::{Deserialize, Serialize};

use crate::money::{NanoUsd, UsdNumber};

/// `POST /v1/chat/completions`, not streamed.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-…`; also the id of its receipt.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// The answers.
    pub choices: Vec<Choice>,
    /// Tokens. The gateway adds this member itself, from its own count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Choice {
    /// From 0.
    pub index: u32,
    /// What was said.
    pub message: AssistantMessage,
    /// Present and null unless asked for.
    pub logprobs: Option<Logprobs>,
    /// `stop`, `length`, `tool_calls` or `content_filter`.
    pub finish_reason: String,
}

/// The assistant's message.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AssistantMessage {
    /// Always `assistant`.
    pub role: String,
    /// The text; null where tools are called without any.
    pub content: Option<String>,
    /// In place of an answer. Null from models that refuse in plain text.
    pub refusal: Option<String>,
    /// What the model thought before it answered, where it thinks aloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same: clients disagree on the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Tools that are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// A tool that is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ChatToolCall)]
pub struct ToolCall {
    /// Names the call: its result refers to it.
    pub id: String,
    /// Always `function`.
    pub r#type: String,
    /// Which, and with what.
    pub function: FunctionCall,
}

/// A function that is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FunctionCall {
    /// The tool's name.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// One server-sent event of a stream.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChatCompletionChunk {
    /// The same in every chunk of an answer.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: String,
    /// The same in every chunk of an answer.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// What is new; empty in the usage chunk.
    pub choices: Vec<ChunkChoice>,
    /// With `include_usage`: null, until the last chunk. Otherwise absent.
    #[serde(default, with = "maybe_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// What is new of one answer.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChunkChoice {
    /// From 0.
    pub index: u32,
    /// The new part.
    pub delta: Delta,
    /// Present and null unless asked for.
    pub logprobs: Option<Logprobs>,
    /// Null until the answer's last chunk.
    pub finish_reason: Option<String>,
}

/// The new part of a message.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Delta {
    /// `assistant`, in an answer's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// More reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The same: clients disagree on the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

/// More of a tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ToolCallDelta {
    /// Which of the answer's calls.
    pub index: u32,
    /// In the call's first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Always `function`; in the call's first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// What is new of it.
    pub function: FunctionDelta,
}

/// What is new of a function that is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FunctionDelta {
    /// In the call's first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// Log-probabilities of the tokens beside it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Logprobs {
    /// One for each token of the text.
    pub content: Vec<TokenLogprob>,
    /// Always null here.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// One token and what else it could have been.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenLogprob {
    /// Its text; replacement characters where it is not UTF-8 by itself.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest tokens there.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that was or could have been.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Tokens of a request and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: u32,
    /// Tokens of all answers together.
    pub completion_tokens: u32,
    /// Their sum.
    pub total_tokens: u32,
    /// The prompt's tokens by kind.
    pub prompt_tokens_details: PromptTokensDetails,
    /// The answers' tokens by kind.
    pub completion_tokens_details: CompletionTokensDetails,
    /// What the request cost, in US dollars: OpenRouter's member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub cost: Option<UsdNumber>,
}

impl Usage {
    /// Plain text in and out.
    pub fn of(prompt_tokens: u32, cached_tokens: u32, completion_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens, ..PromptTokensDetails::default() },
            completion_tokens_details: CompletionTokensDetails::default(),
            cost: None,
        }
    }
}

impl Usage {
    /// The same, so many of the completion's tokens spent on reasoning.
    pub fn with_reasoning(mut self, reasoning_tokens: u32) -> Self {
        self.completion_tokens_details.reasoning_tokens = reasoning_tokens.min(self.completion_tokens);
        self
    }

    /// The same, at this cost.
    pub fn at(mut self, cost: NanoUsd) -> Self {
        self.cost = Some(UsdNumber(cost));
        self
    }

    /// The same, with what an engine has told of kinds of tokens: of none more than there are in all.
    pub fn with_kinds(mut self, kinds: TokenKinds) -> Self {
        let (prompt, completion) = (self.prompt_tokens, self.completion_tokens);
        let of = |told: Option<u32>, all: u32| told.map(|tokens| tokens.min(all));
        let details = &mut self.prompt_tokens_details;
        details.cache_write_tokens = of(kinds.cache_write, prompt).unwrap_or(0);
        details.audio_tokens = of(kinds.prompt_audio, prompt).unwrap_or(0);
        details.image_tokens = of(kinds.prompt_image, prompt);
        details.text_tokens = of(kinds.prompt_text, prompt);
        let details = &mut self.completion_tokens_details;
        details.audio_tokens = of(kinds.completion_audio, completion).unwrap_or(0);
        details.text_tokens = of(kinds.completion_text, completion);
        details.accepted_prediction_tokens = of(kinds.accepted_prediction, completion).unwrap_or(0);
        details.rejected_prediction_tokens = of(kinds.rejected_prediction, completion).unwrap_or(0);
        self
    }
}

/// Tokens by kind, beside those from a cache and those spent on reasoning: as far as an engine tells them. They say what a
/// count is made of; all cost the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenKinds {
    /// Of the prompt, written to a prefix cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<u32>,
    /// Of the prompt, of audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_audio: Option<u32>,
    /// Of the prompt, of images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_image: Option<u32>,
    /// Of the prompt, of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<u32>,
    /// Of the answers, of audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_audio: Option<u32>,
    /// Of the answers, of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_text: Option<u32>,
    /// Of a prediction, used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_prediction: Option<u32>,
    /// Of a prediction, not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_prediction: Option<u32>,
}

/// The prompt's tokens by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PromptTokensDetails {
    /// From a prefix cache.
    pub cached_tokens: u32,
    /// Written to a prefix cache, where the engine tells it.
    #[serde(default)]
    pub cache_write_tokens: u32,
    /// Of audio.
    pub audio_tokens: u32,
    /// Of images; absent where the engine does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokens: Option<u32>,
    /// Of text; absent where the engine does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_tokens: Option<u32>,
}

/// The answers' tokens by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CompletionTokensDetails {
    /// Spent on reasoning.
    pub reasoning_tokens: u32,
    /// Of audio.
    pub audio_tokens: u32,
    /// Of text; absent where the engine does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_tokens: Option<u32>,
    /// Of a prediction, used.
    pub accepted_prediction_tokens: u32,
    /// Of a prediction, not used.
    pub rejected_prediction_tokens: u32,
}

/// A member that is absent, null, or there: `None`, `Some(None)`, `Some(Some(_))`.
mod maybe_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<Option<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}
