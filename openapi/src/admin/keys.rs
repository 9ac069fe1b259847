//! API keys as the operator sees them, and what keys and accounts may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::money::NanoUsd;

/// An API key. The key itself is kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminKey)]
pub struct Key {
    /// `key_…`
    pub id: String,
    /// Whose it is: `acct_…`
    pub account: String,
    /// What its owner calls it.
    pub label: String,
    /// Its first characters.
    pub shown_prefix: String,
    /// Whether it manages its account's keys (`/v1/keys`), and can ask for nothing else.
    pub management: bool,
    /// Whether it is out of use until it is enabled again.
    pub disabled: bool,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// Unix microseconds; null while it is good.
    pub revoked_at_us: Option<i64>,
}

/// A key to make.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminCreateKey)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// What to call it.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "laptop")]
    pub label: String,
    /// Whether it manages its account's keys, and can ask for nothing else.
    #[serde(default)]
    pub management: bool,
}

/// A key that has just been made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminCreatedKey)]
pub struct CreatedKey {
    /// The record.
    pub record: Key,
    /// The key itself, shown this once; null where a repeated call is answered with what the first one was.
    pub key: Option<String>,
}

/// What to change of a key. What is absent or null stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminChangeKey)]
#[serde(deny_unknown_fields)]
pub struct ChangeKey {
    /// What to call it.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub label: Option<String>,
    /// Whether it is out of use.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// What a key or an account may do. Absent or null: there is no such limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminLimits)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Dollars in a day (UTC).
    #[schema(value_type = Option<String>, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    pub budget_day_usd: Option<NanoUsd>,
    /// Dollars in a week (from Monday, UTC).
    #[schema(value_type = Option<String>, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    pub budget_week_usd: Option<NanoUsd>,
    /// Dollars in a month (UTC).
    #[schema(value_type = Option<String>, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "20")]
    pub budget_month_usd: Option<NanoUsd>,
    /// Dollars in all.
    #[schema(value_type = Option<String>, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    pub budget_total_usd: Option<NanoUsd>,
    /// The catalogue's models that may be asked for, by any of their names; others may not.
    #[schema(max_items = 256)]
    pub models: Option<Vec<String>>,
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    pub concurrent_requests: Option<u32>,
    /// From then on nothing is served; Unix microseconds.
    #[schema(minimum = 0, maximum = 253402300799999999i64)]
    pub expires_at_us: Option<i64>,
    /// Whether providers on probation may serve.
    #[schema(default = true)]
    pub allow_probation: bool,
}

/// None.
impl Default for Limits {
    fn default() -> Self {
        Self {
            budget_day_usd: None,
            budget_week_usd: None,
            budget_month_usd: None,
            budget_total_usd: None,
            models: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrent_requests: None,
            expires_at_us: None,
            allow_probation: true,
        }
    }
}
