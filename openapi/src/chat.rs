//! The request that every endpoint's body comes to, parsed by the same code at the gateway and at the provider, so that
//! the two cannot read one body differently (a member given twice is refused for that reason). Here: that of
//! `POST /v1/chat/completions`; in `completions` and `embeddings`: those without a conversation.
//!
//! Strings are borrowed from the body where JSON allows. Members outside OpenAI's specification are passed over here
//! and reach the provider untouched. Source of names, types and ranges: OpenAI's API specification of August 2026.

mod completions;
mod embeddings;
mod format;
pub mod json;
pub(crate) mod media;
mod message;
pub mod routing;
mod sampling;
mod tools;

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::InvalidRequest;
use crate::parameter::{Parameter, ParameterSet};
pub use completions::{MAX_ANSWERS, Prompt, RawPrompts};
pub use embeddings::{EmbeddingWish, Encoding, MAX_INPUTS};
pub use format::{ResponseFormat, SCHEMA_PARAM};
use json::{Members, Value};
pub use media::Media;
pub use message::{Message, Role, ToolCall};
use routing::Routing;
pub use sampling::{MAX_STOPS, Sampling};
use sampling::{parse_logprobs, parse_stop};
pub use tools::{MAX_TOOLS, Tool, ToolChoice, Tools};

/// The most messages in one request.
pub const MAX_MESSAGES: usize = 2048;
/// The most answers to one prompt.
pub const MAX_CHOICES: u32 = 16;
/// The largest `max_tokens` that means anything.
const MAX_MAX_TOKENS: i64 = 10_000_000;

/// A request as both sides understand it.
#[derive(Clone, Debug)]
pub struct ChatRequest<'a> {
    /// The model's name as the client wrote it.
    pub model: Cow<'a, str>,
    /// The conversation so far; empty only where prompts or inputs come in its place.
    pub messages: Vec<Message<'a>>,
    /// Prompts that the model goes on with as they are, in place of a conversation.
    pub prompts: Option<RawPrompts<'a>>,
    /// Inputs of which vectors are wanted, in place of an answer.
    pub embedding: Option<EmbeddingWish<'a>>,
    /// Whether the answer comes as server-sent events.
    pub stream: bool,
    /// Whether the stream ends with a usage chunk.
    pub include_usage: bool,
    /// The most completion tokens per choice, if the client set one.
    pub max_tokens: Option<u32>,
    /// How many answers; 1 to [`MAX_CHOICES`].
    pub n: u32,
    /// How the next token is drawn.
    pub sampling: Sampling,
    /// Texts before which the answer ends.
    pub stop: Vec<Cow<'a, str>>,
    /// Log-probabilities: `Some(k)` asks for them, with `k` alternatives.
    pub logprobs: Option<u8>,
    /// What the model may call.
    pub tools: Tools<'a>,
    /// What form the answer must have.
    pub response_format: ResponseFormat<'a>,
    /// How much the model should think.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// How the model's chat template is filled in.
    pub template: TemplateOptions<'a>,
    /// Who may serve it.
    pub routing: Routing,
    /// The models to fall back on, as the client wrote them.
    pub fallbacks: Vec<Cow<'a, str>>,
    /// The parameters that this request uses, by which providers are chosen.
    pub parameters: ParameterSet,
    /// Content that is not text, in order.
    pub media: Vec<Media>,
}

/// OpenAI's `reasoning_effort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReasoningEffort {
    /// Not at all.
    None,
    /// `minimal`
    Minimal,
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// `xhigh`
    XHigh,
}

impl ReasoningEffort {
    const ALL: [(&'static str, Self); 6] = [
        ("none", Self::None),
        ("minimal", Self::Minimal),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("xhigh", Self::XHigh),
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, effort)| *effort == self).map_or("none", |(name, _)| name)
    }

    fn parse(value: Value<'_>) -> Result<Self, InvalidRequest> {
        let name = value.string("reasoning_effort")?;
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, effort)| *effort).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| format!("'{name}'")).join(", ");
            InvalidRequest::value("reasoning_effort", format!("'reasoning_effort' must be one of {names}."))
        })
    }
}

