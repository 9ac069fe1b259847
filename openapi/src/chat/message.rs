//! One message of a conversation.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use super::json::Value;
use super::media::{self, Media};
use crate::error::InvalidRequest;
use crate::parameter::{Parameter, ParameterSet};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `system`
    System,
    /// `developer`: OpenAI's newer name for `system`, which most templates do not know.
    Developer,
    /// `user`
    User,
    /// `assistant`
    Assistant,
    /// `tool`, `function`
    Tool,
}

impl Role {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message. Parts that are no text are only counted here: an engine that offers them reads the body itself.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Who speaks.
    pub role: Role,
    /// What is said: text parts one after the other.
    pub text: Cow<'a, str>,
    /// What an assistant thought before it said that, where the client gives it back.
    pub reasoning: Option<Cow<'a, str>>,
    /// Tools that an assistant called.
    pub tool_calls: Vec<ToolCall<'a>>,
    /// Of a tool's result: the call that it answers.
    pub tool_call_id: Option<Cow<'a, str>>,
    /// Who exactly speaks.
    pub name: Option<Cow<'a, str>>,
}

/// A tool that an assistant called.
#[derive(Clone, Debug)]
pub struct ToolCall<'a> {
    /// Names the call.
    pub id: Cow<'a, str>,
    /// The tool.
    pub name: Cow<'a, str>,
    /// Its arguments: JSON text, as the model wrote it.
    pub arguments: Cow<'a, str>,
}

impl<'a> ToolCall<'a> {
    fn parse(raw: &'a RawValue, path: &str) -> Result<Self, InvalidRequest> {
        let members = Value::new(raw).object(path)?;
        let id = members.required_at(path, "id")?.string(format_args!("{path}.id"))?;
        if let Some(kind) = members.get("type")
            && kind.string(format_args!("{path}.type"))? != "function"
        {
            let param = format!("{path}.type");
            return Err(InvalidRequest::value(&param, format!("'{param}' must be 'function'.")));
        }
        let path = format!("{path}.function");
        let function = members.get("function").ok_or_else(|| InvalidRequest::missing(&path))?.object(&path)?;
        let text = |name: &str| function.required_at(&path, name)?.string(format_args!("{path}.{name}"));
        Ok(Self { id, name: text("name")?, arguments: text("arguments")? })
    }

    /// A call as it was written before there were tools: its result names the function, so that is its id.
    fn without_id(value: Value<'a>, path: &str) -> Result<Self, InvalidRequest> {
        let members = value.object(path)?;
        let text = |name: &str| members.required_at(path, name)?.string(format_args!("{path}.{name}"));
        let name = text("name")?;
        Ok(Self { id: name.clone(), name, arguments: text("arguments")? })
    }
}

impl<'a> From<(Role, Cow<'a, str>)> for Message<'a> {
    /// A message of text alone.
    fn from((role, text): (Role, Cow<'a, str>)) -> Self {
        Self { role, text, reasoning: None, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }
}

impl<'a> Message<'a> {
    /// Reads message number `at`; beside it, the kinds of content in it that an engine must be able to take. What is not
    /// text is added to `media`.
    pub(super) fn parse(
        raw: &'a RawValue,
        at: usize,
        media: &mut Vec<Media>,
    ) -> Result<(Self, ParameterSet), InvalidRequest> {
        let path = |member: &'static str| Path { at, member };
        let members = Value::new(raw).object(format_args!("messages[{at}]"))?;
        let role = match &*members.required_at(format_args!("messages[{at}]"), "role")?.string(path("role"))? {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" | "function" => Role::Tool,
            _ => {
                return Err(InvalidRequest::value(
                    path("role").to_string(),
                    format!(
                        "'{}' must be one of 'system', 'developer', 'user', 'assistant', 'tool' and 'function'.",
                        path("role")
                    ),
                ));
            }
        };
        let text_of = |name: &'static str| members.get(name).map(|value| value.string(path(name))).transpose();
        let name = text_of("name")?;
        let tool_call_id = text_of("tool_call_id")?.or_else(|| name.clone().filter(|_| role == Role::Tool));
        let reasoning = match text_of("reasoning_content")? {
            Some(reasoning) => Some(reasoning),
            // OpenRouter's name for it; other things have gone by this name too.
            None => members.get("reasoning").filter(|value| value.is_string()).map(|v| v.string("")).transpose()?,
        };

        let mut used = ParameterSet::default();
        let of_assistant = |name: &str| members.get(name).filter(|_| role == Role::Assistant);
        let tool_calls = match (of_assistant("tool_calls"), of_assistant("function_call")) {
            (Some(value), _) => parse_calls(value, &path("tool_calls").to_string())?,
            (None, Some(value)) => vec![ToolCall::without_id(value, &path("function_call").to_string())?],
            (None, None) => Vec::new(),
        };
        let calls = !tool_calls.is_empty();
        if calls || role == Role::Tool {
            used.insert(Parameter::Tools);
        }
        let text = match members.get("content") {
            Some(value) if value.is_string() => value.string(path("content"))?,
            Some(value) => parse_parts(value, at, &mut used, media)?,
            None if role == Role::Assistant && (calls || members.get("refusal").is_some()) => Cow::Borrowed(""),
            None => return Err(InvalidRequest::missing(path("content").to_string())),
        };
        Ok((Self { role, text, reasoning, tool_calls, tool_call_id, name }, used))
    }
}

/// Where a message's member stands.
struct Path {
    at: usize,
    member: &'static str,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "messages[{}].{}", self.at, self.member)
    }
}

fn parse_calls<'a>(value: Value<'a>, path: &str) -> Result<Vec<ToolCall<'a>>, InvalidRequest> {
    let items = value.array(path)?.into_iter().enumerate();
    items.map(|(at, item)| ToolCall::parse(item, &format!("{path}[{at}]"))).collect()
}

fn parse_parts<'a>(
    value: Value<'a>,
    at: usize,
    used: &mut ParameterSet,
    media: &mut Vec<Media>,
) -> Result<Cow<'a, str>, InvalidRequest> {
    let path = format!("messages[{at}].content");
    let parts =
        value.array(&path).map_err(|_| InvalidRequest::wrong_type(&path, "a string or an array of content parts"))?;
    let mut text = Cow::Borrowed("");
    for (part, raw) in parts.into_iter().enumerate() {
        let path = format!("{path}[{part}]");
        let members = Value::new(raw).object(&path)?;
        let text_of = |name: &str| members.required_at(&path, name)?.string(format_args!("{path}.{name}"));
        let kind = text_of("type")?;
        match &*kind {
            "text" | "refusal" => text += text_of(&kind)?,
            other => {
                let (parameter, modality, bytes) = media::parse(other, &members, &path)?.ok_or_else(|| {
                    let kinds = "'text', 'refusal', 'image_url', 'input_audio' and 'file'";
                    InvalidRequest::value(format!("{path}.type"), format!("'{path}.type' must be one of {kinds}."))
                })?;
                used.insert(parameter);
                media.push(Media { modality, message: at, part, bytes });
            }
        }
    }
    Ok(text)
}
