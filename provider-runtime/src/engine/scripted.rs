//! Answers from a script: for tests and load tests. Costs next to nothing per token, and fails as it is told to.
//!
//! A script is a JSON file: a list of rules, or an object that holds them beside what is said of the model
//! ([`Script`]). The first rule whose `match` occurs in the last user message answers.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use lumbung_openapi::chat::{ChatRequest, Role};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::parameter::{Parameter, ParameterSet};
use lumbung_openapi::provider::Resume;
use tokio::sync::mpsc;

use super::{Engine, EngineError, EngineModel, Generation, Job};
use plan::Plan;
pub use script::{Rule, Script, ScriptedCall, ScriptedError};
use script::{large_context, unknown};

mod plan;
mod raw;
mod script;

/// Events that an answer may be ahead of whoever takes them.
const AHEAD: usize = 32;

/// The engine that answers from a script.
pub struct ScriptedEngine {
    model: EngineModel,
    embedding_dimensions: Option<u32>,
    embedding_delay: Duration,
    rules: Vec<Rule>,
}

impl ScriptedEngine {
    /// Reads a script.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no script", path.display()))
    }

    /// From a script's text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let script = match text.trim_start().starts_with('[') {
            true => Script {
                weights_digest: String::new(),
                quantization: unknown(),
                context_length: large_context(),
                supported_parameters: None,
                embedding_dimensions: None,
                embedding_delay_ms: 0,
                rules: serde_json::from_str(text)?,
            },
            false => serde_json::from_str(text)?,
        };
        ensure!(!script.rules.is_empty() || script.embedding_dimensions.is_some(), "there are no rules");
        for rule in &script.rules {
            ensure!(rule.tokens_per_event > 0, "tokens_per_event must be above 0");
            let delays = [rule.delay_ms_first, rule.delay_ms_per_token];
            ensure!(delays.iter().all(|ms| (0.0..1e9).contains(ms)), "a delay must be 0 or more milliseconds");
        }
        let supported = match &script.supported_parameters {
            Some(names) => ParameterSet::from_names(names.iter().map(String::as_str)),
            None if script.embedding_dimensions.is_some() => {
                [Parameter::Input, Parameter::Dimensions].into_iter().collect()
            }
            None => plain_parameters(),
        };
        let model = EngineModel {
            weights_digest: script.weights_digest,
            quantization: script.quantization,
            context_length: script.context_length,
            supported,
            resume: Resume::Tokens,
        };
        Ok(Self {
            model,
            embedding_dimensions: script.embedding_dimensions,
            embedding_delay: Duration::from_millis(script.embedding_delay_ms.into()),
            rules: script.rules,
        })
    }
}

/// What a script honours, or may pass over because nothing is drawn.
fn plain_parameters() -> ParameterSet {
    use Parameter::*;
    [MaxTokens, Temperature, TopP, Seed, Stop, N, FrequencyPenalty, PresencePenalty, LogitBias, Prompt, Echo]
        .into_iter()
        .collect()
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn describe(&self) -> &EngineModel {
        &self.model
    }

    async fn generate(&self, job: Job<'_>) -> Result<Generation, EngineError> {
        if let (Some(wish), Some(dimensions)) = (&job.request.embedding, self.embedding_dimensions) {
            return raw::embed(wish, dimensions, self.embedding_delay, self.model.context_length);
        }
        let question = job.request.messages.iter().rfind(|message| message.role == Role::User);
        let question = match job.request.raw_prompts() {
            Some(prompts) => prompts.first().map_or_else(String::new, raw::text_of).into(),
            None => question.map_or(Cow::Borrowed(""), |message| Cow::Borrowed(&*message.text)),
        };
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.pattern == "*" || question.contains(&rule.pattern))
            .ok_or_else(|| EngineError::Failed("no rule of the script matches".into()))?;
        match rule.error {
            None => {}
            Some(ScriptedError::Busy) => return Err(EngineError::Busy),
            Some(ScriptedError::Failed) => return Err(EngineError::Failed("the script says so".into())),
            Some(ScriptedError::Invalid) => {
                return Err(InvalidRequest::value("messages", "The script refuses this request.").into());
            }
        }
        let prompt_tokens = rule.prompt_tokens.unwrap_or_else(|| words_of(job.request));
        let room = self.model.context_length.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(InvalidRequest::context_length(self.model.context_length, prompt_tokens).into());
        }
        let prompt = PromptCount { prompt_tokens, cached_tokens: rule.cached_tokens };
        let plan = Plan::new(rule, &job, job.max_completion_tokens.min(room)).after(job.history)?;
        let (sender, events) = mpsc::channel(AHEAD);
        tokio::spawn(plan.play(prompt, sender));
        Ok(Generation { events })
    }
}

fn words_of(request: &ChatRequest<'_>) -> u32 {
    if let Some(prompts) = request.raw_prompts() {
        return prompts.iter().map(raw::tokens_of).sum();
    }
    request.messages.iter().map(|message| message.text.split_whitespace().count() as u32).sum()
}

#[cfg(test)]
mod tests;
