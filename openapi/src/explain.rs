//! Why this provider: what `x-lumbung-explain: 1` asks for and the answer's header of the same name holds, as JSON.

use serde::{Deserialize, Serialize};

use crate::money::NanoUsd;

/// The header, of the request and of the answer.
pub const EXPLAIN_HEADER: &str = "x-lumbung-explain";
/// Providers that are named at most: the header stays within what proxies pass.
pub const MAX_EXPLAINED: usize = 5;

/// How a provider was chosen. Times are expectations, from what the gateway has measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Explanation {
    /// The model that answers, of those that the request names.
    pub model: String,
    /// From 1; more where a provider declined or failed before it began.
    pub attempt: u32,
    /// Providers of the model.
    pub providers: usize,
    /// How many of them had room, suited, and were compared.
    pub compared: usize,
    /// What decided: `balance`, `price`, `throughput` or `latency`.
    pub by: String,
    /// What a second of the client's time counts for in the balance.
    #[schema(value_type = String, example = "0.00002")]
    pub second_usd: NanoUsd,
    /// The chosen one first, then the next best.
    pub candidates: Vec<ExplainedCandidate>,
}

/// A provider that was compared, and the parts of what it would cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainedCandidate {
    /// Its id.
    pub provider: String,
    /// Why it was looked at: `prefix` (prompts that begin like this one go there), `draw`, `vacancy` (the others were
    /// full), or `all`.
    pub from: String,
    /// Whether it is on probation: such a one serves where nobody else can.
    pub newcomer: bool,
    /// What the tokens would cost there, as far as their number can be foreseen.
    #[schema(value_type = String, example = "0.000125")]
    pub price_usd: NanoUsd,
    /// Seconds to the first token.
    pub first_token_secs: f64,
    /// Seconds that it saves by having read the beginning of the prompt before; taken off already.
    pub cached_secs: f64,
    /// Seconds from the first token to the last.
    pub output_secs: f64,
    /// Seconds that its failures cost on average.
    pub risk_secs: f64,
    /// Jobs that it has now.
    pub running: u32,
    /// Jobs that it can have.
    pub slots: u32,
}
