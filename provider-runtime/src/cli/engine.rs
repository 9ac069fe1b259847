//! Which engine serves which model, from the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "mistral")]
use std::num::NonZeroUsize;

use anyhow::Context;
use clap::{Args, ValueEnum};
use reqwest::Url;

use crate::engine::Engine;
use crate::engine::faulty::{Fault, Faulty};
#[cfg(feature = "mistral")]
use crate::engine::mistral::{LoadOptions, MistralEmbedder, MistralEngine, ModelSource};
use crate::engine::openai::{OpenAiEngine, Upstream, parse_parameters, usual_parameters};
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
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct EngineArgs {
    /// What answers.
    #[arg(long, env = "LUMBUNG_PROVIDER_ENGINE", value_enum, default_value_t = EngineKind::Mistral)]
    pub engine: EngineKind,
    /// The model: a folder, a .gguf file, or a Hugging Face id. A folder with a modules.json is a model of vectors.
    #[arg(long, env = "LUMBUNG_PROVIDER_MODEL")]
    pub model: Option<String>,
    /// The model's id in the gateway's catalogue. Default: the folder's or file's name, or the Hugging Face id.
    #[arg(long, env = "LUMBUNG_PROVIDER_MODEL_ID")]
    pub model_id: Option<String>,
    /// Jobs at a time. Default: what suits the embedded engine, 4 for others.
    #[arg(long, env = "LUMBUNG_PROVIDER_SLOTS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// Base address of the OpenAI-compatible server.
    #[arg(long, env = "LUMBUNG_PROVIDER_UPSTREAM", value_name = "URL", default_value = "http://127.0.0.1:8000/v1")]
    pub upstream: Url,
    /// The model's name at that server. Default: the name in --model.
    #[arg(long, env = "LUMBUNG_PROVIDER_UPSTREAM_MODEL")]
    pub upstream_model: Option<String>,
    /// API key for that server.
    #[arg(long, env = "LUMBUNG_PROVIDER_UPSTREAM_KEY", hide_env_values = true)]
    pub upstream_key: Option<String>,
    /// OpenAI's parameters that the server honours, by name. Default: those of text that vLLM, SGLang, llama.cpp and
    /// Ollama share; add `n`, `logit_bias`, `response_format`, `tools`, `tool_choice`, `parallel_tool_calls` and
    /// `reasoning_effort` for a server that has them, `image_url`, `input_audio` and `file` for a model that takes them.
    /// `prompt` means /v1/completions (`echo`, `suffix` and `best_of` go with it), `input` /v1/embeddings (with `dimensions`).
    #[arg(long, env = "LUMBUNG_PROVIDER_UPSTREAM_SUPPORTS", value_delimiter = ',', value_name = "NAMES")]
    pub upstream_supports: Vec<String>,
    /// Tokens of prompt and completion together that the server was started with. Default: what the server says of
    /// itself (vLLM and SGLang do).
    #[arg(long, env = "LUMBUNG_PROVIDER_CONTEXT_LENGTH", value_parser = clap::value_parser!(u32).range(1..))]
    pub context_length: Option<u32>,
    /// The quantization that the server runs, as OpenRouter names them: bf16, fp8, int4 …
    #[arg(long, env = "LUMBUNG_PROVIDER_QUANTIZATION", default_value = "unknown")]
    pub quantization: String,
    /// Script of the scripted engine.
    #[arg(long, env = "LUMBUNG_PROVIDER_SCRIPT", value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// For tests: the process dies when an answer has so many tokens.
    #[arg(long, hide = true, value_name = "TOKENS")]
    pub test_die_after_tokens: Option<u32>,
    /// For tests: the process stops, as by SIGSTOP, when an answer has so many tokens.
    #[arg(long, hide = true, value_name = "TOKENS", conflicts_with = "test_die_after_tokens")]
    pub test_freeze_after_tokens: Option<u32>,
}

impl EngineArgs {
    /// The model's id in the catalogue.
    pub fn model_id(&self) -> anyhow::Result<String> {
        let named = self.model_id.clone().or_else(|| self.model.as_deref().map(name_of));
        named
            .filter(|name| !name.is_empty())
            .context("--model-id is missing: the model's id in the gateway's catalogue")
    }

    /// Whether there is anything that says which model is meant.
    pub fn names_a_model(&self) -> bool {
        let named = [&self.model, &self.model_id, &self.upstream_model];
        named.into_iter().any(Option::is_some) || self.script.is_some()
    }

    /// Whether the engine that these load could be that of `other`.
    pub fn are_of(&self, other: &Self) -> bool {
        // The embedded engine is loaded for so many answers at a time.
        let without_slots =
            |args: &Self| Self { slots: args.slots.filter(|_| args.engine == EngineKind::Mistral), ..args.clone() };
        without_slots(self) == without_slots(other)
    }

