//! `instructions` and `input` as messages.

use crate::chat::json::{Members, Value};
use crate::chat::media::{check_url, refuse_file_id};
use crate::error::InvalidRequest;
use crate::writer::{Writer, json_of};

/// The most items of `input`: a conversation's limit on messages is the same.
const MAX_ITEMS: usize = crate::chat::MAX_MESSAGES;

/// A message in the making: an assistant's text, reasoning and calls are items of their own here, and one message there.
#[derive(Default)]
struct Assistant {
    content: Option<String>,
    reasoning: String,
    calls: Vec<String>,
}

/// The conversation's messages, a JSON array.
pub fn write_messages(members: &Members<'_>) -> Result<String, InvalidRequest> {
    let mut messages = Writer::array();
    if let Some(instructions) = members.get("instructions") {
        messages.item(&message("system", &json_of(&instructions.string("instructions")?)));
    }
    let input = members.required("input")?;
    if input.is_string() {
        messages.item(&message("user", input.json()));
        return Ok(messages.close());
    }
    let items =
        input.array("input").map_err(|_| InvalidRequest::wrong_type("input", "a string or an array of items"))?;
    if items.is_empty() || items.len() > MAX_ITEMS {
        let code = if items.is_empty() { "empty_array" } else { "array_above_max_length" };
        return Err(InvalidRequest {
            message: format!("'input' must hold from 1 to {MAX_ITEMS} items."),
            param: Some("input".into()),
            code: Some(code),
        });
    }
    let mut assistant = Assistant::default();
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("input[{at}]");
        take_item(&Value::new(item).object(&path)?, &path, &mut assistant, &mut messages)?;
    }
    assistant.end(&mut messages);
    Ok(messages.close())
}

fn take_item(
    item: &Members<'_>,
    path: &str,
    assistant: &mut Assistant,
    messages: &mut Writer,
) -> Result<(), InvalidRequest> {
    let text = |name: &str| item.required_at(path, name)?.string(format_args!("{path}.{name}"));
    let kind = item.get("type").map(|value| value.string(format_args!("{path}.type"))).transpose()?;
    match kind.as_deref().unwrap_or("message") {
        "message" => {
            let role = text("role")?;
            let content = write_content(item.required_at(path, "content")?, &format!("{path}.content"))?;
            match &*role {
                "assistant" => assistant.say(content, messages),
                "user" | "system" | "developer" => {
                    assistant.end(messages);
                    messages.item(&message(&role, &content));
                }
                _ => {
                    let path = format!("{path}.role");
                    let roles = "'user', 'assistant', 'system' or 'developer'";
                    return Err(InvalidRequest::value(&path, format!("'{path}' must be {roles}.")));
                }
            }
        }
        "function_call" => {
            let (mut call, mut function) = (Writer::object(), Writer::object());
            function.put("name", &text("name")?).put("arguments", &text("arguments")?);
            call.put("id", &text("call_id")?).put("type", "function").raw("function", &function.close());
            assistant.calls.push(call.close());
        }
        "function_call_output" => {
            let output = write_content(item.required_at(path, "output")?, &format!("{path}.output"))?;
            assistant.end(messages);
            let mut result = Writer::object();
            result.put("role", "tool").put("tool_call_id", &text("call_id")?).raw("content", &output);
            messages.item(&result.close());
        }
        "reasoning" => {
            let content = item.get("content").map(|value| value.array(format_args!("{path}.content"))).transpose()?;
            if assistant.content.is_some() || !assistant.calls.is_empty() {
                assistant.end(messages);
            }
            for (at, part) in content.unwrap_or_default().into_iter().enumerate() {
                let path = format!("{path}.content[{at}]");
                let part = Value::new(part).object(&path)?;
                assistant.reasoning += &part.required_at(&path, "text")?.string(format_args!("{path}.text"))?;
            }
        }
        _ => {
            let path = format!("{path}.type");
            let kinds = "'message', 'function_call', 'function_call_output' or 'reasoning'";
            return Err(InvalidRequest::value(&path, format!("'{path}' must be {kinds}.")));
        }
    }
    Ok(())
}

