//! `models`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lumbung_openapi::modality::{Architecture, Modalities, Modality};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::json;

use super::Report;
use super::table::{table, time};
use super::tokenizer;
use crate::domain::catalogue::{CatalogueModel, PriceVersion};
use crate::domain::ids::ModelId;
use crate::store::Store;

/// `models …`
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Add a model to the catalogue, or change it.
    Add(Entry),
    /// The catalogue.
    List,
    /// Set a model's reference price, from now on or from a later moment.
    Price {
        /// The model's id.
        model: ModelId,
        /// US dollars per million prompt tokens.
        #[arg(long)]
        prompt_price: NanoUsd,
        /// US dollars per million completion tokens.
        #[arg(long)]
        completion_price: NanoUsd,
        /// From when on, Unix seconds; without it: from now on. Jobs admitted before are charged as before.
        #[arg(long)]
        valid_from: Option<i64>,
    },
    /// A model's reference prices: past, in force and to come.
    Prices {
        /// The model's id.
        model: ModelId,
    },
    /// Give a model its own tokenizer, with which providers' token counts are checked.
    Tokenizer {
        /// Its id.
        model: ModelId,
        /// A folder as on Hugging Face: tokenizer.json, and chat_template.jinja or tokenizer_config.json.
        #[arg(long)]
        from: PathBuf,
    },
    /// Take a model out of the catalogue.
    Remove {
        /// Its id.
        model: ModelId,
    },
}

/// A model as the operator describes it.
#[derive(Debug, Args)]
pub struct Entry {
    /// The name that clients use.
    model: ModelId,
    /// Another name for it; may be repeated.
    #[arg(long = "alias")]
    aliases: Vec<ModelId>,
    /// A weights digest that is accepted (`sha256:…`); may be repeated. None: any weights.
    #[arg(long = "digest")]
    digests: Vec<String>,
    /// Tokens of prompt and completion together.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    context_length: u32,
    /// Completion tokens of one answer at most.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_completion_tokens: Option<u32>,
    /// What it takes (text, image, audio, video, file); may be repeated. None: text.
    #[arg(long = "input-modality")]
    input_modalities: Vec<Modality>,
    /// What it gives (text, image, audio, video, file, embeddings); may be repeated. None: text.
    #[arg(long = "output-modality")]
    output_modalities: Vec<Modality>,
    /// Reference price of prompt tokens, US dollars per million: the cap on what a provider may ask.
    #[arg(long)]
    prompt_price: NanoUsd,
    /// Reference price of completion tokens, US dollars per million.
    #[arg(long)]
    completion_price: NanoUsd,
}

pub(super) async fn run(action: Models, store: &Store) -> anyhow::Result<Report> {
    match action {
        Models::Add(entry) => {
            let id = entry.model.clone();
            store.upsert_model(&entry.into()).await?;
            let models = store.models().await?;
            Report::new(format!("{id} is in the catalogue"), models.into_iter().find(|model| model.id == id))
        }
        Models::List => {
            let models = store.models().await?;
            Report::new(list(&models), models)
        }
        Models::Price { model, prompt_price, completion_price, valid_from } => {
            let price = TokenPrice { prompt: prompt_price, completion: completion_price };
            let from_us = valid_from.map(|secs| secs.saturating_mul(1_000_000));
            let version = store.add_price(&model, &price, from_us).await?;
            Report::new(format!("from {} on", time(version.valid_from_us)), version)
        }
        Models::Prices { model } => {
            let prices = store.prices(&model, i64::MIN, i64::MAX).await?;
            let row = |version: &PriceVersion| {
                let price = &version.reference;
                [time(version.valid_from_us), format!("${}", price.prompt), format!("${}", price.completion)]
            };
            let text = table(["FROM", "IN/MTOK", "OUT/MTOK"], prices.iter().map(row).collect());
            Report::new(text, prices)
        }
        Models::Tokenizer { model, from } => tokenizer::import(&model, &from, store).await,
        Models::Remove { model } => {
            store.remove_model(&model).await?;
            Report::new(format!("{model} removed"), json!({ "id": model, "removed": true }))
        }
    }
}

impl From<Entry> for CatalogueModel {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.model,
            aliases: entry.aliases.iter().map(ModelId::to_string).collect(),
            digests: entry.digests,
            context_length: entry.context_length,
            max_completion_tokens: entry.max_completion_tokens,
            input_modalities: Modalities::new(entry.input_modalities).unwrap_or_default(),
            output_modalities: Modalities::new(entry.output_modalities).unwrap_or_default(),
            tokenizer: None, // the books know
            reference: TokenPrice { prompt: entry.prompt_price, completion: entry.completion_price },
            created_at_us: 0, // the books say when
        }
    }
}

fn list(models: &[CatalogueModel]) -> String {
    let row = |model: &CatalogueModel| {
        [
            model.id.to_string(),
            model.context_length.to_string(),
            model.max_completion_tokens.map_or_else(|| "-".into(), |n| n.to_string()),
            format!("${}", model.reference.prompt),
            format!("${}", model.reference.completion),
            Architecture::new(&model.input_modalities, &model.output_modalities, None).modality,
            if model.tokenizer.is_some() { "yes" } else { "no" }.into(),
            if model.digests.is_empty() { "any".into() } else { model.digests.len().to_string() },
            model.aliases.join(" "),
        ]
    };
    let head =
        ["MODEL", "CONTEXT", "COMPLETION", "IN/MTOK", "OUT/MTOK", "MODALITIES", "TOKENIZER", "DIGESTS", "ALIASES"];
    table(head, models.iter().map(row).collect())
}
