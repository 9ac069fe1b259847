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
use lumbung_openapi::reply::{TokenLogprob, TopLogprob};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{
    CallDelta, CallHead, Engine, EngineError, EngineModel, Event, FinishReason, Generation, History, Job, Tokens,
};

mod raw;

/// Events that an answer may be ahead of whoever takes them.
const AHEAD: usize = 32;

/// A script: what is said of the model, and what it answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The digest that is offered.
    #[serde(default)]
    pub weights_digest: String,
    /// The quantization that is offered.
    #[serde(default = "unknown")]
    pub quantization: String,
    /// Tokens of prompt and completion together.
    #[serde(default = "large_context")]
    pub context_length: u32,
    /// OpenAI's parameters that are offered, by name; those of plain text if absent.
    pub supported_parameters: Option<Vec<String>>,
    /// How many numbers a vector has: then it is vectors that are offered, and no answers.
    #[serde(default)]
    pub embedding_dimensions: Option<u32>,
    /// The first that matches answers.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// One answer of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Part of the last user message; `*` matches any.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What is answered: one token for each word with the white space before it.
    #[serde(default)]
    pub reply: String,
    /// What is thought before the reply.
    #[serde(default)]
    pub reasoning: String,
    /// Tools that are called after the reply.
    #[serde(default)]
    pub calls: Vec<ScriptedCall>,
    /// In place of a reply: so many tokens…
    #[serde(default)]
    pub tokens: Option<u32>,
    /// …of this text.
    #[serde(default = "padi")]
    pub word: String,
    /// In place of one token for each word: the reply in so many tokens, as a provider would that spells it in smaller
    /// ones, or invents some that show nothing.
    #[serde(default)]
    pub claim_tokens: Option<u32>,
    /// What the prompt is counted as; its words if absent.
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    /// How many of them count as cached.
    #[serde(default)]
    pub cached_tokens: u32,
    /// Milliseconds before the first token.
    #[serde(default)]
    pub delay_ms_first: f64,
    /// Milliseconds from token to token; 0 is as fast as they are taken.
    #[serde(default)]
    pub delay_ms_per_token: f64,
    /// Tokens that come together.
    #[serde(default = "one")]
    pub tokens_per_event: u32,
    /// The engine fails after so many tokens.
    #[serde(default)]
    pub fail_after: Option<u32>,
    /// Nothing comes any more after so many tokens.
    #[serde(default)]
    pub freeze_after: Option<u32>,
    /// The process is aborted after so many tokens.
    #[serde(default)]
    pub die_after: Option<u32>,
    /// The answer does not begin.
    #[serde(default)]
    pub error: Option<ScriptedError>,
}

/// A tool call of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedCall {
    /// The tool.
    pub name: String,
    /// JSON text: one token for each word with the white space before it.
    pub arguments: String,
}

/// The natural logarithm that every scripted token's probability is said to have.
const LOGPROB: f32 = -0.25;

/// Why a scripted answer does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScriptedError {
    /// The request is at fault.
    Invalid,
    /// Every slot is taken.
    Busy,
    /// The engine is at fault.
    Failed,
}

fn unknown() -> String {
    "unknown".into()
}

fn large_context() -> u32 {
    131_072
}

fn padi() -> String {
    " padi".into()
}

fn one() -> u32 {
    1
}

/// The engine that answers from a script.
pub struct ScriptedEngine {
    model: EngineModel,
    embedding_dimensions: Option<u32>,
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
        Ok(Self { model, embedding_dimensions: script.embedding_dimensions, rules: script.rules })
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
            return raw::embed(wish, dimensions, self.model.context_length);
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

/// One answer, known to its end before it begins.
struct Plan {
    /// The reasoning, the reply and the calls' arguments, one after another.
    text: String,
    /// Where each token ends in the text.
    ends: Vec<usize>,
    /// Where the reasoning and the reply end in the text.
    reasoning_end: usize,
    reply_end: usize,
    /// The calls' names, and where their arguments end in the text.
    calls: Vec<(String, usize)>,
    /// Names the job.
    job: String,
    /// How many alternatives are told with each token, if log-probabilities are asked for.
    logprobs: Option<u8>,
    last: Last,
    /// How many tokens of each choice have been delivered before.
    delivered: Vec<usize>,
    /// What each choice begins with beside its own tokens.
    echoes: Vec<String>,
    first_delay: Duration,
    delay: Duration,
    step: usize,
}

/// What comes after the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Finish(FinishReason),
    Fail,
    Freeze,
    Die,
}