/// vLLM's members about the chat template. They are outside OpenAI's specification: an engine that has no template of its
/// own passes them on.
#[derive(Clone, Debug)]
pub struct TemplateOptions<'a> {
    /// The last message is the answer's beginning: the model goes on with it.
    pub continue_final_message: bool,
    /// Whether the prompt ends with the assistant's turn opened.
    pub add_generation_prompt: bool,
    /// `chat_template_kwargs`: variables of the template, a JSON object.
    pub variables: Option<Cow<'a, RawValue>>,
}

impl Default for TemplateOptions<'_> {
    fn default() -> Self {
        Self { continue_final_message: false, add_generation_prompt: true, variables: None }
    }
}

impl<'a> TemplateOptions<'a> {
    fn parse(members: &Members<'a>) -> Result<Self, InvalidRequest> {
        let flag = |name: &str| members.get(name).map(|value| value.boolean(name)).transpose();
        let continue_final_message = flag("continue_final_message")?.unwrap_or(false);
        let add_generation_prompt = flag("add_generation_prompt")?.unwrap_or(!continue_final_message);
        if continue_final_message && add_generation_prompt {
            return Err(InvalidRequest::value(
                "continue_final_message",
                "'continue_final_message' needs 'add_generation_prompt' to be false: a message is either gone on with or answered.",
            ));
        }
        let name = "chat_template_kwargs";
        let variables = members.get(name).map(|value| value.object(name).map(|_| Cow::Borrowed(value.raw())));
        Ok(Self { continue_final_message, add_generation_prompt, variables: variables.transpose()? })
    }
}

