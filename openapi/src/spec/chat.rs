//! The request of `POST /v1/chat/completions` as the document describes it. What reads a request is [`crate::chat`],
//! member by member, so that an error can name the member; a test holds the two together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A chat. Members outside OpenAI's specification are passed on to the provider; members of it that the chosen model
/// cannot honour are refused by name, never ignored. Null is the same as absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletionRequest {
    /// A model's id, from `GET /v1/models`. Behind it, `:floor` asks for the lowest price and `:nitro` for the most tokens per
    /// second (`provider.sort`). Where `models` is there, it may be left out.
    #[schema(example = "lumbung/padi", min_length = 1, max_length = 256)]
    pub model: String,
    /// The conversation so far.
    #[schema(min_items = 1, max_items = 2048)]
    pub messages: Vec<RequestMessage>,
    /// Send the answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// The same as `max_completion_tokens`.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// The most completion tokens of each answer.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// How many answers.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u32>,
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
    /// Return the log-probabilities of the tokens.
    pub logprobs: Option<bool>,
    /// How many alternatives with each; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<u8>,
    /// `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": …}`.
    #[schema(value_type = Option<Object>)]
    pub response_format: Option<serde_json::Value>,
    /// Tools that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<serde_json::Value>>,
    /// `none`, `auto`, `required`, or an object that names a tool.
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<serde_json::Value>,
    /// Whether several tools may be called at once.
    pub parallel_tool_calls: Option<bool>,
    /// The older form of `tools`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub functions: Option<Vec<serde_json::Value>>,
    /// The older form of `tool_choice`.
    #[schema(value_type = Option<Value>)]
    pub function_call: Option<serde_json::Value>,
    /// `none`, `minimal`, `low`, `medium`, `high` or `xhigh`.
    pub reasoning_effort: Option<String>,
    /// Such as `low`.
    pub verbosity: Option<String>,
    /// Of the answer: `text`, `audio`.
    pub modalities: Option<Vec<String>>,
    /// How spoken answers sound.
    #[schema(value_type = Option<Object>)]
    pub audio: Option<serde_json::Value>,
    /// Text that the answer is expected to repeat.
    #[schema(value_type = Option<Object>)]
    pub prediction: Option<serde_json::Value>,
    /// Keep the answer for later retrieval.
    pub store: Option<bool>,
    /// Search the web first.
    #[schema(value_type = Option<Object>)]
    pub web_search_options: Option<serde_json::Value>,
    /// vLLM's: the last message is the answer's beginning, and the model goes on with it.
    pub continue_final_message: Option<bool>,
    /// vLLM's: whether the assistant's turn is opened for the answer.
    pub add_generation_prompt: Option<bool>,
    /// vLLM's: variables of the model's chat template, such as `{"enable_thinking": false}`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<serde_json::Value>,
    /// OpenRouter's: which providers may serve. Members other than these are passed on.
    pub provider: Option<ProviderPreferences>,
    /// OpenRouter's: models to fall back on, in order, where `model` is unknown, not served, busy, or fails before it answers. The
    /// answer's `model` says which it was; its price is what is paid.
    #[schema(max_items = 8)]
    pub models: Option<Vec<String>>,
    /// A label; changes nothing about the answer.
    pub user: Option<String>,
    /// A label; changes nothing about the answer.
    pub safety_identifier: Option<String>,
    /// A label; changes nothing about the answer.
    pub prompt_cache_key: Option<String>,
    /// A label; changes nothing about the answer.
    pub prompt_cache_retention: Option<String>,
    /// A label; changes nothing about the answer.
    pub service_tier: Option<String>,
    /// Labels; change nothing about the answer.
    pub metadata: Option<BTreeMap<String, String>>,
}

