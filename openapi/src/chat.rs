//! `POST /v1/chat/completions`: the request, parsed once and by the same code at the gateway and at the provider,
//! so that the two cannot read one body differently (a member given twice is refused for that reason).
//!
//! Strings are borrowed from the body where JSON allows. Members outside OpenAI's specification are passed over here
//! and reach the provider untouched. Source of names, types and ranges: OpenAI's API specification of August 2026.

mod format;
pub mod json;
mod message;
mod tools;

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::error::InvalidRequest;
use crate::modality::{Modalities, Modality};
use crate::money::NanoUsd;
use crate::parameter::{Parameter, ParameterSet};
pub use format::{ResponseFormat, SCHEMA_PARAM};
use json::{Members, Value};
pub use message::{Message, Role, ToolCall};
pub use tools::{MAX_TOOLS, Tool, ToolChoice, Tools};

/// The most messages in one request.
pub const MAX_MESSAGES: usize = 2048;
/// The most answers to one request.
pub const MAX_CHOICES: u32 = 16;
/// The largest `max_tokens` that means anything.
const MAX_MAX_TOKENS: i64 = 10_000_000;
/// The most stop sequences.
const MAX_STOPS: usize = 4;

/// A request as both sides understand it.
#[derive(Clone, Debug)]
pub struct ChatRequest<'a> {
    /// The model's name as the client wrote it.
    pub model: Cow<'a, str>,
    /// The conversation so far; at least one.
    pub messages: Vec<Message<'a>>,
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
    /// What the client pays at most.
    pub max_price: MaxPrice,
    /// The parameters that this request uses, by which providers are chosen.
    pub parameters: ParameterSet,
    /// The first content of each kind that is not text.
    pub media: Vec<Media>,
}

/// Content that is not text, and where in the request it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    /// Its kind.
    pub modality: Modality,
    /// The message's number.
    pub message: usize,
    /// The part's number.
    pub part: usize,
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

/// OpenRouter's `provider.max_price`: what a provider may ask at most, in dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxPrice {
    /// For prompt tokens.
    pub prompt: Option<NanoUsd>,
    /// For completion tokens.
    pub completion: Option<NanoUsd>,
}

/// How the next token is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 (greedy) to 2.
    pub temperature: f32,
    /// Above 0, to 1.
    pub top_p: f32,
    /// −2 to 2.
    pub frequency_penalty: f32,
    /// −2 to 2.
    pub presence_penalty: f32,
    /// Repeats the answer; drawn by the provider where absent.
    pub seed: Option<i64>,
    /// Added to the logits of these token ids; −100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
}

impl<'a> ChatRequest<'a> {
    /// Reads a body. The error names the first parameter at fault.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidRequest> {
        let members = Members::parse(body)?;
        let mut used = Used::default();