impl<'a> ChatRequest<'a> {
    /// Reads a body of `POST /v1/chat/completions`. The error names the first parameter at fault.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidRequest> {
        let members = Members::parse(body)?;
        let mut used = Used::default();
        let model = parse_model(&members)?;
        let (messages, media) = parse_messages(members.required("messages")?, &mut used)?;
        let mut request = Self { messages, media, ..Self::parse_common(model, &members, &mut used)? };
        request.max_tokens = parse_max_tokens(&members, &mut used)?;
        request.logprobs = parse_logprobs(&members, &mut used)?;
        request.tools = Tools::parse(&members, &mut used)?;
        request.response_format = ResponseFormat::parse(&members, &mut used)?;
        request.reasoning_effort = members.get("reasoning_effort").map(ReasoningEffort::parse).transpose()?;
        // A model that cannot reason honours the wish that it does not.
        let reasons = request.reasoning_effort.is_some_and(|effort| effort != ReasoningEffort::None);
        used.when(Parameter::ReasoningEffort, reasons);
        request.template = TemplateOptions::parse(&members)?;
        parse_features(&members, &mut used)?;
        request.parameters = used.0;
        Ok(request)
    }

    /// What every endpoint that generates text has in common.
    fn parse_common(model: Cow<'a, str>, members: &Members<'a>, used: &mut Used) -> Result<Self, InvalidRequest> {
        let mut request = Self::of_model(model);
        request.stream = members.get("stream").map(|v| v.boolean("stream")).transpose()?.unwrap_or(false);
        request.include_usage = parse_stream_options(members.get("stream_options"), request.stream)?;
        if let Some(value) = members.get("n") {
            request.n = value.integer("n", 1..=i64::from(MAX_CHOICES))? as u32;
        }
        used.when(Parameter::N, request.n > 1);
        request.sampling = Sampling::parse(members, used)?;
        request.stop = parse_stop(members.get("stop"))?;
        used.when(Parameter::Stop, !request.stop.is_empty());
        parse_labels(members)?;
        request.parse_routing(members)?;
        Ok(request)
    }

    /// Who may answer, which is the same question at every endpoint.
    fn parse_routing(&mut self, members: &Members<'a>) -> Result<(), InvalidRequest> {
        self.routing = Routing::parse(members.get("provider"))?;
        self.fallbacks = routing::parse_models(members.get("models"))?;
        if members.get("model").is_none() && !self.fallbacks.is_empty() {
            self.fallbacks.remove(0); // it stands for `model`
        }
        Ok(())
    }

    /// A request that asks nothing of a model yet.
    fn of_model(model: Cow<'a, str>) -> Self {
        Self {
            model,
            messages: Vec::new(),
            prompts: None,
            embedding: None,
            stream: false,
            include_usage: false,
            max_tokens: None,
            n: 1,
            sampling: Sampling::default(),
            stop: Vec::new(),
            logprobs: None,
            tools: Tools::default(),
            response_format: ResponseFormat::Text,
            reasoning_effort: None,
            template: TemplateOptions::default(),
            routing: Routing::default(),
            fallbacks: Vec::new(),
            parameters: ParameterSet::default(),
            media: Vec::new(),
        }
    }

    /// What comes in place of a conversation: prompts to go on with, or inputs of which vectors are wanted.
    pub fn raw_prompts(&self) -> Option<&[Prompt<'a>]> {
        let prompts = self.prompts.as_ref().map(|prompts| prompts.list.as_slice());
        prompts.or(self.embedding.as_ref().map(|wish| wish.inputs.as_slice()))
    }

    /// What comes after the answers, where prompts are gone on with.
    pub fn suffix(&self) -> Option<&str> {
        self.prompts.as_ref()?.suffix.as_deref()
    }

    /// How many prompts there are, of which a conversation is one.
    pub fn prompt_count(&self) -> u32 {
        self.raw_prompts().map_or(1, |prompts| prompts.len() as u32)
    }

    /// How many answers there will be: `n` for each prompt, or one list of vectors.
    pub fn answers(&self) -> u32 {
        self.n * self.prompts.as_ref().map_or(1, |prompts| prompts.list.len() as u32)
    }

    /// How many answers are made, of which those that are best are given: `best_of` for each prompt.
    pub fn drafts(&self) -> u32 {
        match &self.prompts {
            Some(prompts) => prompts.best_of * prompts.list.len() as u32,
            None => self.answers(),
        }
    }

    /// The most completion tokens of all answers together that `per_answer` comes to: none where vectors are asked for.
    pub fn completion_tokens(&self, per_answer: u32) -> u32 {
        match self.embedding {
            Some(_) => 0,
            None => per_answer.saturating_mul(self.drafts()),
        }
    }

    /// Bytes of the body that hold what is not text.
    pub fn media_bytes(&self) -> usize {
        self.media.iter().map(|media| media.bytes).sum()
    }

    /// The first parameter in use that `supported` lacks, where this model cannot serve the request as it stands.
    pub fn unsupported(&self, supported: ParameterSet) -> Option<InvalidRequest> {
        let parameter = self.parameters.missing_from(supported).iter().next()?;
        Some(InvalidRequest::unsupported(parameter.name(), &self.model))
    }
}

/// The parameters found in use so far.
#[derive(Default)]
struct Used(ParameterSet);

impl Used {
    fn when(&mut self, parameter: Parameter, asked: bool) {
        if asked {
            self.0.insert(parameter);
        }
    }
}

fn parse_model<'a>(members: &Members<'a>) -> Result<Cow<'a, str>, InvalidRequest> {
    let first = |models: Vec<Cow<'a, str>>| models.into_iter().next().ok_or_else(|| InvalidRequest::missing("model"));
    let model = match members.get("model") {
        Some(model) => model.string("model")?,
        None => routing::parse_models(members.get("models")).and_then(first)?,
    };
    match model.is_empty() || model.len() > 256 {
        true => Err(InvalidRequest::value("model", "'model' must be the name of a model.")),
        false => Ok(model),
    }
}

