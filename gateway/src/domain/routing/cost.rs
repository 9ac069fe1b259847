//! What it costs to have a request served by one provider, in dollars, waiting included.
//!
//! ```text
//! price            ask × tokens
//! + first token    4 × second × (round trip + time per prompt token × (prompt − cached prefix) × (prompts ahead + 1))
//! + the rest       second × (output ÷ tokens per second × crowding)
//! + risk           4 × second × (share of failures × what one costs)
//! − spared         12 × second × time per prompt token × cached prefix
//! ```
//!
//! `second` is what a second of the client's time is worth. Prices are exact; their sum with times is only for ranking.

use lumbung_openapi::money::{NanoUsd, TokenPrice};

use super::vitals::Reading;

/// A prompt takes as long as if it were so many tokens longer: what beginning costs whatever its length.
pub const BEGINNING_TOKENS: f64 = 64.0;
/// A provider that is full answers each of its jobs so much more slowly than an idle one, in shares of an idle one's time.
const CROWDING: f64 = 1.0;
/// What a failure costs the client: the time until it is noticed, and another provider's time to begin.
const FAILURE_SECS: f64 = 20.0;

/// What is asked, as far as it bears on the cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Tokens of the prompt, about.
    pub prompt_tokens: u32,
    /// How many of them other requests are likely to share.
    pub prefix_tokens: u32,
    /// Tokens of the answer, about.
    pub completion_tokens: u32,
}

/// What a second of the client's time is worth, by what it waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worth {
    /// Of the price, 1 or next to nothing.
    pub price: f64,
    /// Nano-dollars for a second until the first token.
    pub first_token: f64,
    /// Nano-dollars for a second from the first to the last.
    pub output: f64,
    /// Nano-dollars for a second of reading that is spared: whoever comes behind waits less, too.
    pub spared: f64,
}

/// A second in which nothing is seen yet counts for so many of those in which the answer comes.
const NOTHING_SEEN: f64 = 4.0;
/// A second of reading that is spared counts for so many more, because of those who come behind.
const SPARES_OTHERS: f64 = 3.0;
/// What is small enough to decide only between equals.
const TIE_BREAK: f64 = 1e-6;
/// A second that outweighs every price: a dollar.
const PRICELESS: f64 = 1e9;

impl Worth {
    /// Price and time at so many dollars for a second.
    pub fn balanced(second: NanoUsd) -> Self {
        let second = second.nanos() as f64;
        let first_token = NOTHING_SEEN * second;
        Self { price: 1.0, first_token, output: second, spared: SPARES_OTHERS * first_token }
    }

    /// The price alone; time decides between equals.
    pub fn price() -> Self {
        Self { price: 1.0, first_token: TIE_BREAK, output: TIE_BREAK, spared: 0.0 }
    }

    /// Tokens per second.
    pub fn throughput() -> Self {
        Self { price: TIE_BREAK, first_token: TIE_BREAK, output: PRICELESS, spared: 0.0 }
    }

    /// The time to the first token.
    pub fn latency() -> Self {
        Self { price: TIE_BREAK, first_token: PRICELESS, output: TIE_BREAK, spared: 0.0 }
    }
}

/// The parts of a cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// What the tokens cost, as far as their number can be foreseen.
    pub price: NanoUsd,
    /// Seconds to the first token, what is cached already taken off.
    pub first_token_secs: f64,
    /// Seconds that the cached prefix saves.
    pub cached_secs: f64,
    /// Seconds from the first token to the last.
    pub output_secs: f64,
    /// Seconds that failures cost, on average.
    pub risk_secs: f64,
    /// All of it, weighed: nano-dollars, for ranking only.
    pub total: f64,
}

/// What `work` costs at a provider that asks `ask`. `cached`: how many of the prompt's tokens it need not read again.
pub fn cost(work: &Work, worth: &Worth, ask: &TokenPrice, reading: &Reading, ahead: u32, crowd: f64) -> Cost {
    let price = ask.cost(work.prompt_tokens, work.completion_tokens).unwrap_or(NanoUsd::MAX);
    let prompt = f64::from(work.prompt_tokens);
    let cached = reading.cached_tokens.min(prompt);
    // Who is ahead has a prompt like this one's: nothing better is known of them.
    let queue = reading.secs_per_prompt_token * (prompt + BEGINNING_TOKENS) * f64::from(ahead);
    let own = reading.secs_per_prompt_token * (prompt + BEGINNING_TOKENS - cached);
    let first_token_secs = reading.round_trip_secs + queue + own;
    let output_secs = f64::from(work.completion_tokens) / reading.tokens_per_sec * (1.0 + CROWDING * crowd);
    let risk_secs = reading.failures * FAILURE_SECS;
    // A failure delays the first token and whatever follows: it counts as what weighs more.
    let cached_secs = reading.secs_per_prompt_token * cached;
    let total = worth.price * price.nanos() as f64
        + worth.first_token * first_token_secs
        + worth.output * output_secs
        + worth.first_token.max(worth.output) * risk_secs
        - worth.spared * cached_secs;
    Cost { price, first_token_secs, cached_secs, output_secs, risk_secs, total }
}

/// How much slower a provider answers with such a share of its slots taken.
pub fn slowdown(crowd: f64) -> f64 {
    1.0 + CROWDING * crowd
}