        let model = members.required("model")?.string("model")?;
        if model.is_empty() || model.len() > 256 {
            return Err(InvalidRequest::value("model", "'model' must be the name of a model."));
        }
        let (messages, media) = parse_messages(members.required("messages")?, &mut used)?;
        let stream = members.get("stream").map(|v| v.boolean("stream")).transpose()?.unwrap_or(false);
        let include_usage = parse_stream_options(members.get("stream_options"), stream)?;
        let max_tokens = parse_max_tokens(&members, &mut used)?;
        let n = match members.get("n") {
            Some(value) => value.integer("n", 1..=i64::from(MAX_CHOICES))? as u32,
            None => 1,
        };
        used.when(Parameter::N, n > 1);
        let sampling = Sampling::parse(&members, &mut used)?;
        let stop = parse_stop(members.get("stop"))?;
        used.when(Parameter::Stop, !stop.is_empty());
        let logprobs = parse_logprobs(&members, &mut used)?;
        let tools = Tools::parse(&members, &mut used)?;
        let response_format = ResponseFormat::parse(&members, &mut used)?;
        let reasoning_effort = members.get("reasoning_effort").map(ReasoningEffort::parse).transpose()?;
        used.when(Parameter::ReasoningEffort, reasoning_effort.is_some());
        let template = TemplateOptions::parse(&members)?;
        parse_features(&members, &mut used)?;
        parse_labels(&members)?;
        let max_price = parse_max_price(members.get("provider"))?;
        let parameters = used.0;
        Ok(Self {
            model,
            messages,
            stream,
            include_usage,
            max_tokens,
            n,
            sampling,
            stop,
            logprobs,
            tools,
            response_format,
            reasoning_effort,
            template,
            max_price,
            parameters,
            media,
        })
    }

    /// The first content of a kind that a model which takes `inputs` does not.
    pub fn not_taken(&self, inputs: &Modalities) -> Option<InvalidRequest> {
        let Media { modality, message, part } = self.media.iter().find(|media| !inputs.contains(media.modality))?;
        let place = format!("messages[{message}].content[{part}]");
        Some(InvalidRequest::unsupported_content(place, *modality, &self.model))
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

impl Sampling {
    fn parse(members: &Members<'_>, used: &mut Used) -> Result<Self, InvalidRequest> {
        let mut number = |parameter: Parameter, range: std::ops::RangeInclusive<f64>, default: f64| {
            let Some(value) = members.get(parameter.name()) else { return Ok(default) };
            used.when(parameter, true);
            value.number(parameter.name(), range)
        };
        let temperature = number(Parameter::Temperature, 0.0..=2.0, 1.0)? as f32;
        let top_p = number(Parameter::TopP, 0.0..=1.0, 1.0)? as f32;
        let frequency_penalty = number(Parameter::FrequencyPenalty, -2.0..=2.0, 0.0)? as f32;
        let presence_penalty = number(Parameter::PresencePenalty, -2.0..=2.0, 0.0)? as f32;
        let seed = members.get("seed").map(|v| v.integer("seed", i64::MIN..=i64::MAX)).transpose()?;
        used.when(Parameter::Seed, seed.is_some());
        let logit_bias = match members.get("logit_bias") {
            Some(value) => parse_logit_bias(value)?,
            None => Vec::new(),
        };
        used.when(Parameter::LogitBias, !logit_bias.is_empty());
        Ok(Self { temperature, top_p, frequency_penalty, presence_penalty, seed, logit_bias })
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

fn parse_stop(value: Option<Value<'_>>) -> Result<Vec<Cow<'_, str>>, InvalidRequest> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let stops = match value.is_string() {
        true => vec![value.string("stop")?],
        false => {
            let items = value
                .array("stop")
                .map_err(|_| InvalidRequest::wrong_type("stop", "a string or an array of strings"))?;
            if items.len() > MAX_STOPS {
                return Err(InvalidRequest {
                    message: format!("'stop' holds {} sequences; at most {MAX_STOPS} are allowed.", items.len()),
                    param: Some("stop".into()),
                    code: Some("array_above_max_length"),
                });
            }
            items
                .into_iter()
                .enumerate()
                .map(|(at, item)| Value::new(item).string(&format!("stop[{at}]")))
                .collect::<Result<_, _>>()?
        }
    };
    match stops.iter().any(|stop| stop.is_empty()) {
        true => Err(InvalidRequest::value("stop", "A stop sequence must not be empty.")),
        false => Ok(stops),
    }
}

fn parse_logit_bias(value: Value<'_>) -> Result<Vec<(u32, f32)>, InvalidRequest> {
    let biases = value.object("logit_bias")?;
    biases
        .iter()
        .map(|(id, bias)| {
            let param = format!("logit_bias.{id}");
            let id =
                id.parse().map_err(|_| InvalidRequest::value(&param, "Keys of 'logit_bias' must be token ids."))?;
            Ok((id, bias.number(&param, -100.0..=100.0)? as f32))
        })
        .collect()
}

fn parse_logprobs(members: &Members<'_>, used: &mut Used) -> Result<Option<u8>, InvalidRequest> {
    let wanted = members.get("logprobs").map(|v| v.boolean("logprobs")).transpose()?.unwrap_or(false);
    let top = members.get("top_logprobs").map(|v| v.integer("top_logprobs", 0..=20)).transpose()?;
    used.when(Parameter::Logprobs, wanted);
    used.when(Parameter::TopLogprobs, top.is_some_and(|top| top > 0));
    match (wanted, top) {
        (false, Some(top)) if top > 0 => {
            Err(InvalidRequest::value("top_logprobs", "'top_logprobs' needs 'logprobs' to be true."))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as u8)),
    }
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
        value.string(&format!("metadata.{name}"))?;
    }
    Ok(())
}

/// Of OpenRouter's `provider` only the price cap is read here; its other members pass through.
fn parse_max_price(provider: Option<Value<'_>>) -> Result<MaxPrice, InvalidRequest> {
    let Some(provider) = provider else { return Ok(MaxPrice::default()) };
    let Some(prices) = provider.object("provider")?.get("max_price") else { return Ok(MaxPrice::default()) };
    let prices = prices.object("provider.max_price")?;
    let price =
        |name: &str| prices.get(name).map(|value| value.dollars(&format!("provider.max_price.{name}"))).transpose();
    Ok(MaxPrice { prompt: price("prompt")?, completion: price("completion")? })
}

#[cfg(test)]
mod tests;
