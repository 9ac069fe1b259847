//! Which engine serves which model, from the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::engine::Engine;
use crate::engine::scripted::ScriptedEngine;

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// mistralrs in this process: safetensors and GGUF models.
    Mistral,
    /// An OpenAI-compatible server beside this process: vLLM, SGLang, llama.cpp, Ollama.
    Openai,
    /// Answers from a script, for tests.
    Scripted,
}

/// The engine's part of the command line.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    /// What answers.
    #[arg(long, env = "LUMBUNG_PROVIDER_ENGINE", value_enum, default_value_t = EngineKind::Mistral)]
    pub engine: EngineKind,
    /// The model: a folder, a .gguf file, or a Hugging Face id.
    #[arg(long, env = "LUMBUNG_PROVIDER_MODEL")]
    pub model: Option<String>,
    /// The model's id in the gateway's catalogue. Default: the folder's or file's name, or the Hugging Face id.
    #[arg(long, env = "LUMBUNG_PROVIDER_MODEL_ID")]
    pub model_id: Option<String>,
    /// Jobs at a time.
    #[arg(long, env = "LUMBUNG_PROVIDER_SLOTS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: u32,
    /// Script of the scripted engine.
    #[arg(long, env = "LUMBUNG_PROVIDER_SCRIPT", value_name = "FILE")]
    pub script: Option<PathBuf>,
}

impl EngineArgs {
    /// The model's id in the catalogue.
    pub fn model_id(&self) -> anyhow::Result<String> {
        let named = self.model_id.clone().or_else(|| self.model.as_deref().map(name_of));
        named.filter(|name| !name.is_empty()).context("--model-id is missing: the model's id in the gateway's catalogue")
    }

    /// Loads the model. May take minutes.
    pub async fn load(&self) -> anyhow::Result<Arc<dyn Engine>> {
        match self.engine {
            EngineKind::Mistral => self.load_mistral().await,
            EngineKind::Openai => bail!("not yet"),
            EngineKind::Scripted => {
                let script = self.script.as_deref().context("--script is missing: the scripted engine's answers")?;
                Ok(Arc::new(ScriptedEngine::load(script)?))
            }
        }
    }

    async fn load_mistral(&self) -> anyhow::Result<Arc<dyn Engine>> {
        bail!(
            "this program was built without the embedded engine (feature `mistral`); build it with the feature, or use --engine openai"
        )
    }
}

/// A path's last part without `.gguf`; anything else as it is.
fn name_of(model: &str) -> String {
    let path = Path::new(model);
    match path.exists() {
        true => {
            let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.strip_suffix(".gguf").map(str::to_owned).unwrap_or(name)
        }
        false => model.to_owned(),
    }
}
