//! What is told of models, and of who serves them: OpenAI's members, and what marketplaces show beside them in OpenRouter's words.

use serde::{Deserialize, Serialize};

use crate::modality::Architecture;

/// One model, `GET /v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Model {
    /// Its name in requests.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When it entered the catalogue, Unix seconds.
    pub created: u64,
    /// The part of its name before the slash.
    pub owned_by: String,
    /// What it takes and gives.
    pub architecture: Architecture,
    /// What marketplaces show.
    #[serde(flatten)]
    pub market: ModelMarket,
}

/// What marketplaces show of a model, in OpenRouter's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelMarket {
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Completion tokens of one answer at most; null where only the context limits them.
    pub max_completion_tokens: Option<u32>,
    /// The least that a provider asks now; the most that one may ask where nobody serves it.
    pub pricing: ModelPricing,
    /// The parameters that at least one provider honours, by OpenAI's names. `prompt`: it is served at `/v1/completions`;
    /// `input`: at `/v1/embeddings`.
    pub supported_parameters: Vec<String>,
    /// How the weights are quantized that providers serve.
    pub quantizations: Vec<String>,
    /// How many providers serve it now.
    pub providers: u32,
    /// Seconds to the first token, over the latest jobs that the gateway which answers has relayed itself; null until it has.
    pub latency: Option<Spread>,
    /// Tokens per second of one answer, likewise.
    pub throughput: Option<Spread>,
}

/// How a figure is spread over jobs: half of them did at least as well as `p50`, 99 of 100 at least as well as `p99`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Spread {
    /// Half of the jobs.
    pub p50: f64,
    /// Three of four.
    pub p75: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// US dollars per token, as decimal strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelPricing {
    /// For prompt tokens.
    #[schema(example = "0.0000005")]
    pub prompt: String,
    /// For completion tokens.
    #[schema(example = "0.000002")]
    pub completion: String,
}

/// `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The models that a provider serves now.
    pub data: Vec<Model>,
}

/// `GET /v1/models/{id}/endpoints`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelEndpoints {
    /// The model.
    pub data: ServedModel,
}

/// A model and the providers that serve it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServedModel {
    /// Its name in requests.
    pub id: String,
    /// The same.
    pub name: String,
    /// When it entered the catalogue, Unix seconds.
    pub created: u64,
    /// What there is to say about it: nothing.
    pub description: String,
    /// What it takes and gives.
    pub architecture: Architecture,
    /// The providers, the cheapest first; 1,000 at most.
    pub endpoints: Vec<ModelEndpoint>,
}

/// One provider's offer of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelEndpoint {
    /// Provider and model in one line.
    pub name: String,
    /// The model's name in requests.
    pub model_id: String,
    /// The same.
    pub model_name: String,
    /// What the provider is called, if the operator trusts it and it has a name; otherwise its id. `provider.order`, `only` and
    /// `ignore` mean by a name all who have it.
    pub provider_name: String,
    /// How `provider.order`, `only` and `ignore` name it and nobody else: its id.
    pub tag: String,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Completion tokens of one answer at most; null where only the context limits them.
    pub max_completion_tokens: Option<u32>,
    /// Always null: only the context limits them.
    pub max_prompt_tokens: Option<u32>,
    /// What it asks.
    pub pricing: ModelPricing,
    /// How its weights are quantized, as it says.
    pub quantization: String,
    /// The parameters that it honours, by OpenAI's names.
    pub supported_parameters: Vec<String>,
    /// Whether it was seen not to read a prompt's beginning again that it had read before.
    pub supports_implicit_caching: bool,
    /// 0: it works, as far as the gateway which answers knows; -2: it failed too often and is left alone for a while.
    pub status: i32,
    /// Always null: who is not there is not in this list, and for how long one was is not kept.
    pub uptime_last_30m: Option<f64>,
    /// Seconds to the first token, over the latest jobs that the gateway which answers has relayed itself; null until it has.
    pub latency_last_30m: Option<Spread>,
    /// Tokens per second of one answer, likewise.
    pub throughput_last_30m: Option<Spread>,
}
