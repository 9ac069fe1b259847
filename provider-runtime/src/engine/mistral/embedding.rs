//! A model of vectors that mistralrs runs in this process: Qwen3 and Gemma for embeddings, laid out as sentence-transformers does.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use lumbung_openapi::chat::{EmbeddingWish, Prompt};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::parameter::{Parameter, ParameterSet};
use lumbung_openapi::provider::Resume;
use mistralrs::{
    Constraint, EmbeddingModelBuilder, ModelDType, NormalRequest, Request, RequestMessage, Response, SamplingParams,
    TokenSource,
};
use tokio::sync::{Semaphore, mpsc};

use super::files::ModelFiles;
use super::load::{LoadError, ON_GPU};
use super::run::Runner;
use super::vocabulary::Vocabulary;
use crate::engine::{Engine, EngineError, EngineModel, Event, FinishReason, Generation, Job};

/// A panic on mistralrs' thread ends what runs on it; the next request starts a new thread.
const ATTEMPTS: usize = 2;

/// A model of vectors.
pub struct MistralEmbedder {
    runner: Arc<Runner>,
    /// One text at a time: in a batch mistralrs fills shorter texts up, and what it fills them with goes into their means.
    turn: Arc<Semaphore>,
    /// Numbers of a vector.
    width: usize,
    /// Tokens that there are.
    tokens: usize,
    describe: EngineModel,
}

impl MistralEmbedder {
    /// Loads a model from a folder with a `modules.json`, reads all of its files for the digest, and has it make a vector.
    pub async fn load(folder: PathBuf) -> Result<Self, LoadError> {
        let mut builder = EmbeddingModelBuilder::new(folder.to_string_lossy())
            .with_token_source(TokenSource::None)
            .with_max_num_seqs(1);
        if !ON_GPU {
            builder = builder.with_force_cpu().with_dtype(ModelDType::F32);
        }
        let model = Box::pin(builder.build()).await.map_err(|error| LoadError::Engine(error.into()))?;
        let context = model.max_sequence_length().ok().flatten().and_then(|length| u32::try_from(length).ok());
        let context_length = context.ok_or(LoadError::NoContext)?;
        let files = ModelFiles::Folder(folder.clone());
        let read = move || Ok((files.digest()?, files.quantization()?, Vocabulary::from_folder(&folder)?.len()));
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| LoadError::Engine(error.into()))?;
        let (weights_digest, quantization, tokens): (String, &str, usize) = read?;
        let runner = Arc::new(Runner::new(model, 1, Vec::new()));
        let width = embed(&runner, &[0]).await.map_err(|why| LoadError::Engine(why.into()))?.len();
        let describe = EngineModel {
            weights_digest,
            quantization: quantization.to_owned(),
            context_length,
            supported: ParameterSet::from_iter([Parameter::Input, Parameter::Dimensions]),
            resume: Resume::None,
        };
        Ok(Self { runner, turn: Arc::new(Semaphore::new(1)), width, tokens, describe })
    }

    /// The inputs' tokens.
    async fn tokenize(&self, wish: &EmbeddingWish<'_>) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut inputs = Vec::with_capacity(wish.inputs.len());
        for (at, input) in wish.inputs.iter().enumerate() {
            let ids = match input {
                Prompt::Text(text) => {
                    let ids = self.runner.tokenize(text.clone().into_owned(), true).await;
                    ids.map_err(|error| EngineError::Failed(error.to_string()))?
                }
                Prompt::Tokens(ids) => ids.clone(),
            };
            let most = self.tokens.saturating_sub(1);
            if ids.is_empty() {
                let message = format!("Input {at} has no token: there must be at least one.");
                return Err(InvalidRequest::value("input", message).into());
            }
            if ids.iter().any(|id| *id as usize >= self.tokens) {
                let message =
                    format!("Input {at} has a token that this model does not know: they go from 0 to {most}.");
                return Err(InvalidRequest::value("input", message).into());
            }
            if ids.len() > self.describe.context_length as usize {
                let length = u32::try_from(ids.len()).unwrap_or(u32::MAX);
                return Err(InvalidRequest::context_length(self.describe.context_length, length).into());
            }
            inputs.push(ids);
        }
        Ok(inputs)
    }
}

#[async_trait]
impl Engine for MistralEmbedder {
    fn describe(&self) -> &EngineModel {
        &self.describe
    }