impl Plan {
    fn new(rule: &Rule, job: &Job<'_>, most_tokens: u32) -> Self {
        let most = most_tokens as usize;
        let (reply, reply_ends) = match rule.tokens {
            Some(count) => {
                let count = (count as usize).min(most + 1);
                (rule.word.repeat(count), (1..=count).map(|nth| nth * rule.word.len()).collect())
            }
            None => (rule.reply.clone(), reply_ends(rule)),
        };
        let (mut text, mut ends) = (rule.reasoning.clone(), token_ends(&rule.reasoning));
        let reasoning_end = text.len();
        ends.extend(reply_ends.iter().map(|end| reasoning_end + end));
        text += &reply;
        let reply_end = text.len();
        let mut calls = Vec::with_capacity(rule.calls.len());
        for ScriptedCall { name, arguments } in &rule.calls {
            ends.extend(token_ends(arguments).iter().map(|end| text.len() + end));
            text += arguments;
            calls.push((name.clone(), text.len()));
        }
        let natural = if calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
        let mut last = Last::Finish(natural);
        if ends.len() > most {
            ends.truncate(most);
            last = Last::Finish(FinishReason::Length);
        }
        let said = ends.last().copied().unwrap_or(0).clamp(reasoning_end, reply_end);
        let shown = &text[reasoning_end..said];
        let stops = job.request.stop.iter().filter_map(|stop| Some((shown.find(&**stop)?, stop.len())));
        if let Some((at, len)) = stops.min() {
            let at = reasoning_end + at;
            // The token that completes the stop sequence was made and counts; its text from there on is not shown.
            ends.truncate(ends.partition_point(|end| *end < at + len) + 1);
            ends.iter_mut().for_each(|end| *end = (*end).min(at));
            last = Last::Finish(stopped_by(job.request, shown));
        }
        let breaks = [(rule.fail_after, Last::Fail), (rule.freeze_after, Last::Freeze), (rule.die_after, Last::Die)];
        for (after, instead) in breaks {
            if let Some(after) = after.map(|after| after as usize)
                && after <= ends.len()
            {
                ends.truncate(after);
                last = instead;
            }
        }
        Self {
            text,
            ends,
            reasoning_end,
            reply_end,
            calls,
            job: job.id.to_owned(),
            logprobs: job.request.logprobs,
            last,
            delivered: vec![0; job.request.answers() as usize],
            echoes: raw::echoes(job.request),
            first_delay: Duration::from_secs_f64(rule.delay_ms_first / 1e3),
            delay: Duration::from_secs_f64(rule.delay_ms_per_token / 1e3),
            step: rule.tokens_per_event as usize,
        }
    }

    /// Goes on where an earlier attempt was cut off: what it delivered is repeated without delay. A token's id is its place.
    fn after(mut self, history: &[History]) -> Result<Self, EngineError> {
        for (delivered, history) in self.delivered.iter_mut().zip(history) {
            *delivered = history.ids.len();
            if *delivered > self.ends.len() || !(0..).zip(&history.ids).all(|(place, id)| *id == place) {
                return Err(EngineError::Failed("the script has not said what was delivered".into()));
            }
        }
        Ok(self)
    }

    /// Plays to the end, or until nobody listens.
    async fn play(self, prompt: PromptCount, events: mpsc::Sender<Event>) {
        tokio::select! {
            () = events.closed() => {}
            _ = self.play_to(prompt, &events) => {}
        }
    }

    async fn play_to(
        &self,
        prompt: PromptCount,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        events.send(Event::Prompt(prompt)).await?;
        for (choice, text) in (0..).zip(&self.echoes) {
            events.send(Event::Tokens(Tokens { choice, text: text.clone(), ..Tokens::default() })).await?;
        }
        let repeated = self.delivered.iter().min().copied().unwrap_or(0);
        let begun = Instant::now() + self.first_delay;
        let mut from = 0;
        while from < self.ends.len() {
            let to = (from + self.step).min(self.ends.len());
            // Due times are counted from the beginning, so that timers' coarseness does not add up.
            let due = begun + self.delay * from.saturating_sub(repeated) as u32;
            if to > repeated && due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            for (choice, &delivered) in (0..).zip(&self.delivered) {
                // An event is cut where the earlier attempt was.
                let cut = delivered.clamp(from, to);
                for (from, to) in [(from, cut), (cut, to)].into_iter().filter(|(from, to)| from < to) {
                    events.send(Event::Tokens(self.tokens(choice, from, to))).await?;
                }
            }
            from = to;
        }
        match self.last {
            Last::Finish(reason) => {
                for choice in 0..self.delivered.len() as u8 {
                    events.send(Event::Finish { choice, reason }).await?;
                }
            }
            Last::Fail => events.send(Event::Failed(EngineError::Failed("the script says so".into()))).await?,
            Last::Freeze => std::future::pending().await,
            Last::Die => {
                // So that what was made before has left the machine. In small steps: on a machine that is overloaded
                // each of them takes longer, and lets others have their turn.
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                std::process::abort();
            }
        }
        Ok(())
    }

