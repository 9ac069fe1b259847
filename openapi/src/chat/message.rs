//! One message of a conversation.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Media;
use super::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::modality::Modality;
use crate::parameter::{Parameter, ParameterSet};

/// Who speaks. `developer` is OpenAI's newer name for `system`; templates know only the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `system`, `developer`
    System,
    /// `user`
    User,
    /// `assistant`
    Assistant,
    /// `tool`, `function`
    Tool,
}

impl Role {
    /// The name that chat templates know.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
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
}

impl<'a> Message<'a> {
    /// Reads message number `at`; beside it, the kinds of content in it that an engine must be able to take. Of kinds that
    /// `media` does not have yet, the first is added.
    pub(super) fn parse(
        raw: &'a RawValue,
        at: usize,
        media: &mut Vec<Media>,
    ) -> Result<(Self, ParameterSet), InvalidRequest> {
        let path = |member: &str| format!("messages[{at}].{member}");
        let members = Value::new(raw).object(&format!("messages[{at}]"))?;
        let role = match &*required(&members, "role", at)?.string(&path("role"))? {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" | "function" => Role::Tool,
            _ => {
                return Err(InvalidRequest::value(
                    path("role"),
                    format!(
                        "'{}' must be one of 'system', 'developer', 'user', 'assistant', 'tool' and 'function'.",
                        path("role")
                    ),
                ));
            }
        };
        members.get("name").map(|v| v.string(&path("name"))).transpose()?;

        let mut used = ParameterSet::default();
        let calls = match members.get("tool_calls") {
            Some(value) => !value.array(&path("tool_calls"))?.is_empty(),
            None => false,
        } || members.get("function_call").is_some();
        if calls || role == Role::Tool {
            used.insert(Parameter::Tools);
        }
        let text = match members.get("content") {
            Some(value) if value.is_string() => value.string(&path("content"))?,
            Some(value) => parse_parts(value, at, &mut used, media)?,
            None if role == Role::Assistant && (calls || members.get("refusal").is_some()) => Cow::Borrowed(""),
            None => return Err(InvalidRequest::missing(path("content"))),
        };
        Ok((Self { role, text }, used))
    }
}

fn required<'a>(members: &Members<'a>, name: &str, at: usize) -> Result<Value<'a>, InvalidRequest> {
    members.get(name).ok_or_else(|| InvalidRequest::missing(format!("messages[{at}].{name}")))
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
    let mut takes = |parameter, modality, part| {
        used.insert(parameter);
        if media.iter().all(|known| known.modality != modality) {
            media.push(Media { modality, message: at, part });
        }
    };
    for (place, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{place}]");
        let members = Value::new(part).object(&path)?;
        let member = |name: &str| members.get(name).ok_or_else(|| InvalidRequest::missing(format!("{path}.{name}")));
        match &*member("type")?.string(&format!("{path}.type"))? {
            "text" => text += member("text")?.string(&format!("{path}.text"))?,
            "refusal" => text += member("refusal")?.string(&format!("{path}.refusal"))?,
            "image_url" => takes(Parameter::ImageUrl, Modality::Image, place),
            "input_audio" => takes(Parameter::InputAudio, Modality::Audio, place),
            "file" => takes(Parameter::File, Modality::File, place),
            _ => {
                return Err(InvalidRequest::value(
                    format!("{path}.type"),
                    format!("'{path}.type' must be one of 'text', 'refusal', 'image_url', 'input_audio' and 'file'."),
                ));
            }
        }
    }
    Ok(text)
}
