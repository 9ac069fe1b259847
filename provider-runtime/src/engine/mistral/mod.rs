//! The embedded engine: mistralrs in this process.
//!
//! mistralrs computes logits and nothing else. What it is asked for, and why, is `MISTRALRS.md` turned into code: every
//! defect that was found in it has a test of its name in `tests/mistral`. One answer's way:
//!
//! 1. [`MistralEngine::generate`] refuses what is not supported, writes the prompt (`prompt`), has it tokenized, and
//!    prepares the grammar of an answer that must have a form (`form`, `schema`, `grammar`)
//! 2. `run` submits each choice when a seat is free, and once more if mistralrs' thread dies
//! 3. `choice` draws each token (`sampling`) on that thread, of those that the form allows (`guide`), makes text of it
//!    (`vocabulary`, [`super::text`]), tells reasoning, text and calls apart (`parts`), and sends events
//!
//! Models of vectors have a way of their own: `embedding`.
//!
//! `alone` asks mistralrs past all of this, to see what it costs.
//!
//! How a model writes calls and reasoning is `convention`. `load`, `source` and `files` bring the model in.

mod alone;
mod choice;
mod convention;
mod embedding;
mod files;
mod form;
mod grammar;
mod guide;
mod load;
mod parts;
mod prompt;
mod run;
mod sampling;
mod schema;
mod source;
mod vocabulary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lumbung_openapi::chat::{ChatRequest, Prompt};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use mistralrs::Model;
use tokio::sync::mpsc;

pub use self::alone::{Load, Pace};
use self::choice::{Choice, ChoiceOf};
use self::convention::CallStyle;
pub use self::embedding::MistralEmbedder;
use self::form::{Form, HoldsFrom};
use self::grammar::{Grammar, GrammarError, Grammars};
use self::guide::Guide;
pub use self::load::{LoadError, LoadOptions};
use self::parts::{Place, Reader};
use self::prompt::Prompts;
use self::run::Runner;
use self::sampling::Sampler;
pub use self::source::ModelSource;
use self::vocabulary::Vocabulary;
use super::calls::CallIds;
use super::text::Utf8Decoder;
use super::{Engine, EngineError, EngineModel, Event, FinishReason, Generation, Job, Tokens};

/// A prompt, ready to be gone on with.
struct TokenizedPrompt {
    ids: Arc<[u32]>,
    /// What its answers begin with beside their own text.
    echo: Option<String>,
}

/// A model that mistralrs runs in this process.
pub struct MistralEngine {
    runner: Arc<Runner>,
    vocabulary: Arc<Vocabulary>,
    prompts: Prompts,
    /// `None` for a vocabulary that no grammar can be told of.
    grammars: Option<Arc<Grammars>>,
    describe: EngineModel,
    generated_tokens: Arc<AtomicU64>,
}