    /// Tokens `from` to `to`. A token's id is its place, so that a reader sees whether one is missing.
    fn tokens(&self, choice: u8, from: usize, to: usize) -> Tokens {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        let end = self.ends[to - 1];
        let part = |from: usize, to: usize| self.text[start.clamp(from, to)..end.clamp(from, to)].to_owned();
        Tokens {
            choice,
            count: (to - from) as u32,
            reasoning_count: self.ends[from..to].iter().filter(|end| **end <= self.reasoning_end).count() as u32,
            ids: (from as u32..to as u32).collect(),
            reasoning: part(0, self.reasoning_end),
            text: part(self.reasoning_end, self.reply_end),
            calls: self.calls(choice, start, end),
            logprobs: self.logprobs.map_or_else(Vec::new, |k| (from..to).map(|at| self.logprob(at, k)).collect()),
            ..Tokens::default()
        }
    }

    /// The parts of calls between two places of the text.
    fn calls(&self, choice: u8, start: usize, end: usize) -> Vec<CallDelta> {
        let mut begins = self.reply_end;
        let mut deltas = Vec::new();
        for (call, (name, ends)) in (0..).zip(&self.calls) {
            let arguments = &self.text[start.clamp(begins, *ends)..end.clamp(begins, *ends)];
            if !arguments.is_empty() {
                let id = format!("call_{}_{choice}_{call}", self.job);
                let head = (start <= begins).then(|| CallHead { id, name: name.clone() });
                deltas.push(CallDelta { call, head, arguments: arguments.to_owned() });
            }
            begins = *ends;
        }
        deltas
    }

    fn logprob(&self, at: usize, alternatives: u8) -> TokenLogprob {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        let token = &self.text[start..self.ends[at]];
        let top = |nth: u8| TopLogprob {
            token: token.to_owned(),
            logprob: LOGPROB - f32::from(nth),
            bytes: token.as_bytes().to_vec(),
        };
        TokenLogprob {
            token: token.to_owned(),
            logprob: LOGPROB,
            bytes: token.as_bytes().to_vec(),
            top_logprobs: (0..alternatives).map(top).collect(),
        }
    }
}

/// Which stop sequence ends this text: of those that come first, the first in the request.
fn stopped_by(request: &ChatRequest<'_>, text: &str) -> FinishReason {
    let places = request.stop.iter().enumerate().filter_map(|(at, stop)| Some((text.find(&**stop)?, at)));
    places.min().map_or(FinishReason::Stop, |(_, at)| FinishReason::StopSequence(at as u8))
}

/// Where the tokens of a rule's reply end.
fn reply_ends(rule: &Rule) -> Vec<usize> {
    let Some(claimed) = rule.claim_tokens.map(u64::from) else { return token_ends(&rule.reply) };
    let at = |nth: u64| {
        let at = (rule.reply.len() as u64 * nth / claimed) as usize;
        (at..=rule.reply.len()).find(|at| rule.reply.is_char_boundary(*at)).unwrap_or(rule.reply.len())
    };
    (1..=claimed).map(at).collect()
}

/// Where the tokens of a text end: each is a word with the white space before it.
fn token_ends(text: &str) -> Vec<usize> {
    let mut ends: Vec<usize> = text
        .char_indices()
        .zip(text.chars().skip(1))
        .filter(|((_, this), next)| !this.is_whitespace() && next.is_whitespace())
        .map(|((at, this), _)| at + this.len_utf8())
        .collect();
    if ends.last().copied().unwrap_or(0) < text.len() {
        ends.push(text.len());
    }
    ends
}

#[cfg(test)]
mod tests;
