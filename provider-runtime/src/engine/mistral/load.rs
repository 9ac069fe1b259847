//! Loading a model: its files, its vocabulary, and mistralrs over them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use lumbung_openapi::parameter::{Parameter, ParameterSet};
use lumbung_openapi::provider::Resume;
use mistralrs::{GgufModelBuilder, Model, ModelDType, TextModelBuilder, TokenSource};

use super::convention::Convention;
use super::files::{ModelFiles, read_gguf};
use super::grammar::Grammars;
use super::prompt::Prompts;
use super::source::{ModelSource, gguf_parts, hub_snapshot};
use super::vocabulary::Vocabulary;
use crate::engine::EngineModel;

/// Whether this build computes on a GPU.
pub(super) const ON_GPU: bool = cfg!(any(feature = "cuda", feature = "metal"));

/// What a provider decides about its engine.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How many choices are generated at once on a GPU. On a CPU it is one, and others wait their turn: in a batch,
    /// mistralrs' attention there gives every sequence what belongs to the last one (`flash_attn_cpu_single_q` has one
    /// scratch buffer for all). One after another is also faster: about 3.1k against 1.4k tokens/s on a small model.
    pub slots: NonZeroUsize,
}

impl LoadOptions {
    /// How many sequences mistralrs may have at once.
    pub(super) fn at_once(self) -> usize {
        if ON_GPU { self.slots.get() } else { 1 }
    }
}

