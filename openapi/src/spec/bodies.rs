//! The requests and answers of the endpoints beside chat as the document describes them. What reads a request is
//! [`crate::endpoint`], member by member; a test holds the two together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::chat::{ProviderPreferences, Stop, StreamOptions};
use crate::reply::Usage;

/// Text to go on with.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// A model's id, from `GET /v1/models`.
    #[schema(example = "lumbung/padi", min_length = 1, max_length = 256)]
    pub model: String,
    /// A string, an array of strings, an array of token ids, or an array of such arrays.
    #[schema(value_type = Value)]
    pub prompt: serde_json::Value,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// The most completion tokens of each answer; 16 if absent.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// How many answers to each prompt. Answer `n × p + i` is the `i`-th of prompt `p`.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u32>,
    /// More than `n` is refused unless the model's providers can choose the best.
    #[schema(minimum = 1, maximum = 16)]
    pub best_of: Option<u32>,
    /// Whether each answer begins with its prompt. Not together with `logprobs`.
    pub echo: Option<bool>,
    /// What comes after the answer.
    pub suffix: Option<String>,
    /// Return log-probabilities, with so many alternatives.
    #[schema(minimum = 0, maximum = 5)]
    pub logprobs: Option<u8>,
    /// 0 is greedy.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Repeats the answer on the same weights.
    pub seed: Option<i64>,
    /// Against tokens by how often they have occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Against tokens that have occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// By token id, −100 to 100.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Texts before which the answer ends.
    pub stop: Option<Stop>,
    /// OpenRouter's: which providers may serve.
    pub provider: Option<ProviderPreferences>,
    /// A label; changes nothing about the answer.
    pub user: Option<String>,
}

/// Text that goes on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TextCompletion {
    /// Names the answer.
    pub id: String,
    /// Always `text_completion`, in chunks too.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// In the order of their indices.
    pub choices: Vec<TextChoice>,
    /// Absent in chunks unless asked for.
    pub usage: Option<Usage>,
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TextChoice {
    /// From 0.
    pub index: u32,
    /// The text.
    pub text: String,
    /// `tokens`, `token_logprobs`, `top_logprobs` and `text_offset`, side by side; null unless asked for.
    #[schema(value_type = Option<Object>)]
    pub logprobs: Option<serde_json::Value>,
    /// `stop`, `length` or `content_filter`; null in a stream before the end.
    pub finish_reason: Option<String>,
}

/// A response to create. Where the operator keeps no responses, `store: true` and `previous_response_id` are refused.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ResponseRequest {
    /// A model's id, from `GET /v1/models`.
    #[schema(example = "lumbung/padi", min_length = 1, max_length = 256)]
    pub model: String,
    /// Text, or items: messages, `function_call`, `function_call_output`, `reasoning`.
    #[schema(value_type = Value)]
    pub input: serde_json::Value,
    /// The system prompt.
    pub instructions: Option<String>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Has no effect.
    #[schema(value_type = Option<Object>)]
    pub stream_options: Option<serde_json::Value>,
    /// The most tokens, reasoning included.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u32>,
    /// 0 is greedy.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Functions that the model may call; no other tools are offered.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<serde_json::Value>>,
    /// `none`, `auto`, `required`, a function, or `allowed_tools`.
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<serde_json::Value>,
    /// Whether several tools may be called at once.
    pub parallel_tool_calls: Option<bool>,
    /// `format`: `text`, `json_object` or `json_schema`; `verbosity`.
    #[schema(value_type = Option<Object>)]
    pub text: Option<serde_json::Value>,
    /// `effort`; `summary` only as `auto`.
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<serde_json::Value>,
    /// `message.output_text.logprobs`; `reasoning.encrypted_content` has no effect.
    pub include: Option<Vec<String>>,
    /// How many alternatives with each token; needs `include`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u8>,
    /// Only `disabled`.
    pub truncation: Option<String>,
    /// Keep the response, and what it answers: true if absent where the operator keeps responses, only false elsewhere.
    pub store: Option<bool>,
    /// Only false.
    pub background: Option<bool>,
    /// The response that was kept and that this one goes on from; its instructions do not carry over.
    pub previous_response_id: Option<String>,
    /// OpenRouter's: which providers may serve.
    pub provider: Option<ProviderPreferences>,
    /// A label; changes nothing about the answer.
    pub user: Option<String>,
    /// A label; changes nothing about the answer.
    pub safety_identifier: Option<String>,
    /// A label; changes nothing about the answer.
    pub prompt_cache_key: Option<String>,
    /// A label; changes nothing about the answer.
    pub service_tier: Option<String>,
    /// Labels; change nothing about the answer.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// A response, with all the members that Open Responses requires.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// Names the response.
    pub id: String,
    /// Always `response`.
    pub object: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; null until then.
    pub completed_at: Option<u64>,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: String,
    /// The model that answers.
    pub model: String,
    /// `message`, `reasoning` and `function_call` items.
    #[schema(value_type = Vec<Object>)]
    pub output: Vec<serde_json::Value>,
    /// `reason`: `max_output_tokens` or `content_filter`.
    #[schema(value_type = Option<Object>)]
    pub incomplete_details: Option<serde_json::Value>,
    /// `code` and `message`.
    #[schema(value_type = Option<Object>)]
    pub error: Option<serde_json::Value>,
    /// `input_tokens`, `output_tokens`, `total_tokens` and their details; null until it is complete.
    #[schema(value_type = Option<Object>)]
    pub usage: Option<serde_json::Value>,
}

