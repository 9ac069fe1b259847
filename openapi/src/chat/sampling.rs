//! How the next token is drawn, where an answer ends, and which log-probabilities come with it.

use std::borrow::Cow;

use super::Used;
use super::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::parameter::Parameter;

/// The most stop sequences.
pub const MAX_STOPS: usize = 4;

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

impl Default for Sampling {
    /// OpenAI's defaults.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

impl Sampling {
    pub(super) fn parse(members: &Members<'_>, used: &mut Used) -> Result<Self, InvalidRequest> {
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

pub(super) fn parse_stop(value: Option<Value<'_>>) -> Result<Vec<Cow<'_, str>>, InvalidRequest> {
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
                .map(|(at, item)| Value::new(item).string(format_args!("stop[{at}]")))
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

pub(super) fn parse_logprobs(members: &Members<'_>, used: &mut Used) -> Result<Option<u8>, InvalidRequest> {
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