impl Default for LoadOptions {
    /// One slot on a CPU, eight on a GPU.
    fn default() -> Self {
        const SLOTS: NonZeroUsize = NonZeroUsize::new(if ON_GPU { 8 } else { 1 }).expect("not zero");
        Self { slots: SLOTS }
    }
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Meant as a path, and nothing is there.
    #[error("{} does not exist", .0.display())]
    NoSuchPath(PathBuf),
    /// Nothing that names a model.
    #[error("'{0}' is neither a path nor the id of a model on the hub (organisation/name)")]
    NoSource(String),
    /// A path that is no model.
    #[error("{} is no model: {missing}", .path.display())]
    NoModel {
        /// Which.
        path: PathBuf,
        /// What was found or not found.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is malformed: {reason}", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The hub's model was loaded and its files are not in the hub's cache, so they cannot be named by a digest.
    #[error("the files of {0} are not in the hub's local cache; download them and give the folder's path")]
    NotInCache(String),
    /// mistralrs refused.
    #[error("the engine cannot load the model")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The model cannot be asked anything.
    #[error("the model has no usable chat template")]
    NoTemplate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine does not tell how long a conversation may be.
    #[error("the model has no context length")]
    NoContext,
}

/// A model that mistralrs has loaded, and what is known of it.
pub struct Loaded {
    /// mistralrs.
    pub model: Model,
    /// The bytes of its tokens.
    pub vocabulary: Vocabulary,
    /// Its chat template.
    pub prompts: Prompts,
    /// Grammars over its tokens, if there can be any.
    pub grammars: Option<Grammars>,
    /// What is told of it.
    pub describe: EngineModel,
}

/// Loads a model, and reads every byte of its files for the digest.
pub async fn load(source: ModelSource, options: LoadOptions) -> Result<Loaded, LoadError> {
    if options.at_once() < options.slots.get() {
        tracing::warn!(slots = options.slots, "on a CPU one answer is generated at a time: other jobs wait their turn");
    }
    let (model, files) = match source {
        ModelSource::Folder(folder) => {
            if !folder.join("config.json").is_file() {
                return Err(LoadError::NoModel { path: folder, missing: "no config.json (name a GGUF by its file)" });
            }
            let model = build_text(folder.to_string_lossy().as_ref(), Some(TokenSource::None), options).await?;
            (model, ModelFiles::Folder(folder))
        }
        ModelSource::Gguf(file) => {
            let parts = gguf_parts(&file)?;
            (build_gguf(&parts, options).await?, ModelFiles::Gguf(parts))
        }
        ModelSource::Hub(id) => {
            let model = build_text(&id, None, options).await?;
            let snapshot = mistralrs::core::hf_hub_cache_dir().and_then(|cache| hub_snapshot(&cache, &id));
            (model, ModelFiles::Folder(snapshot.ok_or(LoadError::NotInCache(id))?))
        }
    };
    let context = model.max_sequence_length().ok().flatten().and_then(|length| u32::try_from(length).ok());
    let context_length = context.ok_or(LoadError::NoContext)?;
    let read = tokio::task::spawn_blocking(move || read(&files, context_length)).await;
    let (vocabulary, prompts, grammars, describe) = read.map_err(|e| LoadError::Engine(e.into()))??;
    Ok(Loaded { model, vocabulary, prompts, grammars, describe })
}

type Read = (Vocabulary, Prompts, Option<Grammars>, EngineModel);

fn read(files: &ModelFiles, context_length: u32) -> Result<Read, LoadError> {
    let (vocabulary, prompts) = match files {
        ModelFiles::Folder(folder) => (Vocabulary::from_folder(folder)?, Prompts::from_folder(folder)?),
        ModelFiles::Gguf(parts) => {
            let header = read_gguf(&parts[0])?;
            (Vocabulary::from_gguf(&parts[0], &header)?, Prompts::from_gguf(&header)?)
        }
    };
    let grammars = Grammars::new(&vocabulary);
    let describe = EngineModel {
        weights_digest: files.digest()?,
        quantization: files.quantization()?.to_owned(),
        context_length,
        supported: supported(&prompts, grammars.is_some()),
        resume: Resume::Tokens,
    };
    Ok((vocabulary, prompts, grammars, describe))
}

/// Each one is honoured by code of ours and has a test in `tests/mistral`.
fn supported(prompts: &Prompts, has_grammars: bool) -> ParameterSet {
    use Parameter::*;
    let mut supported = ParameterSet::from_iter([
        MaxTokens,
        Temperature,
        TopP,
        Seed,
        Stop,
        N,
        FrequencyPenalty,
        PresencePenalty,
        LogitBias,
        Logprobs,
        TopLogprobs,
        Prompt,
        Echo,
    ]);
    if has_grammars {
        supported.insert(ResponseFormat);
    }
    let Convention { calls, .. } = prompts.convention();
    if has_grammars && calls.is_some() {
        [Tools, ToolChoice, ParallelToolCalls].into_iter().for_each(|parameter| supported.insert(parameter));
    }
    if prompts.heeds("enable_thinking") || prompts.heeds("reasoning_effort") {
        supported.insert(ReasoningEffort);
    }
    supported
}

/// The prefix cache is off: it gives wrong log-probabilities after mixed batches, and panics on long prompts.
async fn build_text(id: &str, token: Option<TokenSource>, options: LoadOptions) -> Result<Model, LoadError> {
    let mut builder = TextModelBuilder::new(id).with_prefix_cache_n(None).with_max_num_seqs(options.at_once());
    if let Some(token) = token {
        builder = builder.with_token_source(token);
    }
    if !ON_GPU {
        builder = builder.with_force_cpu().with_dtype(ModelDType::F32);
    }
    Box::pin(builder.build()).await.map_err(|error| LoadError::Engine(error.into()))
}

async fn build_gguf(parts: &[PathBuf], options: LoadOptions) -> Result<Model, LoadError> {
    let folder = match parts[0].parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_string_lossy().into_owned(),
        _ => ".".to_owned(),
    };
    let names = parts.iter().filter_map(|part| part.file_name()).map(|name| name.to_string_lossy()).collect();
    let mut builder = GgufModelBuilder::new(folder, names)
        .with_token_source(TokenSource::None)
        .with_prefix_cache_n(None)
        .with_max_num_seqs(options.at_once());
    if !ON_GPU {
        builder = builder.with_force_cpu();
    }
    Box::pin(builder.build()).await.map_err(|error| LoadError::Engine(error.into()))
}
