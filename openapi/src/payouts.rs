//! The operator's API about what providers earn: clawbacks, decisions about promotional shares, payout runs. Times are Unix
//! microseconds, amounts decimal strings of US dollars.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::money::NanoUsd;

/// Earnings that were taken back from a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Clawback {
    /// `clw_…`
    pub id: String,
    /// From whom.
    pub provider: String,
    /// How much.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
    /// How much of that went back to clients; the rest is revenue.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub refunded_usd: NanoUsd,
    /// Why; the provider reads it in its statement.
    pub reason: String,
    /// What shows it, text or JSON; empty if there is nothing. The provider reads it too.
    pub evidence: String,
    /// Unix microseconds.
    pub at_us: i64,
}

/// Earnings to take back: of `jobs`, or an amount.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateClawback {
    /// From whom.
    #[schema(pattern = "^[0-9A-Za-z_-]{43}$")]
    pub provider: String,
    /// Everything pending of these jobs goes back to the clients whose jobs they were.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 500, example = json!(["job_01K00000000000000000000000"]))]
    pub jobs: Option<Vec<String>>,
    /// So much of what is pending, from the latest attempts first, becomes revenue: above zero.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    pub amount_usd: Option<NanoUsd>,
    /// Why; the provider reads it in its statement. One line of 1000 bytes at most.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$",
        example = "audit 7: another model answered"
    )]
    pub reason: String,
    /// What shows it, text or JSON, of 16 KiB at most; the provider reads it too.
    #[serde(default)]
    #[schema(max_length = 16384, pattern = r"^[^\x00]*$")]
    pub evidence: String,
}

/// A provider's shares that one account's promotional credit paid for, and nobody has decided about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldShares {
    /// Who served.
    pub provider: String,
    /// Whose promotional credit paid: `acct_…`
    pub account: String,
    /// How many attempts that were.
    pub attempts: i64,
    /// The provider's share of them.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
    /// How much of it can be decided about: the receipts of the rest have not come yet.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub proven_usd: NanoUsd,
}

/// What to do with shares that promotional credit paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromotionalVerdict {
    /// The provider may have them: they are payable at once.
    Approve,
    /// It may not: the money that was given away goes back where it came from.
    Refuse,
}

/// A decision to make.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecidePromotional {
    /// About whose shares: all whose receipts have come.
    #[schema(pattern = "^[0-9A-Za-z_-]{43}$")]
    pub provider: String,
    /// Only those that this account's credit paid for.
    #[serde(default)]
    #[schema(pattern = "^acct_[0-9A-HJKMNP-TV-Z]{26}$")]
    pub account: Option<String>,
    /// What.
    pub verdict: PromotionalVerdict,
    /// Why; the provider reads it in its statement. One line of 1000 bytes at most.
    #[schema(min_length = 1, max_length = 1000, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", example = "a known tester")]
    pub reason: String,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromotionalDecision {
    /// `dec_…`
    pub id: String,
    /// About whose shares.
    pub provider: String,
    /// Paid for by this account's credit; null if by any.
    pub account: Option<String>,
    /// What.
    pub verdict: PromotionalVerdict,
    /// How many attempts that were.
    pub attempts: i64,
    /// How much money.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
    /// Why.
    pub reason: String,
    /// Unix microseconds.
    pub at_us: i64,
}

/// A run to make: everything payable goes on its way.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePayoutRun {
    /// Providers that can be paid less are left out: above zero.
    #[schema(value_type = String, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "10.00")]
    pub minimum_usd: NanoUsd,
    /// Your own name for it, one line of 200 bytes at most. The same one does not run twice: the run that bears it is
    /// answered. Empty or absent: not compared.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "2026-11")]
    pub reference: String,
}

/// A payout run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PayoutRun {
    /// `run_…`
    pub id: String,
    /// Your own name for it; empty if there is none.
    pub reference: String,
    /// Who could be paid less was left out.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub minimum_usd: NanoUsd,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// How many payouts it holds.
    pub payouts: i64,
    /// What they come to.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub total_usd: NanoUsd,
}

/// A payout run and all of its payouts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PayoutRunDetail {
    /// The run.
    pub run: PayoutRun,
    /// Its payouts, by provider.
    pub payouts: Vec<Payout>,
}

/// How far a payout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayoutState {
    /// Sent, not known to have arrived.
    InTransit,
    /// Arrived.
    Confirmed,
    /// Taken back: payable again.
    Reversed,
}

/// One provider's payout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payout {
    /// `pay_…`
    pub id: String,
    /// The run that it belongs to: `run_…`
    pub run: String,
    /// Who is paid.
    pub provider: String,
    /// How much.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
    /// Where to, in the provider's own words, as it signed them.
    pub details: String,
    /// Which version of its details that was.
    pub details_version: i64,
    /// How far it is.
    pub state: PayoutState,
    /// What it was confirmed with; empty until then.
    pub reference: String,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// When it was confirmed or reversed, Unix microseconds; null until then.
    pub decided_at_us: Option<i64>,
}

/// A payout that has arrived.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmPayout {
    /// What shows it, such as the transfer's id: one line of 200 bytes at most.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", example = "transfer 7")]
    pub reference: String,
}
