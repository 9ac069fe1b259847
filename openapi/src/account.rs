//! An account's own view, under `/v1`: OpenRouter's shapes where it has them (amounts are JSON numbers there), ours
//! elsewhere (decimal strings in `*_usd`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::money::{NanoUsd, UsdNumber};

/// `GET /v1/credits`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Credits {
    /// What the account was ever credited, less what went back, in dollars.
    #[schema(value_type = f64)]
    pub total_credits: UsdNumber,
    /// What it has spent of that, in dollars.
    #[schema(value_type = f64)]
    pub total_usage: UsdNumber,
}

/// `GET /v1/credits`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreditsAnswer {
    /// The answer.
    pub data: Credits,
}

/// `GET /v1/balance`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountBalance {
    /// Always `balance`.
    pub object: String,
    /// Free credit.
    #[schema(value_type = String)]
    pub credit_usd: NanoUsd,
    /// Credit that is set aside for requests, running ones and those to come.
    #[schema(value_type = String)]
    pub reserved_usd: NanoUsd,
    /// Both together.
    #[schema(value_type = String)]
    pub spendable_usd: NanoUsd,
}

/// What a key or an account may do. Null: there is no such limit.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyLimits {
    /// Dollars in a day (UTC).
    #[schema(value_type = Option<String>)]
    pub budget_day_usd: Option<NanoUsd>,
    /// Dollars in a week (from Monday, UTC).
    #[schema(value_type = Option<String>)]
    pub budget_week_usd: Option<NanoUsd>,
    /// Dollars in a month (UTC).
    #[schema(value_type = Option<String>)]
    pub budget_month_usd: Option<NanoUsd>,
    /// Dollars in all.
    #[schema(value_type = Option<String>)]
    pub budget_total_usd: Option<NanoUsd>,
    /// The models that may be asked for.
    pub models: Option<Vec<String>>,
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    pub concurrent_requests: Option<u32>,
    /// Whether providers on probation may serve.
    pub allow_probation: bool,
}

/// One of an account's keys.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Names the key in `/v1/keys/{id}`: its SHA-256.
    pub hash: String,
    /// Names it too.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// Its first characters.
    pub label: String,
    /// Whether it is out of use.
    pub disabled: bool,
    /// Whether it manages keys, and nothing else.
    pub is_management_key: bool,
    /// The budget of the longest period that has one, in dollars.
    #[schema(value_type = Option<f64>)]
    pub limit: Option<UsdNumber>,
    /// What is left of it, in dollars.
    #[schema(value_type = Option<f64>)]
    pub limit_remaining: Option<UsdNumber>,
    /// `daily`, `weekly` or `monthly`; null: it is for all time.
    pub limit_reset: Option<String>,
    /// What was spent with it, in dollars.
    #[schema(value_type = f64)]
    pub usage: UsdNumber,
    /// The same today (UTC).
    #[schema(value_type = f64)]
    pub usage_daily: UsdNumber,
    /// The same this week (from Monday, UTC).
    #[schema(value_type = f64)]
    pub usage_weekly: UsdNumber,
    /// The same this month (UTC).
    #[schema(value_type = f64)]
    pub usage_monthly: UsdNumber,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; null: it does not expire.
    pub expires_at: Option<String>,
    /// Everything that limits it.
    pub limits: KeyLimits,
}

/// `GET /v1/keys/{id}`, and what `PATCH` answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyAnswer {
    /// The key.
    pub data: ApiKey,
}

/// `POST /v1/keys`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewApiKeyAnswer {
    /// What is known of the key.
    pub data: ApiKey,
    /// The key itself, shown this once.
    pub key: String,
}

/// `GET /v1/keys`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyList {
    /// Keys that are not revoked, oldest first.
    pub data: Vec<ApiKey>,
    /// Whether more follow.
    pub has_more: bool,
    /// For `after`, to get the next page.
    pub next_cursor: Option<String>,
}

/// `DELETE /v1/keys/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyDeleted {
    /// Always true.
    pub deleted: bool,
}

/// What a key is to be; members that are not named are not limited.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// What to call it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// A budget in dollars, as a number or a decimal string, for the period of `limit_reset`.
    #[schema(value_type = Option<Value>)]
    pub limit: Option<serde_json::Value>,
    /// `daily`, `weekly` or `monthly`; null: all time.
    pub limit_reset: Option<LimitReset>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Other limits.
    pub limits: Option<NewKeyLimits>,
}