impl MistralEngine {
    /// Loads a model and reads all of its files once more for the digest: seconds for a large one.
    pub async fn load(source: ModelSource, options: LoadOptions) -> Result<Self, LoadError> {
        let loaded = load::load(source, options).await?;
        let runner = Arc::new(Runner::new(loaded.model, options.at_once(), loaded.vocabulary.special_ends()));
        Ok(Self {
            runner,
            vocabulary: Arc::new(loaded.vocabulary),
            prompts: loaded.prompts,
            grammars: loaded.grammars.map(Arc::new),
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

    /// The prompts, and where in an answer each of theirs begins.
    async fn prompts_of(&self, request: &ChatRequest<'_>) -> Result<(Vec<TokenizedPrompt>, Place), EngineError> {
        let tokenize = async |text: String, add_special| {
            let ids = self.runner.tokenize(text, add_special).await;
            ids.map(Arc::<[u32]>::from).map_err(|error| EngineError::Failed(error.to_string()))
        };
        let Some(raw) = &request.prompts else {
            let written = self.prompts.render(request)?;
            let ids = tokenize(written.text, false).await?;
            return Ok((vec![TokenizedPrompt { ids, echo: None }], written.place));
        };
        let mut prompts = Vec::with_capacity(raw.list.len());
        for (at, prompt) in raw.list.iter().enumerate() {
            let (ids, text) = match prompt {
                Prompt::Text(text) => (tokenize(text.clone().into_owned(), true).await?, text.clone().into_owned()),
                Prompt::Tokens(ids) => (ids.as_slice().into(), self.text_of(ids, at)?),
            };
            if ids.is_empty() {
                return Err(InvalidRequest::value("prompt", "A prompt must have at least one token.").into());
            }
            prompts.push(TokenizedPrompt { ids, echo: raw.echo.then_some(text) });
        }
        Ok((prompts, Place::Answer))
    }

    /// The text of a prompt that came as token ids.
    fn text_of(&self, ids: &[u32], at: usize) -> Result<String, InvalidRequest> {
        if ids.iter().any(|id| *id as usize >= self.vocabulary.len()) {
            let most = self.vocabulary.len() - 1;
            let message = format!("Prompt {at} has a token that this model does not know: they go from 0 to {most}.");
            return Err(InvalidRequest::value("prompt", message));
        }
        let mut decoder = Utf8Decoder::default();
        let text: String = ids.iter().map(|id| decoder.push(self.vocabulary.shown(*id))).collect();
        Ok(text + decoder.finish())
    }

    /// The grammar of the form that the answer must have, if it must have one.
    async fn form_of(&self, request: &ChatRequest<'_>) -> Result<Option<(Grammar, HoldsFrom)>, EngineError> {
        let convention = self.prompts.convention();
        let mut refusal = None;
        // A tool's schema that turns out to be too much is let go where it need not be strict.
        for loose in [false, true] {
            let Some(form) = Form::of(request, convention, &self.vocabulary, loose)? else { return Ok(None) };
            let grammars = self.grammars.as_ref();
            let grammars = grammars.ok_or_else(|| InvalidRequest::unsupported(form.param.as_str(), &request.model))?;
            match grammars.compile(form.lark).await {
                Ok(grammar) => return Ok(Some((grammar, form.holds_from))),
                Err(GrammarError::Busy) => return Err(EngineError::Busy),
                Err(why) => {
                    let message = format!("Invalid schema for '{}': {why}.", form.param);
                    refusal = Some(InvalidRequest::value(form.param, message));
                }
            }
            if request.tools.list.is_empty() {
                break;
            }
        }
        match refusal {
            Some(refusal) => Err(refusal.into()),
            None => Ok(None),
        }
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
        let (prompts, place) = self.prompts_of(request).await?;
        let form = self.form_of(request).await?;
        let prompt_tokens = prompts.iter().map(|prompt| prompt.ids.len() as u32).sum();
        let context = self.describe.context_length;
        let too_long = prompts.iter().map(|prompt| prompt.ids.len()).find(|length| *length >= context as usize);
        if let Some(length) = too_long {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            return Err(InvalidRequest::context_length(context, length).into());
        }

        // Room for every event of the job, so that whoever reads slowly, or not at all, stalls nobody: a Tokens for each
        // token, one for what was held back and one for a prompt that is repeated, and a Finish, per choice.
        let most = job.max_completion_tokens.min(context) as usize;
        let answers = request.answers() as u8;
        let capacity = 1 + usize::from(answers) * (most + 3);
        let (sender, events) = mpsc::channel(capacity);
        let tell = |event| sender.try_send(event).map_err(|error| EngineError::Failed(error.to_string()));
        tell(Event::Prompt(PromptCount { prompt_tokens, cached_tokens: 0 }))?;
        let prompt_of = |number: u8| &prompts[usize::from(number) / request.n as usize];
        for choice in 0..answers {
            if let Some(text) = &prompt_of(choice).echo {
                tell(Event::Tokens(Tokens { choice, text: text.clone(), ..Tokens::default() }))?;
            }
            if most == 0 {
                tell(Event::Finish { choice, reason: FinishReason::Length })?;
            }
        }
        if most == 0 {
            return Ok(Generation { events });
        }

        let convention = self.prompts.convention();
        let marker = |name: &&str| self.vocabulary.special_id(name);
        let of = ChoiceOf {
            prompt: Arc::clone(&prompts[0].ids),
            max_tokens: 0,
            markers: convention.markers().iter().filter_map(marker).collect(),
            vocabulary: Arc::clone(&self.vocabulary),
            generated_tokens: Arc::clone(&self.generated_tokens),
            events: sender.clone(),
        };
        let calls = convention.calls.filter(|_| request.tools.may_be_called());
        // What goes on from a prompt is text and nothing else.
        let reasoning = convention.reasoning.filter(|_| request.prompts.is_none());
        let opens_reasoning = reasoning.and_then(|tags| self.vocabulary.id_of(tags.open));
        let choice = |number: u8| {
            let sampler = Sampler::new(&request.sampling, job.seed, number, request.logprobs);
            let stops = request.stop.iter().map(|stop| stop.clone().into_owned()).collect();
            let short = matches!(calls, Some(CallStyle::List(_)));
            let ids = CallIds { job: job.id.to_owned(), choice: number, short };
            let reader = Reader::new(place, reasoning, calls, stops, ids);
            let guide = form.as_ref().map(|(grammar, from)| Guide::new(grammar.copy(), *from, place, opens_reasoning));
            let history = job.history.get(usize::from(number)).cloned().unwrap_or_default();
            let prompt = Arc::clone(&prompt_of(number).ids);
            let max_tokens = job.max_completion_tokens.min(context - prompt.len() as u32);
            Arc::new(Choice::new(
                ChoiceOf { prompt, max_tokens, ..of.clone() },
                number,
                sampler,
                reader,
                guide,
                history,
            ))
        };
        let choices = (0..answers).map(choice).collect();
        tokio::spawn(Arc::clone(&self.runner).run_all(choices, sender));
        Ok(Generation { events })
    }
}