impl Assistant {
    /// Takes text, which begins a new message where there is some already.
    fn say(&mut self, content: String, messages: &mut Writer) {
        if self.content.is_some() || !self.calls.is_empty() {
            self.end(messages);
        }
        self.content = Some(content);
    }

    /// Writes what there is. Reasoning that nothing follows belongs to no message.
    fn end(&mut self, messages: &mut Writer) {
        let Self { content, reasoning, calls } = std::mem::take(self);
        if content.is_none() && calls.is_empty() {
            return;
        }
        let mut message = Writer::object();
        message.put("role", "assistant").raw("content", content.as_deref().unwrap_or("null"));
        if !reasoning.is_empty() {
            message.put("reasoning_content", &reasoning);
        }
        if !calls.is_empty() {
            let mut list = Writer::array();
            for call in &calls {
                list.item(call);
            }
            message.raw("tool_calls", &list.close());
        }
        messages.item(&message.close());
    }
}

/// A string or parts, in a conversation's words.
fn write_content(value: Value<'_>, path: &str) -> Result<String, InvalidRequest> {
    if value.is_string() {
        return Ok(json_of(&value.string(path)?));
    }
    let parts =
        value.array(path).map_err(|_| InvalidRequest::wrong_type(path, "a string or an array of content parts"))?;
    let mut written = Writer::array();
    for (at, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{at}]");
        written.item(&write_part(&Value::new(part).object(&path)?, &path)?);
    }
    Ok(written.close())
}

fn write_part(part: &Members<'_>, path: &str) -> Result<String, InvalidRequest> {
    let kind = part.required_at(path, "type")?.string(format_args!("{path}.type"))?;
    let text = |name: &str| part.required_at(path, name)?.string(format_args!("{path}.{name}"));
    let mut written = Writer::object();
    match &*kind {
        "input_text" | "output_text" | "text" => {
            written.put("type", "text").put("text", &text("text")?);
        }
        "refusal" => {
            written.put("type", "refusal").put("refusal", &text("refusal")?);
        }
        "input_image" => {
            refuse_file_id(part, path, "image_url")?;
            let url = text("image_url")?;
            check_url(&url, &format!("{path}.image_url"))?;
            let mut image = Writer::object();
            image.put("url", &url);
            if let Some(detail) = part.get("detail") {
                image.put("detail", &detail.string(format_args!("{path}.detail"))?);
            }
            written.put("type", "image_url").raw("image_url", &image.close());
        }
        "input_file" => {
            refuse_file_id(part, path, "file_data")?;
            if part.get("file_url").is_some() {
                let param = format!("{path}.file_url");
                let message = format!("'{param}' is not fetched here: send 'file_data'.");
                return Err(InvalidRequest { message, param: Some(param), code: Some("unsupported_parameter") });
            }
            let mut file = Writer::object();
            if let Some(name) = part.get("filename") {
                file.put("filename", &name.string(format_args!("{path}.filename"))?);
            }
            file.put("file_data", &text("file_data")?);
            written.put("type", "file").raw("file", &file.close());
        }
        "input_audio" => {
            let audio = part.required_at(path, "input_audio")?;
            let members = audio.object(format_args!("{path}.input_audio"))?;
            for name in ["data", "format"] {
                let path = format!("{path}.input_audio");
                members.required_at(&path, name)?.string(format_args!("{path}.{name}"))?;
            }
            written.put("type", "input_audio").raw("input_audio", audio.json());
        }
        _ => {
            let path = format!("{path}.type");
            let kinds = "'input_text', 'output_text', 'refusal', 'input_image', 'input_file' or 'input_audio'";
            return Err(InvalidRequest::value(&path, format!("'{path}' must be {kinds}.")));
        }
    }
    Ok(written.close())
}

fn message(role: &str, content: &str) -> String {
    let mut message = Writer::object();
    message.put("role", role).raw("content", content);
    message.close()
}
