//! What a provider earned, as it asks with its own key: job by job, with a reason for every deduction.

use serde::{Deserialize, Serialize};

use crate::money::NanoUsd;
use crate::provider::ChallengeAnswer;

/// Where a provider asks for its statement.
pub const EARNINGS_PATH: &str = "/provider/v1/earnings";
/// Where a provider says where it wants to be paid.
pub const PAYOUT_DETAILS_PATH: &str = "/provider/v1/payout-details";
/// The authorization scheme of both, followed by the signed claims.
pub const SIGNED_SCHEME: &str = "LumbungSigned";

/// What a provider signs to read its statement, its public key in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementClaims {
    /// The gateway's origin as the provider dialled it.
    pub aud: String,
    /// The challenge.
    pub challenge: String,
}

/// What a provider signs to say where it wants to be paid, its public key in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutDetailsClaims {
    /// The gateway's origin as the provider dialled it.
    pub aud: String,
    /// The challenge.
    pub challenge: String,
    /// In its own words, one line of 512 bytes at most: an IBAN, a wallet.
    pub details: String,
}

impl ChallengeAnswer for StatementClaims {
    const TYP: &'static str = "lumbung-statement";

    fn aud(&self) -> &str {
        &self.aud
    }

    fn challenge(&self) -> &str {
        &self.challenge
    }
}

impl ChallengeAnswer for PayoutDetailsClaims {
    const TYP: &'static str = "lumbung-payout-details";

    fn aud(&self) -> &str {
        &self.aud
    }

    fn challenge(&self) -> &str {
        &self.challenge
    }
}

/// `GET /provider/v1/earnings`: one page of what a provider earned, oldest first, and where all of it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EarningsStatement {
    /// Always `earnings_statement`.
    pub object: String,
    /// Whose.
    pub provider: String,
    /// Unix seconds.
    pub as_of: u64,
    /// Seconds that earnings are held back after a job was settled.
    pub holdback_secs: u64,
    /// Where everything is that this provider ever earned, whatever the page shows.
    pub totals: EarningsTotals,
    /// Where it is paid to; null until it has said so.
    pub payout_details: Option<PayoutDetailsSet>,
    /// Payouts, latest first; a hundred at most.
    pub payouts: Vec<PayoutLine>,
    /// The attempts of this page.
    pub data: Vec<EarningsLine>,
    /// Whether there are more after it.
    pub has_more: bool,
    /// What to send as `after` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// Where a provider's earnings are. The ledger's own balances, to the nano-dollar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EarningsTotals {
    /// Every share that was ever earned, corrections included: the sum of all that follow.
    #[serde(rename = "earned_usd")]
    #[schema(value_type = String)]
    pub earned: NanoUsd,
    /// Held back, or waiting for its receipt.
    #[serde(rename = "pending_usd")]
    #[schema(value_type = String)]
    pub pending: NanoUsd,
    /// Paid for with credit that was given away: waits for the operator's decision.
    #[serde(rename = "promotional_usd")]
    #[schema(value_type = String)]
    pub promotional: NanoUsd,
    /// Goes out with the next payout.
    #[serde(rename = "payable_usd")]
    #[schema(value_type = String)]
    pub payable: NanoUsd,
    /// On its way.
    #[serde(rename = "in_transit_usd")]
    #[schema(value_type = String)]
    pub in_transit: NanoUsd,
    /// Paid out.
    #[serde(rename = "paid_usd")]
    #[schema(value_type = String)]
    pub paid: NanoUsd,
    /// Went back to the clients, because no signed receipt came in time.
    #[serde(rename = "withheld_usd")]
    #[schema(value_type = String)]
    pub withheld: NanoUsd,
    /// Taken back by the operator, for a reason.
    #[serde(rename = "clawed_back_usd")]
    #[schema(value_type = String)]
    pub clawed_back: NanoUsd,
    /// Paid for with credit that was given away, and refused by the operator.
    #[serde(rename = "refused_usd")]
    #[schema(value_type = String)]
    pub refused: NanoUsd,
}