/// Anthropic's request.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MessageRequest {
    /// A model's id, from `GET /v1/models`.
    #[schema(example = "lumbung/padi", min_length = 1, max_length = 256)]
    pub model: String,
    /// The conversation so far: text, or blocks (`text`, `image`, `tool_use`, `tool_result`, `thinking`).
    #[schema(value_type = Vec<Object>, min_items = 1, max_items = 2048)]
    pub messages: Vec<serde_json::Value>,
    /// The most completion tokens.
    #[schema(minimum = 1)]
    pub max_tokens: u32,
    /// The system prompt: text, or blocks of text.
    #[schema(value_type = Option<Value>)]
    pub system: Option<serde_json::Value>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Texts before which the answer ends.
    #[schema(max_items = 4)]
    pub stop_sequences: Option<Vec<String>>,
    /// 0 is greedy.
    #[schema(minimum = 0, maximum = 1)]
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Functions that the model may call; no other tools are offered.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<serde_json::Value>>,
    /// `auto`, `any`, `tool` or `none`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<serde_json::Value>,
    /// `enabled` with a budget, `adaptive` or `disabled`.
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<serde_json::Value>,
    /// `format`: `json_schema`.
    #[schema(value_type = Option<Object>)]
    pub output_config: Option<serde_json::Value>,
    /// `user_id`: a label.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<serde_json::Value>,
    /// A label; changes nothing about the answer.
    pub service_tier: Option<String>,
    /// OpenRouter's: which providers may serve.
    pub provider: Option<ProviderPreferences>,
}

/// Anthropic's message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageObject {
    /// Names the message.
    pub id: String,
    /// Always `message`.
    pub r#type: String,
    /// Always `assistant`.
    pub role: String,
    /// The model that answers.
    pub model: String,
    /// `thinking`, `text` and `tool_use` blocks.
    #[schema(value_type = Vec<Object>)]
    pub content: Vec<serde_json::Value>,
    /// `end_turn`, `max_tokens`, `stop_sequence`, `tool_use` or `refusal`.
    pub stop_reason: Option<String>,
    /// The one that ended it, where the engine tells.
    pub stop_sequence: Option<String>,
    /// `input_tokens`, `cache_read_input_tokens`, `output_tokens`.
    #[schema(value_type = Object)]
    pub usage: serde_json::Value,
}

/// Texts to make vectors of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// A model's id, from `GET /v1/models`.
    #[schema(min_length = 1, max_length = 256)]
    pub model: String,
    /// A string, an array of strings, an array of token ids, or an array of such arrays; at most 2,048 inputs.
    #[schema(value_type = Value)]
    pub input: serde_json::Value,
    /// `float` or `base64`.
    pub encoding_format: Option<String>,
    /// How many of a vector's numbers are wanted.
    #[schema(minimum = 1, maximum = 65536)]
    pub dimensions: Option<u32>,
    /// A label; changes nothing about the answer.
    pub user: Option<String>,
}

/// Vectors.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    pub object: String,
    /// In the inputs' order.
    pub data: Vec<EmbeddingItem>,
    /// The model that made them.
    pub model: String,
    /// `prompt_tokens` and `total_tokens`.
    #[schema(value_type = Object)]
    pub usage: serde_json::Value,
}

/// One vector.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingItem {
    /// Always `embedding`.
    pub object: String,
    /// From 0.
    pub index: u32,
    /// Numbers, or base64 of little-endian 32-bit floats.
    #[schema(value_type = Value)]
    pub embedding: serde_json::Value,
}
