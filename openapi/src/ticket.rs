//! The ticket that goes with a job: what the gateway promises to pay for, in its own HMAC'd words.
//!
//! A provider cannot check the HMAC and need not: it reads the limits, and hands the ticket back in its receipt.

use serde::{Deserialize, Serialize};

use crate::merkle::Hash;
use crate::money::{NanoUsd, TokenPrice};

/// `typ` of a ticket.
pub const TICKET_TYP: &str = "lumbung-ticket";

/// Claims of a ticket. Signed with HMAC-SHA256 under a key id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The gateway replica that issued it.
    pub replica: String,
    /// The ledger account that pays: an account's allowance at that replica.
    pub allowance: String,
    /// The job; one per client request.
    pub job: String,
    /// Which attempt at the job, from 1.
    pub attempt: u32,
    /// Completion tokens that earlier attempts delivered, from which this one goes on. Counts, here and in the answer's
    /// frames and receipt, are of this attempt alone.
    pub first_token: u32,
    /// The provider it is for: its key's thumbprint.
    pub provider: String,
    /// The catalogue's model id.
    pub model: String,
    /// Weights digests that the job may be served with; empty where the catalogue names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// The provider's ask, which is what the client pays.
    #[serde(flatten)]
    pub price: TokenPrice,
    /// The operator's fee, in basis points of the charge.
    pub fee_bps: u16,
    /// The most prompt tokens that are paid for; 0 where an earlier attempt's are.
    pub max_prompt_tokens: u32,
    /// The most completion tokens that are paid for, over all choices.
    pub max_completion_tokens: u32,
    /// Whether the answer counts only as a whole, because it is not streamed: of one that breaks off the client has nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// The most that this job may cost, until a voucher says more.
    #[serde(rename = "ceiling_usd")]
    pub ceiling: NanoUsd,
    /// SHA-256 of the client's request body.
    pub request_sha256: Hash,
    /// The id that the client sees, such as `chatcmpl-…`.
    pub public_id: String,
    /// The model name that the client sees.
    pub public_model: String,
    /// The creation time that the client sees, Unix seconds.
    pub created: u64,
    /// The provider must not start after this, Unix seconds.
    pub start_by: u64,
    /// A receipt must have been offered by then to be paid, Unix seconds.
    pub claim_by: u64,
}

impl Ticket {
    /// What is drawn at random follows from this where the request names no seed: the same for every attempt at a job, so
    /// that whoever continues an answer draws as whoever began it would have.
    pub fn seed(&self) -> i64 {
        let hash = Hash::of(format!("lumbung seed 1 {}", self.job).as_bytes());
        hash.0.first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
    }

    /// The most completion tokens of the whole answer, over all choices and attempts.
    pub fn max_tokens_in_all(&self) -> u32 {
        self.first_token.saturating_add(self.max_completion_tokens)
    }
}
