//! Erasing what is personal of an account, or of a provider.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::money::NanoUsd;

/// What becomes of paid credit that an account has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverCredit {
    /// The operator pays it back, outside these books.
    Refund,
    /// The operator keeps it: it becomes revenue.
    Forfeit,
}

/// How to erase an account.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EraseAccount {
    /// What becomes of credit that is left. Absent: where there is any, nothing is erased. Credit that was given away lapses in either case.
    #[serde(default)]
    pub balance: Option<LeftoverCredit>,
}

/// What was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    /// Of whom.
    pub id: String,
    /// Unix microseconds.
    pub at_us: i64,
    /// How many rows of what.
    pub rows: Vec<ErasedRows>,
    /// Paid credit to be paid back.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub refunded_usd: NanoUsd,
    /// Paid credit that became revenue.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub forfeited_usd: NanoUsd,
    /// Credit that had been given away.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub lapsed_usd: NanoUsd,
}

/// How much of one kind was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErasedRows {
    /// Of what, such as `api_keys` or `responses`.
    pub kind: String,
    /// How many: deleted, or what was personal in them taken out.
    pub rows: i64,
}
