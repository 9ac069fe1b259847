//! What a script says: of the model, and what it answers to what.

use serde::Deserialize;

/// A script: what is said of the model, and what it answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The digest that is offered.
    #[serde(default)]
    pub weights_digest: String,
    /// The quantization that is offered.
    #[serde(default = "unknown")]
    pub quantization: String,
    /// Tokens of prompt and completion together.
    #[serde(default = "large_context")]
    pub context_length: u32,
    /// OpenAI's parameters that are offered, by name; those of plain text if absent.
    pub supported_parameters: Option<Vec<String>>,
    /// How many numbers a vector has: then it is vectors that are offered, and no answers.
    #[serde(default)]
    pub embedding_dimensions: Option<u32>,
    /// Milliseconds for each vector.
    #[serde(default)]
    pub embedding_delay_ms: u32,
    /// The first that matches answers.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// One answer of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Part of the last user message; `*` matches any.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What is answered: one token for each word with the white space before it.
    #[serde(default)]
    pub reply: String,
    /// What is thought before the reply.
    #[serde(default)]
    pub reasoning: String,
    /// Tools that are called after the reply.
    #[serde(default)]
    pub calls: Vec<ScriptedCall>,
    /// In place of a reply: so many tokens…
    #[serde(default)]
    pub tokens: Option<u32>,
    /// …of this text.
    #[serde(default = "padi")]
    pub word: String,
    /// In place of one token for each word: the reply in so many tokens, as a provider would that spells it in smaller
    /// ones, or invents some that show nothing.
    #[serde(default)]
    pub claim_tokens: Option<u32>,
    /// What the prompt is counted as; its words if absent.
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    /// How many of them count as cached.
    #[serde(default)]
    pub cached_tokens: u32,
    /// Milliseconds before the first token.
    #[serde(default)]
    pub delay_ms_first: f64,
    /// Milliseconds from token to token; 0 is as fast as they are taken.
    #[serde(default)]
    pub delay_ms_per_token: f64,
    /// Tokens that come together.
    #[serde(default = "one")]
    pub tokens_per_event: u32,
    /// The engine fails after so many tokens.
    #[serde(default)]
    pub fail_after: Option<u32>,
    /// Nothing comes any more after so many tokens.
    #[serde(default)]
    pub freeze_after: Option<u32>,
    /// The process is aborted after so many tokens.
    #[serde(default)]
    pub die_after: Option<u32>,
    /// The answer does not begin.
    #[serde(default)]
    pub error: Option<ScriptedError>,
}

/// A tool call of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedCall {
    /// The tool.
    pub name: String,
    /// JSON text: one token for each word with the white space before it.
    pub arguments: String,
}

/// Why a scripted answer does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptedError {
    /// The request is at fault.
    Invalid,
    /// Every slot is taken.
    Busy,
    /// The engine is at fault.
    Failed,
}

pub(super) fn unknown() -> String {
    "unknown".into()
}

pub(super) fn large_context() -> u32 {
    131_072
}

fn padi() -> String {
    " padi".into()
}

fn one() -> u32 {
    1
}