    /// Whether what is needed to load it is said.
    pub fn check(&self) -> anyhow::Result<()> {
        self.model_id()?;
        match self.engine {
            EngineKind::Mistral => {
                self.model.as_deref().context(NO_MODEL)?;
            }
            EngineKind::Openai => {
                self.upstream_model.as_ref().or(self.model.as_ref()).context(NO_UPSTREAM_MODEL)?;
                parse_parameters(&self.upstream_supports).context("--upstream-supports")?;
            }
            EngineKind::Scripted => drop(self.script()?),
        }
        Ok(())
    }

    /// Whether a test has it fail in its first long answer, which is to be a client's.
    pub fn has_fault(&self) -> bool {
        self.test_die_after_tokens.is_some() || self.test_freeze_after_tokens.is_some()
    }

    /// Loads the model. May take minutes.
    pub async fn load(&self) -> anyhow::Result<Arc<dyn Engine>> {
        let engine: Arc<dyn Engine> = match self.engine {
            EngineKind::Mistral => self.load_mistral().await?,
            EngineKind::Openai => Arc::new(self.sidecar().await?),
            EngineKind::Scripted => Arc::new(self.script()?),
        };
        Ok(match (self.test_die_after_tokens, self.test_freeze_after_tokens) {
            (Some(tokens), _) => Arc::new(Faulty::new(engine, Fault::Die, tokens)),
            (None, Some(tokens)) => Arc::new(Faulty::new(engine, Fault::Freeze, tokens)),
            (None, None) => engine,
        })
    }

    /// The engine that asks another server.
    pub async fn sidecar(&self) -> anyhow::Result<OpenAiEngine> {
        let model = self.upstream_model.clone().or_else(|| self.model.clone());
        let mut upstream = Upstream {
            base: self.upstream.clone(),
            model: model.context(NO_UPSTREAM_MODEL)?,
            key: self.upstream_key.clone(),
            supported: match self.upstream_supports.as_slice() {
                [] => usual_parameters(),
                names => parse_parameters(names).context("--upstream-supports")?,
            },
            context_length: self.context_length.unwrap_or(0),
            quantization: self.quantization.clone(),
        };
        if self.context_length.is_none() {
            upstream.context_length = OpenAiEngine::new(upstream.clone())?.ask_context_length().await?;
        }
        OpenAiEngine::new(upstream)
    }

    /// The engine that answers from a script.
    pub fn script(&self) -> anyhow::Result<ScriptedEngine> {
        ScriptedEngine::load(self.script.as_deref().context("--script is missing: the scripted engine's answers")?)
    }

    /// The model of the embedded engine, as it was named.
    #[cfg(feature = "mistral")]
    pub fn source(&self) -> anyhow::Result<ModelSource> {
        let model = self.model.as_deref().context(NO_MODEL)?;
        Ok(model.parse()?)
    }

    /// What the embedded engine is loaded with.
    #[cfg(feature = "mistral")]
    pub fn load_options(&self) -> LoadOptions {
        let slots = self.slots.and_then(|slots| NonZeroUsize::new(slots as usize));
        slots.map_or_else(LoadOptions::default, |slots| LoadOptions { slots })
    }

    #[cfg(feature = "mistral")]
    async fn load_mistral(&self) -> anyhow::Result<Arc<dyn Engine>> {
        let (options, source) = (self.load_options(), self.source()?);
        if let Some(folder) = source.folder_of_vectors() {
            return Ok(Arc::new(Box::pin(MistralEmbedder::load(folder.to_owned())).await?));
        }
        Ok(Arc::new(Box::pin(MistralEngine::load(source, options)).await?))
    }

    #[cfg(not(feature = "mistral"))]
    async fn load_mistral(&self) -> anyhow::Result<Arc<dyn Engine>> {
        anyhow::bail!("{WITHOUT_MISTRAL}")
    }

    /// Jobs at a time: as many as the engine runs at once, if the operator does not say.
    pub fn slots(&self) -> u32 {
        self.slots.unwrap_or(match self.engine {
            #[cfg(feature = "mistral")]
            EngineKind::Mistral => LoadOptions::default().slots.get() as u32,
            _ => 4,
        })
    }
}

/// What to do about a program without the embedded engine.
#[cfg(not(feature = "mistral"))]
pub const WITHOUT_MISTRAL: &str = "this program was built without the embedded engine; build it with the feature `mistral` (on by default), or name another with --engine openai";

const NO_MODEL: &str = "--model is missing: a folder, a .gguf file, or a Hugging Face id";
const NO_UPSTREAM_MODEL: &str = "--upstream-model is missing: the model's name at the server";

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
