//! `models`.

use clap::{Args, Subcommand};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::json;

use super::Report;
use super::table::table;
use crate::domain::catalogue::CatalogueModel;
use crate::domain::ids::ModelId;
use crate::store::Store;

/// `models …`
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Add a model to the catalogue, or change it.
    Add(Entry),
    /// The catalogue.
    List,
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
            if model.digests.is_empty() { "any".into() } else { model.digests.len().to_string() },
            model.aliases.join(" "),
        ]
    };
    let head = ["MODEL", "CONTEXT", "COMPLETION", "IN/MTOK", "OUT/MTOK", "DIGESTS", "ALIASES"];
    table(head, models.iter().map(row).collect())
}