    async fn generate(&self, job: Job<'_>) -> Result<Generation, EngineError> {
        if let Some(refusal) = job.request.unsupported(self.describe.supported) {
            return Err(refusal.into());
        }
        let Some(wish) = &job.request.embedding else {
            return Err(InvalidRequest::unsupported("messages", &job.request.model).into());
        };
        let width = wish.dimensions.map_or(self.width, |wanted| wanted as usize);
        if width > self.width {
            let message = format!("'dimensions' must be at most {}: this model's vectors are no longer.", self.width);
            return Err(InvalidRequest::value("dimensions", message).into());
        }
        let inputs = self.tokenize(wish).await?;
        let prompt_tokens = inputs.iter().map(|ids| ids.len() as u32).fold(0, u32::saturating_add);
        let (sender, events) = mpsc::channel(inputs.len() + 2); // room for all, so that whoever reads slowly stalls nobody
        let (runner, turn) = (Arc::clone(&self.runner), Arc::clone(&self.turn));
        tokio::spawn(async move {
            let count = Event::Prompt(PromptCount { prompt_tokens, cached_tokens: 0 });
            // A reader who has gone wants nothing more.
            let told = async {
                sender.send(count).await?;
                for ids in inputs {
                    let event = tokio::select! {
                        () = sender.closed() => return Ok(()),
                        made = make(&runner, &turn, ids) => match made {
                            Ok(vector) => Event::Vector(shortened(vector, width)),
                            Err(why) => return sender.send(Event::Failed(EngineError::Failed(why))).await,
                        },
                    };
                    sender.send(event).await?;
                }
                sender.send(Event::Finish { choice: 0, reason: FinishReason::Stop }).await
            };
            drop(told.await);
        });
        Ok(Generation { events })
    }
}

/// One text's vector, when its turn has come. What has begun is brought to its end even if nobody waits any more: mistralrs' thread
/// panics where whoever asked has gone.
async fn make(runner: &Arc<Runner>, turn: &Arc<Semaphore>, ids: Vec<u32>) -> Result<Vec<f32>, String> {
    let turn = Arc::clone(turn).acquire_owned().await.map_err(|error| error.to_string())?;
    let runner = Arc::clone(runner);
    let making = tokio::spawn(async move {
        let _turn = turn;
        let mut why = String::new();
        for attempt in 1..=ATTEMPTS {
            match embed(&runner, &ids).await {
                Ok(vector) => return Ok(vector),
                Err(error) => why = error,
            }
            tracing::warn!(%why, attempt, "the engine made no vector");
        }
        Err(why)
    });
    making.await.map_err(|error| error.to_string())?
}

/// Asks mistralrs once. A text of one token is read twice over: mistralrs' thread panics on a single one.
async fn embed(runner: &Runner, ids: &[u32]) -> Result<Vec<f32>, String> {
    let prompt = if let [id] = ids { vec![*id; 2] } else { ids.to_vec() };
    let (sender, mut responses) = mpsc::channel(1);
    let request = Request::Normal(Box::new(NormalRequest {
        messages: RequestMessage::EmbeddingTokens { prompt },
        sampling_params: SamplingParams::deterministic(),
        response: sender,
        return_logprobs: false,
        is_streaming: false,
        id: 0,
        constraint: Constraint::None,
        suffix: None,
        tools: None,
        tool_choice: None,
        logits_processors: None,
        return_raw_logits: false,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    }));
    let engine = runner.model().inner().get_sender(None).map_err(|error| error.to_string())?;
    engine.send(request).await.map_err(|_| "the engine's thread has died".to_owned())?;
    match responses.recv().await {
        Some(Response::Embeddings { embeddings, .. }) => Ok(embeddings),
        Some(Response::InternalError(error) | Response::ValidationError(error)) => Err(error.to_string()),
        Some(_) => Err("a response that was not asked for".to_owned()),
        None => Err("the engine's thread died".to_owned()),
    }
}

/// A vector's first numbers, as long as the whole was: of length one, as models of vectors have them.
fn shortened(mut vector: Vec<f32>, width: usize) -> Vec<f32> {
    if width >= vector.len() {
        return vector;
    }
    vector.truncate(width);
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number /= length);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn a_shorter_vector_has_length_one_again() {
        assert_eq!(shortened(vec![0.6, 0.8], 2), [0.6, 0.8]);
        assert_eq!(shortened(vec![0.3, 0.4, 0.866], 2), [0.6, 0.8]);
        assert_eq!(shortened(vec![0.0, 1.0], 1), [0.0]);
    }
}