/// Where a provider is paid to. The details themselves are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PayoutDetailsSet {
    /// Counted from one.
    pub version: i64,
    /// Unix seconds.
    pub set_at: u64,
    /// Unix seconds from which payouts go there.
    pub used_from: u64,
}

/// One payout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PayoutLine {
    /// Its id.
    pub id: String,
    /// The run that it belongs to.
    pub run: String,
    /// How much.
    #[serde(rename = "amount_usd")]
    #[schema(value_type = String)]
    pub amount: NanoUsd,
    /// `in_transit`, `confirmed` or `reversed`.
    pub state: String,
    /// What the operator confirmed it with; empty until then.
    pub reference: String,
    /// Unix seconds.
    pub created_at: u64,
}

/// One attempt at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EarningsLine {
    /// The job.
    pub job: String,
    /// Which attempt.
    pub attempt: u32,
    /// The catalogue's model id.
    pub model: String,
    /// When it was settled, Unix seconds.
    pub settled_at: u64,
    /// Prompt tokens paid for.
    pub prompt_tokens: u32,
    /// Completion tokens paid for.
    pub completion_tokens: u32,
    /// What the client was charged.
    #[serde(rename = "gross_usd")]
    #[schema(value_type = String)]
    pub gross: NanoUsd,
    /// The operator's part of it.
    #[serde(rename = "fee_usd")]
    #[schema(value_type = String)]
    pub fee: NanoUsd,
    /// The provider's part of it.
    #[serde(rename = "share_usd")]
    #[schema(value_type = String)]
    pub share: NanoUsd,
    /// What the share was before the provider's own receipt claimed less; null where it did not.
    #[serde(rename = "corrected_from_usd")]
    #[schema(value_type = Option<String>)]
    pub corrected_from: Option<NanoUsd>,
    /// What is left of the share without the promotional part and what was clawed back; nothing if it was withheld.
    #[serde(rename = "net_usd")]
    #[schema(value_type = String)]
    pub net: NanoUsd,
    /// Where that is.
    pub state: EarningState,
    /// Unix seconds from which it is payable, while it is pending.
    pub payable_from: Option<u64>,
    /// Unix seconds until which the signed receipt must have come, while it has not, or had to.
    pub receipt_by: Option<u64>,
    /// The payout that it went out with.
    pub payout: Option<String>,
    /// What was taken back, and why.
    pub clawbacks: Vec<ClawbackLine>,
    /// The part that was paid for with credit that was given away.
    pub promotional: Option<PromotionalLine>,
}

/// Where what an attempt earned is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EarningState {
    /// Its signed receipt has not come.
    AwaitingReceipt,
    /// Held back.
    Pending,
    /// Goes out with the next payout.
    Payable,
    /// On its way.
    InTransit,
    /// Paid out.
    Paid,
    /// No signed receipt came in time: the share went back to the client.
    Withheld,
}

/// What was taken back of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClawbackLine {
    /// The clawback.
    pub id: String,
    /// How much of this attempt.
    #[serde(rename = "amount_usd")]
    #[schema(value_type = String)]
    pub amount: NanoUsd,
    /// Why.
    pub reason: String,
    /// What shows it, text or JSON; empty if there is nothing.
    pub evidence: String,
    /// Unix seconds.
    pub at: u64,
}

/// The part of an attempt's share that was paid for with credit that was given away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PromotionalLine {
    /// How much of the share.
    #[serde(rename = "share_usd")]
    #[schema(value_type = String)]
    pub share: NanoUsd,
    /// Whether the provider gets it.
    pub state: PromotionalState,
    /// Why the operator decided so; null until it has.
    pub reason: Option<String>,
    /// The payout that it went out with.
    pub payout: Option<String>,
}

/// What the operator decided about a promotional part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromotionalState {
    /// Nothing yet.
    Held,
    /// It is payable.
    Payable,
    /// It is on its way.
    InTransit,
    /// It is paid out.
    Paid,
    /// It is refused.
    Refused,
    /// It went back with the rest: no signed receipt came in time.
    Withheld,
}