/// Which providers may serve. A wish that leaves nobody is an error that names it (404, `no_allowed_provider`).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProviderPreferences {
    /// Provider ids, to be tried first and in this order.
    #[schema(max_items = 64)]
    pub order: Option<Vec<String>>,
    /// Provider ids: nobody else may serve.
    #[schema(max_items = 64)]
    pub only: Option<Vec<String>>,
    /// Provider ids: they may not serve.
    #[schema(max_items = 64)]
    pub ignore: Option<Vec<String>>,
    /// Whether, where `order` is exhausted, others may serve; without `order`, whether another than the first choice may. True
    /// if absent.
    pub allow_fallbacks: Option<bool>,
    /// Whether providers must honour every parameter of the request: here they always must.
    pub require_parameters: Option<bool>,
    /// `price`, `throughput` or `latency`, or an object; without it, price and time are weighed against each other.
    #[schema(value_type = Option<Value>, example = "throughput")]
    pub sort: Option<serde_json::Value>,
    /// Providers that ask for more are not chosen, and no more is reserved.
    pub max_price: Option<MaxPrices>,
    /// `int4`, `int8`, `fp4`, `mxfp4`, `nvfp4`, `fp6`, `fp8`, `mxfp8`, `fp16`, `bf16`, `fp32`, `unknown`: as the providers say
    /// themselves.
    #[schema(max_items = 64)]
    pub quantizations: Option<Vec<String>>,
    /// Tokens per second, a number (for half of a provider's jobs) or an object with `p50`, `p75`, `p90`, `p99`. Providers that do
    /// not reach it come last.
    #[schema(value_type = Option<Value>, example = 50)]
    pub preferred_min_throughput: Option<serde_json::Value>,
    /// Seconds to the first token, like `preferred_min_throughput`. Providers that take longer come last.
    #[schema(value_type = Option<Value>, example = 2)]
    pub preferred_max_latency: Option<serde_json::Value>,
    /// `allow`, or `deny`: only providers that keep nothing. None has promised that, so `deny` is refused.
    pub data_collection: Option<String>,
    /// Only providers that retain nothing. None has promised that, so `true` is refused.
    pub zdr: Option<bool>,
    /// Only models whose answers may be used for training. The catalogue does not know, so `true` is refused.
    pub enforce_distillable_text: Option<bool>,
}

/// What may be asked at most: US dollars per million tokens, as numbers or as decimal strings.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MaxPrices {
    /// For prompt tokens.
    #[schema(value_type = Option<Value>, example = 0.5)]
    pub prompt: Option<serde_json::Value>,
    /// For completion tokens.
    #[schema(value_type = Option<Value>, example = "2")]
    pub completion: Option<serde_json::Value>,
    /// For a request. Nobody here charges by request, so any cap is kept.
    #[schema(value_type = Option<Value>)]
    pub request: Option<serde_json::Value>,
    /// For an image. Nobody here charges by image, so any cap is kept.
    #[schema(value_type = Option<Value>)]
    pub image: Option<serde_json::Value>,
    /// For audio. Nobody here charges by its length, so any cap is kept.
    #[schema(value_type = Option<Value>)]
    pub audio: Option<serde_json::Value>,
}

/// Only with `stream`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// End the stream with a chunk that holds the usage and no choices.
    pub include_usage: Option<bool>,
}

/// One message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RequestMessage {
    /// Who speaks.
    pub role: RequestRole,
    /// What is said; an assistant's message that calls tools may have none.
    pub content: Option<Content>,
    /// Who exactly speaks.
    pub name: Option<String>,
    /// Tools that an assistant called: `{"id": …, "type": "function", "function": {"name": …, "arguments": …}}`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<serde_json::Value>>,
    /// Of a tool's result: the call that it answers.
    pub tool_call_id: Option<String>,
    /// What an assistant thought before it answered, given back to a model that wants it.
    pub reasoning_content: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestRole {
    /// The operator of the application.
    System,
    /// The same.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
    /// The older form of `tool`.
    Function,
}

/// Text, or parts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts, in order.
    Parts(Vec<ContentPart>),
}

/// One part of a message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// An assistant's refusal.
    Refusal {
        /// The text.
        refusal: String,
    },
    /// A picture.
    ImageUrl {
        /// `{"url": …}`.
        #[schema(value_type = Object)]
        image_url: serde_json::Value,
    },
    /// Sound.
    InputAudio {
        /// `{"data": …, "format": …}`.
        #[schema(value_type = Object)]
        input_audio: serde_json::Value,
    },
    /// A file.
    File {
        /// `{"file_data": …}`.
        #[schema(value_type = Object)]
        file: serde_json::Value,
    },
}

/// One text, or up to four.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}