/// What to change of a key. Members that are not named stay; null takes a limit away.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyChange {
    /// What to call it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    /// Whether it is out of use.
    pub disabled: Option<bool>,
    /// A budget in dollars, as a number or a decimal string, for the period of `limit_reset`; it replaces all others.
    #[schema(value_type = Option<Value>)]
    pub limit: Option<serde_json::Value>,
    /// Only with `limit`.
    pub limit_reset: Option<LimitReset>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// Other limits.
    pub limits: Option<NewKeyLimits>,
}

/// When a budget begins anew.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitReset {
    /// Each day, UTC.
    Daily,
    /// Each Monday, UTC.
    Weekly,
    /// On the first of each month, UTC.
    Monthly,
}

/// Limits to set. Members that are not named stay; null takes a limit away.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeyLimits {
    /// Dollars in a day (UTC), a number or a decimal string.
    #[schema(value_type = Option<Value>)]
    pub budget_day_usd: Option<serde_json::Value>,
    /// Dollars in a week (from Monday, UTC).
    #[schema(value_type = Option<Value>)]
    pub budget_week_usd: Option<serde_json::Value>,
    /// Dollars in a month (UTC).
    #[schema(value_type = Option<Value>)]
    pub budget_month_usd: Option<serde_json::Value>,
    /// Dollars in all.
    #[schema(value_type = Option<Value>)]
    pub budget_total_usd: Option<serde_json::Value>,
    /// The catalogue's models that may be asked for.
    pub models: Option<Vec<String>>,
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    pub concurrent_requests: Option<u32>,
    /// Whether providers on probation may serve.
    pub allow_probation: Option<bool>,
}

/// The key that asks.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OwnKey {
    /// As `/v1/keys` tells it.
    #[serde(flatten)]
    pub key: ApiKey,
    /// Whether the account has never paid.
    pub is_free_tier: bool,
    /// What limits all of the account's keys together.
    pub account_limits: KeyLimits,
}

/// `GET /v1/key`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OwnKeyAnswer {
    /// The key that asks.
    pub data: OwnKey,
}

/// A line of `GET /v1/usage`. What is not told apart is null.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountUsageLine {
    /// The day (UTC), such as 2026-11-25.
    pub day: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The key's id; empty where the gateway died before it could say.
    pub key: Option<String>,
    /// Requests.
    pub requests: i64,
    /// Prompt tokens.
    pub prompt_tokens: i64,
    /// How many of them came from a prefix cache.
    pub cached_tokens: i64,
    /// Completion tokens.
    pub completion_tokens: i64,
    /// What they cost.
    #[schema(value_type = String)]
    pub charge_usd: NanoUsd,
}

/// `GET /v1/usage`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountUsage {
    /// Always `list`.
    pub object: String,
    /// The lines.
    pub data: Vec<AccountUsageLine>,
    /// Whether more follow.
    pub has_more: bool,
    /// For `after`, to get the next page.
    pub next_cursor: Option<String>,
}

/// An answer, afterwards.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// The answer's id.
    pub id: String,
    /// The model.
    pub model: String,
    /// Who answered: the id of the last provider that was asked.
    pub provider_name: String,
    /// RFC 3339.
    pub created_at: String,
    /// What it cost, in dollars.
    #[schema(value_type = f64)]
    pub total_cost: UsdNumber,
    /// The same.
    #[schema(value_type = f64)]
    pub usage: UsdNumber,
    /// Prompt tokens charged.
    pub tokens_prompt: u32,
    /// Completion tokens charged.
    pub tokens_completion: u32,
    /// Prompt tokens by the model's own tokenizer: the same, for nothing else is counted here.
    pub native_tokens_prompt: u32,
    /// Completion tokens by the model's own tokenizer.
    pub native_tokens_completion: u32,
    /// Prompt tokens that came from a prefix cache.
    pub native_tokens_cached: u32,
    /// Whether it was streamed.
    pub streamed: bool,
    /// Whether the client left before the end.
    pub cancelled: bool,
    /// `stop`, `length`, `tool_calls`, `content_filter` or `error`; null where the client left.
    pub finish_reason: Option<String>,
    /// What the provider's engine said; where the answer broke off, why: `client_gone`, `provider_failed`, `credit_exhausted` …
    pub native_finish_reason: Option<String>,
    /// Milliseconds from the request to the first token; null where none came, or the gateway died before it could say.
    pub latency: Option<i64>,
    /// Milliseconds from asking the first provider to the end; null where the gateway died before it could say.
    pub generation_time: Option<i64>,
    /// Attempts at it.
    pub attempts: u32,
}

/// `GET /v1/generation`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GenerationAnswer {
    /// The answer, afterwards.
    pub data: Generation,
}
