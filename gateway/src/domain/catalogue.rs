//! The operator's catalogue: which models may be served, with which weights, at which price at most.

use lumbung_openapi::modality::Modalities;
use lumbung_openapi::money::TokenPrice;
use serde::Serialize;

use super::ids::ModelId;

/// A reference price and when it begins; it ends when the next one begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PriceVersion {
    /// Unix microseconds.
    pub valid_from_us: i64,
    /// The price.
    pub reference: TokenPrice,
    /// When it was set, Unix microseconds.
    pub created_at_us: i64,
}

/// One model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CatalogueModel {
    /// The name that clients use.
    pub id: ModelId,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Weights digests that are accepted; empty for any.
    pub digests: Vec<String>,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Completion tokens of one answer at most, where that is less than the context.
    pub max_completion_tokens: Option<u32>,
    /// What it takes; requests with anything else are refused.
    pub input_modalities: Modalities,
    /// What it gives.
    pub output_modalities: Modalities,
    /// The digest of its tokenizer. Set with the tokenizer's files and on its own, never with the rest of the entry.
    pub tokenizer: Option<String>,
    /// The reference price in force: the cap on what a provider may ask.
    pub reference: TokenPrice,
    /// When it came into the catalogue, Unix microseconds.
    pub created_at_us: i64,
}
