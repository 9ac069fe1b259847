//! One model: which engine serves it, in how many slots, and for how much.

use std::ffi::OsString;

use anyhow::{Context, bail};
use clap::{Args, Command, FromArgMatches};
use lumbung_openapi::money::{NanoUsd, TokenPrice};

use super::engine::EngineArgs;

/// What is served, and for how much. Each table under `[[models]]` of the configuration file is one more.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ModelArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// US dollars asked per million prompt tokens.
    #[arg(long, env = "LUMBUNG_PROVIDER_ASK_PROMPT", value_name = "USD", default_value = "0.05", value_parser = ask)]
    pub ask_prompt: NanoUsd,
    /// US dollars asked per million completion tokens.
    #[arg(long, env = "LUMBUNG_PROVIDER_ASK_COMPLETION", value_name = "USD", default_value = "0.10", value_parser = ask)]
    pub ask_completion: NanoUsd,
}

impl ModelArgs {
    /// What is asked.
    pub fn ask(&self) -> TokenPrice {
        TokenPrice { prompt: self.ask_prompt, completion: self.ask_completion }
    }

    /// This one, if one is named, and those of the file's tables. At least one, and no two under one name.
    pub fn with_others(&self, tables: &[Vec<OsString>]) -> anyhow::Result<Vec<Self>> {
        let models = self.with_tables(tables)?;
        let mut ids = Vec::new();
        for model in &models {
            let id = model.engine.model_id()?;
            if ids.contains(&id) {
                bail!("two models are called '{id}': give one of them another model-id");
            }
            ids.push(id);
        }
        Ok(models)
    }

    /// The same, whatever is missing.
    pub fn with_tables(&self, tables: &[Vec<OsString>]) -> anyhow::Result<Vec<Self>> {
        let mut models: Vec<Self> = Vec::new();
        // Without tables the message is that of what is missing.
        if tables.is_empty() || self.engine.names_a_model() {
            models.push(self.clone());
        }
        for (at, table) in tables.iter().enumerate() {
            models.push(of_table(table).with_context(|| format!("models[{at}]"))?);
        }
        Ok(models)
    }
}

fn of_table(table: &[OsString]) -> anyhow::Result<ModelArgs> {
    // The environment is about the one model that has no table.
    let command = ModelArgs::augment_args(Command::new("models").no_binary_name(true));
    let command = command.mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    Ok(ModelArgs::from_arg_matches(&command.try_get_matches_from(table)?)?)
}

fn ask(text: &str) -> Result<NanoUsd, String> {
    let amount: NanoUsd = text.parse().map_err(|error| format!("{error}"))?;
    if amount < NanoUsd::ZERO { Err("must not be negative".into()) } else { Ok(amount) }
}
