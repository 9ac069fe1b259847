//! The embedded engine: mistralrs in this process.
//!
//! mistralrs computes logits and nothing else. What it is asked for, and why, is `MISTRALRS.md` turned into code: every
//! defect that was found in it has a test of its name in `tests/mistral`. One answer's way:
//!
//! 1. [`MistralEngine::generate`] refuses what is not supported and has the prompt tokenized
//! 2. `run` submits each choice when a seat is free, and once more if mistralrs' thread dies
//! 3. `choice` draws each token (`sampling`) on that thread, makes text of it (`vocabulary`, [`super::text`]), and sends events
//!
//! `load`, `source` and `files` bring the model in.

mod choice;
mod files;
mod load;
mod run;
mod sampling;
mod source;
mod vocabulary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lumbung_openapi::chat::{ChatRequest, Role};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use mistralrs::{Model, TextMessageRole, TextMessages};
use tokio::sync::mpsc;

use self::choice::{Choice, ChoiceOf};
pub use self::load::{LoadError, LoadOptions};
use self::run::{Runner, TokenizeError};
use self::sampling::Sampler;
pub use self::source::ModelSource;
use self::vocabulary::Vocabulary;
use super::{Engine, EngineError, EngineModel, Event, FinishReason, Generation, Job};

/// A model that mistralrs runs in this process.
pub struct MistralEngine {
    runner: Arc<Runner>,
    vocabulary: Arc<Vocabulary>,
    describe: EngineModel,
    generated_tokens: Arc<AtomicU64>,
}

impl MistralEngine {
    /// Loads a model and reads all of its files once more for the digest: seconds for a large one.
    pub async fn load(source: ModelSource, options: LoadOptions) -> Result<Self, LoadError> {
        let loaded = load::load(source, options).await?;
        let runner = Arc::new(Runner::new(loaded.model, options.at_once(), loaded.vocabulary.special_ends()));
        let probe = TextMessages::new().add_message(TextMessageRole::User, "?");
        runner.tokenize(probe).await.map_err(|error| LoadError::NoTemplate(error.into()))?;
        Ok(Self {
            runner,
            vocabulary: Arc::new(loaded.vocabulary),
            describe: loaded.describe,
            generated_tokens: Arc::default(),
        })
    }

    /// Completion tokens drawn since the start, whether or not anyone still wanted them.
    pub fn generated_tokens(&self) -> u64 {
        self.generated_tokens.load(Ordering::Relaxed)
    }

    /// mistralrs itself, for audits that need the logits of a whole text. A request that returns raw logits must not run
    /// beside a job: mistralrs' thread panics if both come into one batch.
    pub fn model(&self) -> &Model {
        self.runner.model()
    }

    fn check_bias(&self, request: &ChatRequest<'_>) -> Result<(), InvalidRequest> {
        let tokens = self.vocabulary.len();
        match request.sampling.logit_bias.iter().find(|(id, _)| *id as usize >= tokens) {
            Some((id, _)) => Err(InvalidRequest::value(
                format!("logit_bias.{id}"),
                format!("'logit_bias' names token {id}, but this model's tokens go from 0 to {}.", tokens - 1),
            )),
            None => Ok(()),
        }
    }

    async fn tokenize(&self, request: &ChatRequest<'_>) -> Result<Vec<u32>, EngineError> {
        self.runner.tokenize(messages_of(request)).await.map_err(|error| match error {
            // The template's own words may quote the messages: they go no further than this.
            TokenizeError::Template(_) => EngineError::Invalid(InvalidRequest::value(
                "messages",
                "The model's chat template does not take these messages; perhaps their roles are in an order that it does not know.",
            )),
            TokenizeError::Engine => EngineError::Failed(error.to_string()),
        })
    }
}

#[async_trait]
impl Engine for MistralEngine {
    fn describe(&self) -> &EngineModel {
        &self.describe
    }

    async fn generate(&self, job: Job<'_>) -> Result<Generation, EngineError> {
        let request = job.request;
        if let Some(refusal) = request.unsupported(self.describe.supported) {
            return Err(refusal.into());
        }
        self.check_bias(request)?;
        if job.history.iter().any(|history| history.ids.iter().any(|id| *id as usize >= self.vocabulary.len())) {
            return Err(EngineError::Failed("what was delivered is not of this model's tokens".into()));
        }
        let prompt: Arc<[u32]> = self.tokenize(request).await?.into();
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let room = self.describe.context_length.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(InvalidRequest::context_length(self.describe.context_length, prompt_tokens).into());
        }
        let max_tokens = job.max_completion_tokens.min(room);

        // Room for every event of the job, so that whoever reads slowly, or not at all, stalls nobody: a Tokens for each
        // token and one for what was held back, and a Finish, per choice.
        let capacity = 1 + request.n as usize * (max_tokens as usize + 2);
        let (sender, events) = mpsc::channel(capacity);
        let first = Event::Prompt(PromptCount { prompt_tokens, cached_tokens: 0 });
        sender.try_send(first).map_err(|error| EngineError::Failed(error.to_string()))?;
        if max_tokens == 0 {
            for choice in 0..request.n as u8 {
                let finish = Event::Finish { choice, reason: FinishReason::Length };
                sender.try_send(finish).map_err(|error| EngineError::Failed(error.to_string()))?;
            }
            return Ok(Generation { events });
        }

        let of = ChoiceOf {
            prompt,
            max_tokens,
            stops: request.stop.iter().map(|stop| stop.clone().into_owned()).collect(),
            vocabulary: Arc::clone(&self.vocabulary),
            generated_tokens: Arc::clone(&self.generated_tokens),
            events: sender.clone(),
        };
        let choice = |number: u8| {
            let sampler = Sampler::new(&request.sampling, job.seed, number, request.logprobs);
            let history = job.history.get(usize::from(number)).cloned().unwrap_or_default();
            Arc::new(Choice::new(of.clone(), number, sampler, history))
        };
        let choices = (0..request.n as u8).map(choice).collect();
        tokio::spawn(Arc::clone(&self.runner).run_all(choices, sender));
        Ok(Generation { events })
    }
}

fn messages_of(request: &ChatRequest<'_>) -> TextMessages {
    request.messages.iter().fold(TextMessages::new(), |messages, message| {
        let role = match message.role {
            Role::System | Role::Developer => TextMessageRole::System,
            Role::User => TextMessageRole::User,
            Role::Assistant => TextMessageRole::Assistant,
            Role::Tool => TextMessageRole::Tool,
        };
        messages.add_message(role, &message.text)
    })
}
