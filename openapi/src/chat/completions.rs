//! `POST /v1/completions`: prompts that the model goes on with, without its chat template.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::json::{Members, Value};
use super::{ChatRequest, MAX_CHOICES, Used, parse_model};
use crate::error::InvalidRequest;
use crate::parameter::Parameter;

/// The most answers to one request, over all prompts: a choice's index is one byte on the provider link.
pub const MAX_ANSWERS: u32 = 128;
/// The most token ids in one prompt.
const MAX_PROMPT_TOKENS: usize = 1 << 20;
/// OpenAI's `max_tokens` where the client sets none.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A prompt as it goes to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// Text, which the engine tokenizes.
    Text(Cow<'a, str>),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// What `POST /v1/completions` asks beside what a conversation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPrompts<'a> {
    /// At least one. Answer `n × p + i` is the `i`-th of prompt `p`.
    pub list: Vec<Prompt<'a>>,
    /// How many answers to each prompt are made, of which the best `n` are given; not less than `n`.
    pub best_of: u32,
    /// Whether each answer begins with its prompt.
    pub echo: bool,
    /// What comes after the answer.
    pub suffix: Option<Cow<'a, str>>,
}

impl<'a> ChatRequest<'a> {
    /// Reads a body of `POST /v1/completions`.
    pub fn parse_completion(body: &'a [u8]) -> Result<Self, InvalidRequest> {
        let members = Members::parse(body)?;
        let mut used = Used::default();
        let mut request = Self::parse_common(parse_model(&members)?, &members, &mut used)?;
        let list = parse_prompts(members.required("prompt")?, "prompt", MAX_ANSWERS as usize)?;
        let max_tokens = members.get("max_tokens").map(|v| v.integer("max_tokens", 1..=super::MAX_MAX_TOKENS));
        let max_tokens = max_tokens.transpose()?.map(|limit| limit as u32);
        used.when(Parameter::MaxTokens, max_tokens.is_some());
        request.max_tokens = Some(max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        if list.len() as u64 * u64::from(request.n) > u64::from(MAX_ANSWERS) {
            return Err(InvalidRequest::value(
                "prompt",
                format!("'prompt' times 'n' comes to more than {MAX_ANSWERS} answers: send several requests."),
            ));
        }
        request.logprobs = match members.get("logprobs") {
            Some(value) => Some(value.integer("logprobs", 0..=5)? as u8),
            None => None,
        };
        used.when(Parameter::Logprobs, request.logprobs.is_some());
        used.when(Parameter::TopLogprobs, request.logprobs.is_some_and(|top| top > 0));
        let best_of = parse_best_of(&members, &request, &mut used)?;
        let echo = members.get("echo").map(|v| v.boolean("echo")).transpose()?.unwrap_or(false);
        used.when(Parameter::Echo, echo);
        if echo && request.logprobs.is_some() {
            return Err(InvalidRequest::value(
                "echo",
                "'echo' together with 'logprobs' is not supported: the prompt's log-probabilities are not computed.",
            ));
        }
        let suffix = members.get("suffix").map(|v| v.string("suffix")).transpose()?.filter(|text| !text.is_empty());
        used.when(Parameter::Suffix, suffix.is_some());
        used.when(Parameter::Prompt, true);
        request.prompts = Some(RawPrompts { list, best_of, echo, suffix });
        request.parameters = used.0;
        Ok(request)
    }
}

fn parse_best_of(members: &Members<'_>, request: &ChatRequest<'_>, used: &mut Used) -> Result<u32, InvalidRequest> {
    let Some(value) = members.get("best_of") else { return Ok(request.n) };
    let best_of = value.integer("best_of", 1..=i64::from(MAX_CHOICES))? as u32;
    if best_of < request.n {
        return Err(InvalidRequest::value("best_of", "'best_of' must not be less than 'n'."));
    }
    // As many as are wanted: nothing is left out.
    let leaves_out = best_of > request.n;
    if leaves_out && request.stream {
        return Err(InvalidRequest::value(
            "best_of",
            "'best_of' above 'n' cannot be streamed: which answers are the best is known at their end.",
        ));
    }
    used.when(Parameter::BestOf, leaves_out);
    Ok(best_of)
}

/// A string, token ids, or an array of either.
pub(super) fn parse_prompts<'a>(value: Value<'a>, name: &str, most: usize) -> Result<Vec<Prompt<'a>>, InvalidRequest> {
    if value.is_string() {
        return Ok(vec![parse_text(value, name)?]);
    }
    let shapes = "a string, or an array of strings, of token ids or of arrays of token ids";
    let items = value.array(name).map_err(|_| InvalidRequest::wrong_type(name, shapes))?;
    let invalid = |message: String, code| InvalidRequest { message, param: Some(name.to_owned()), code: Some(code) };
    let Some(first) = items.first() else {
        return Err(invalid(format!("'{name}' must not be an empty array."), "empty_array"));
    };
    if Value::new(first).is_number() {
        return Ok(vec![parse_ids(&items, name)?]);
    }
    if items.len() > most {
        let message = format!("'{name}' holds {} items; at most {most} are allowed.", items.len());
        return Err(invalid(message, "array_above_max_length"));
    }
    let one = |(at, item)| {
        let (path, value) = (format!("{name}[{at}]"), Value::new(item));
        if value.is_string() {
            return parse_text(value, &path);
        }
        let expected = "a string or an array of token ids";
        let ids = value.array(&path).map_err(|_| InvalidRequest::wrong_type(&path, expected))?;
        parse_ids(&ids, &path)
    };
    items.into_iter().enumerate().map(one).collect()
}