fn parse_messages<'a>(value: Value<'a>, used: &mut Used) -> Result<(Vec<Message<'a>>, Vec<Media>), InvalidRequest> {
    let items: Vec<&RawValue> = value.array("messages")?;
    if items.is_empty() {
        return Err(InvalidRequest {
            message: "'messages' must hold at least one message.".into(),
            param: Some("messages".into()),
            code: Some("empty_array"),
        });
    }
    if items.len() > MAX_MESSAGES {
        return Err(InvalidRequest {
            message: format!("'messages' holds {} messages; at most {MAX_MESSAGES} are allowed.", items.len()),
            param: Some("messages".into()),
            code: Some("array_above_max_length"),
        });
    }
    let mut media = Vec::new();
    let read = |(at, item)| {
        let (message, parts) = Message::parse(item, at, &mut media)?;
        parts.iter().for_each(|parameter| used.when(parameter, true));
        Ok(message)
    };
    let messages = items.into_iter().enumerate().map(read).collect::<Result<_, InvalidRequest>>()?;
    Ok((messages, media))
}

fn parse_stream_options(value: Option<Value<'_>>, stream: bool) -> Result<bool, InvalidRequest> {
    let Some(value) = value else { return Ok(false) };
    let options = value.object("stream_options")?;
    if !stream {
        return Err(InvalidRequest::value("stream_options", "'stream_options' is only allowed when 'stream' is true."));
    }
    options
        .get("include_usage")
        .map(|v| v.boolean("stream_options.include_usage"))
        .transpose()
        .map(Option::unwrap_or_default)
}

fn parse_max_tokens(members: &Members<'_>, used: &mut Used) -> Result<Option<u32>, InvalidRequest> {
    let read = |name: &str| members.get(name).map(|v| v.integer(name, 1..=MAX_MAX_TOKENS)).transpose();
    let (old, new) = (read("max_tokens")?, read("max_completion_tokens")?);
    if old.is_some() && new.is_some() && old != new {
        return Err(InvalidRequest::value(
            "max_tokens",
            "'max_tokens' and 'max_completion_tokens' are one limit under two names: set one of them.",
        ));
    }
    let limit = new.or(old).map(|limit| limit as u32);
    used.when(Parameter::MaxTokens, limit.is_some());
    Ok(limit)
}

/// What an engine must be able to do. Only that it is asked for is read here; its shape is the business of the engine that offers it.
fn parse_features(members: &Members<'_>, used: &mut Used) -> Result<(), InvalidRequest> {
    if let Some(value) = members.get("functions") {
        used.when(Parameter::Functions, !value.array("functions")?.is_empty());
    }
    if let Some(value) = members.get("function_call") {
        let neutral = value.is_string() && ["none", "auto"].contains(&&*value.string("function_call")?);
        used.when(Parameter::FunctionCall, !neutral);
    }
    if let Some(value) = members.get("modalities") {
        for item in value.array("modalities")? {
            used.when(Parameter::Modalities, Value::new(item).string("modalities")? != "text");
        }
    }
    if let Some(value) = members.get("store") {
        used.when(Parameter::Store, value.boolean("store")?);
    }
    if let Some(value) = members.get("verbosity") {
        value.string("verbosity")?;
        used.when(Parameter::Verbosity, true);
    }
    for parameter in [Parameter::Audio, Parameter::Prediction, Parameter::WebSearchOptions] {
        if let Some(value) = members.get(parameter.name()) {
            value.object(parameter.name())?;
            used.when(parameter, true);
        }
    }
    Ok(())
}

/// Members that label a request and change nothing about its answer. They are checked, and not passed off as honoured.
fn parse_labels(members: &Members<'_>) -> Result<(), InvalidRequest> {
    for name in ["user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"] {
        members.get(name).map(|v| v.string(name)).transpose()?;
    }
    let Some(metadata) = members.get("metadata") else { return Ok(()) };
    for (name, value) in metadata.object("metadata")?.iter() {
        value.string(format_args!("metadata.{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
