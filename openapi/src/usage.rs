//! What was used, and invoices. Days and months are UTC; amounts decimal strings of US dollars.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::money::NanoUsd;

/// How much was used by, of or at what the line names. What the question does not tell apart is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminUsageLine)]
pub struct UsageLine {
    /// `acct_…`
    pub account: Option<String>,
    /// `key_…`; empty where a gateway died before it could say.
    pub key: Option<String>,
    /// The catalogue's model.
    pub model: Option<String>,
    /// The provider's id.
    pub provider: Option<String>,
    /// The day on which it was settled, corrected or given back.
    #[schema(example = "2026-11-25")]
    pub day: Option<String>,
    /// Clients' requests, by their first attempts.
    pub requests: i64,
    /// Attempts at them.
    pub attempts: i64,
    /// Prompt tokens charged.
    pub prompt_tokens: i64,
    /// How many of them came from a prefix cache.
    pub cached_tokens: i64,
    /// Completion tokens charged.
    pub completion_tokens: i64,
    /// What clients paid.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub charge_usd: NanoUsd,
    /// The operator's part of it.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub fee_usd: NanoUsd,
}

/// An account's month: opening balance and credits, less usage, is the closing balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invoice {
    /// `acct_…`
    pub account: String,
    /// What the operator calls the account.
    pub name: String,
    /// Which month.
    #[schema(example = "2026-11")]
    pub month: String,
    /// Whether the month is over, and this will not change.
    pub is_final: bool,
    /// What could be spent when the month began.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub opening_usd: NanoUsd,
    /// What came in or went out, but for usage.
    pub credits: Vec<InvoiceEntry>,
    /// All of that.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub credits_usd: NanoUsd,
    /// What was used, by model and key.
    pub usage: Vec<InvoiceUsage>,
    /// What all of that cost.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub usage_usd: NanoUsd,
    /// What can be spent when the month is over, or now.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub closing_usd: NanoUsd,
}

/// Something that came in, or went out (below zero).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvoiceEntry {
    /// Unix microseconds; null for several of a kind together, where there are very many.
    pub at_us: Option<i64>,
    /// `credit_paid`, `credit_promotional`, `refund` and so on.
    pub kind: String,
    /// What for, such as a payment's id.
    pub reference: String,
    /// How much.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
}

/// What was used of a model with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InvoiceUsage {
    /// The catalogue's model.
    pub model: String,
    /// `key_…`; empty where a gateway died before it could say.
    pub key: String,
    /// What its owner calls the key.
    pub label: String,
    /// Clients' requests.
    pub requests: i64,
    /// Attempts at them.
    pub attempts: i64,
    /// Prompt tokens charged.
    pub prompt_tokens: i64,
    /// How many of them came from a prefix cache.
    pub cached_tokens: i64,
    /// Completion tokens charged.
    pub completion_tokens: i64,
    /// What they cost.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub charge_usd: NanoUsd,
    /// The operator's part of it.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub fee_usd: NanoUsd,
}