fn parse_text<'a>(value: Value<'a>, path: &str) -> Result<Prompt<'a>, InvalidRequest> {
    let text = value.string(path)?;
    match text.is_empty() {
        true => Err(InvalidRequest::value(path, format!("'{path}' must not be empty."))),
        false => Ok(Prompt::Text(text)),
    }
}

/// Token ids, each a whole number below 2³¹.
fn parse_ids<'a>(items: &[&RawValue], path: &str) -> Result<Prompt<'a>, InvalidRequest> {
    if items.is_empty() || items.len() > MAX_PROMPT_TOKENS {
        return Err(InvalidRequest::value(
            path,
            format!("'{path}' must hold from 1 to {MAX_PROMPT_TOKENS} token ids."),
        ));
    }
    let id = |(at, item): (usize, &&RawValue)| {
        Value::new(item).integer(&format!("{path}[{at}]"), 0..=i64::from(i32::MAX)).map(|id| id as u32)
    };
    Ok(Prompt::Tokens(items.iter().enumerate().map(id).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<Vec<Prompt<'static>>, Option<String>> {
        let body = format!(r#"{{"model":"m",{more}}}"#).into_bytes();
        let request = ChatRequest::parse_completion(&body).map_err(|error| error.param)?;
        let owned = |prompt: Prompt<'_>| match prompt {
            Prompt::Text(text) => Prompt::Text(text.into_owned().into()),
            Prompt::Tokens(ids) => Prompt::Tokens(ids),
        };
        Ok(request.prompts.expect("prompts").list.into_iter().map(owned).collect())
    }

    fn text(text: &str) -> Prompt<'_> {
        Prompt::Text(text.into())
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        assert_eq!(parse(r#""prompt":"a""#), Ok(vec![text("a")]));
        assert_eq!(parse(r#""prompt":["a","b"]"#), Ok(vec![text("a"), text("b")]));
        assert_eq!(parse(r#""prompt":[1,2.0]"#), Ok(vec![Prompt::Tokens(vec![1, 2])]));
        assert_eq!(parse(r#""prompt":[[1],[2,3]]"#), Ok(vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, param) in [
            (r#""x":1"#, "prompt"),
            (r#""prompt":{}"#, "prompt"),
            (r#""prompt":"""#, "prompt"),
            (r#""prompt":[]"#, "prompt"),
            (r#""prompt":["a",7]"#, "prompt[1]"),
            (r#""prompt":[1,"a"]"#, "prompt[1]"),
            (r#""prompt":[1,-1]"#, "prompt[1]"),
            (r#""prompt":[[1],[]]"#, "prompt[1]"),
            (r#""prompt":"a","logprobs":6"#, "logprobs"),
            (r#""prompt":"a","logprobs":true"#, "logprobs"),
            (r#""prompt":"a","max_tokens":0"#, "max_tokens"),
            (r#""prompt":"a","n":3,"best_of":2"#, "best_of"),
            (r#""prompt":"a","n":2,"best_of":3,"stream":true"#, "best_of"),
            (r#""prompt":"a","echo":true,"logprobs":1"#, "echo"),
            (r#""prompt":"a","echo":"yes""#, "echo"),
            (r#""prompt":"a","suffix":1"#, "suffix"),
        ] {
            assert_eq!(parse(more), Err(Some(param.to_owned())), "{more}");
        }
        let many = format!(r#""n":16,"prompt":[{}]"#, ["\"a\""; 9].join(","));
        assert_eq!(parse(&many), Err(Some("prompt".to_owned())));
    }

    #[test]
    fn what_asks_for_nothing_is_not_used() {
        let body = br#"{"model":"m","prompt":"a","best_of":2,"n":2,"echo":false,"suffix":"","logprobs":0}"#;
        let request = ChatRequest::parse_completion(body).expect("a request");
        let used: Vec<&str> = request.parameters.iter().map(Parameter::name).collect();
        assert_eq!(used, ["n", "logprobs", "prompt"]);
        assert_eq!((request.max_tokens, request.answers(), request.drafts()), (Some(16), 2, 2));
    }

    #[test]
    fn answers_that_are_left_out_are_made_too() {
        let body = br#"{"model":"m","prompt":["a","b"],"n":2,"best_of":5,"suffix":"c"}"#;
        let request = ChatRequest::parse_completion(body).expect("a request");
        assert_eq!((request.answers(), request.drafts(), request.completion_tokens(16)), (4, 10, 160));
        let used: Vec<&str> = request.parameters.iter().map(Parameter::name).collect();
        assert_eq!(used, ["n", "prompt", "suffix", "best_of"]);
    }
}
