//! `system` and `messages`: blocks of content as a conversation's messages.

use crate::chat::json::{Members, Value};
use crate::chat::media::check_url;
use crate::error::InvalidRequest;
use crate::writer::{Writer, json_of};

/// The system prompt as a message.
pub fn write_system(value: Value<'_>) -> Result<String, InvalidRequest> {
    let mut message = Writer::object();
    message.put("role", "system").put("content", &text_of(value, "system")?);
    Ok(message.close())
}

/// Adds the conversation's messages. Results of tools, which are blocks of a user's message here, are messages there.
pub fn write_messages(value: Value<'_>, messages: &mut Writer) -> Result<(), InvalidRequest> {
    let items = value.array("messages")?;
    if items.is_empty() || items.len() > crate::chat::MAX_MESSAGES {
        let most = crate::chat::MAX_MESSAGES;
        return Err(InvalidRequest::value("messages", format!("'messages' must hold from 1 to {most} messages.")));
    }
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("messages[{at}]");
        let message = Value::new(item).object(&path)?;
        let role = message.required_at(&path, "role")?.string(format_args!("{path}.role"))?;
        let content = message.required_at(&path, "content")?;
        let path = format!("{path}.content");
        match &*role {
            "user" => write_user(content, &path, messages)?,
            "assistant" => write_assistant(content, &path, messages)?,
            "system" => {
                let mut message = Writer::object();
                message.put("role", "system").put("content", &text_of(content, &path)?);
                messages.item(&message.close());
            }
            _ => {
                let path = format!("messages[{at}].role");
                return Err(InvalidRequest::value(&path, format!("'{path}' must be 'user' or 'assistant'.")));
            }
        }
    }
    Ok(())
}

fn write_user(content: Value<'_>, path: &str, messages: &mut Writer) -> Result<(), InvalidRequest> {
    let mut parts = Writer::array();
    if content.is_string() {
        return write_message("user", &json_of(&content.string(path)?), messages);
    }
    let mut has_results = false;
    for (block, path) in blocks(content, path)? {
        match &*kind(&block, &path)? {
            "tool_result" => {
                has_results = true;
                messages.item(&write_result(&block, &path)?);
            }
            "text" => {
                parts.item(&text_part(&block, &path)?);
            }
            "image" => {
                parts.item(&image_part(&block, &path)?);
            }
            other => return Err(unknown(other, &path)),
        }
    }
    match parts.is_empty() && has_results {
        true => Ok(()),
        false => write_message("user", &parts.close(), messages),
    }
}

fn write_assistant(content: Value<'_>, path: &str, messages: &mut Writer) -> Result<(), InvalidRequest> {
    if content.is_string() {
        return write_message("assistant", &json_of(&content.string(path)?), messages);
    }
    let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Writer::array());
    for (block, path) in blocks(content, path)? {
        let string = |name: &str| block.required_at(&path, name)?.string(format_args!("{path}.{name}"));
        match &*kind(&block, &path)? {
            "text" => text += &string("text")?,
            "thinking" => reasoning += &string("thinking")?,
            "redacted_thinking" => {} // nobody here can read it
            "tool_use" => {
                let input = block.required_at(&path, "input")?;
                input.object(format_args!("{path}.input"))?;
                let (mut call, mut function) = (Writer::object(), Writer::object());
                function.put("name", &string("name")?).put("arguments", input.json());
                call.put("id", &string("id")?).put("type", "function").raw("function", &function.close());
                calls.item(&call.close());
            }
            other => return Err(unknown(other, &path)),
        }
    }
    let mut message = Writer::object();
    message.put("role", "assistant");
    match text.is_empty() && !calls.is_empty() {
        true => message.raw("content", "null"),
        false => message.put("content", &text),
    };
    if !reasoning.is_empty() {
        message.put("reasoning_content", &reasoning);
    }
    if !calls.is_empty() {
        message.raw("tool_calls", &calls.close());
    }
    messages.item(&message.close());
    Ok(())
}

fn write_result(block: &Members<'_>, path: &str) -> Result<String, InvalidRequest> {
    let id = block.required_at(path, "tool_use_id")?.string(format_args!("{path}.tool_use_id"))?;
    let is_error = block.get("is_error").map(|value| value.boolean(&format!("{path}.is_error"))).transpose()?;
    let mut text = match block.get("content") {
        Some(content) => text_of(content, &format!("{path}.content"))?,
        None => String::new(),
    };
    if is_error == Some(true) {
        text.insert_str(0, "Error: "); // a conversation has no other place for it
    }
    let mut message = Writer::object();
    message.put("role", "tool").put("tool_call_id", &id).put("content", &text);
    Ok(message.close())
}

/// A string, or blocks of text one after the other.
fn text_of(value: Value<'_>, path: &str) -> Result<String, InvalidRequest> {
    if value.is_string() {
        return Ok(value.string(path)?.into_owned());
    }
    let mut text = String::new();
    for (block, path) in blocks(value, path)? {
        match &*kind(&block, &path)? {
            "text" => text += &block.required_at(&path, "text")?.string(format_args!("{path}.text"))?,
            other => return Err(unknown(other, &path)),
        }
    }
    Ok(text)
}

fn text_part(block: &Members<'_>, path: &str) -> Result<String, InvalidRequest> {
    let mut part = Writer::object();
    part.put("type", "text").put("text", &block.required_at(path, "text")?.string(format_args!("{path}.text"))?);
    Ok(part.close())
}

fn image_part(block: &Members<'_>, path: &str) -> Result<String, InvalidRequest> {
    let path = format!("{path}.source");
    let source = block.get("source").ok_or_else(|| InvalidRequest::missing(&path))?.object(&path)?;
    let string = |name: &str| source.required_at(&path, name)?.string(format_args!("{path}.{name}"));
    let url = match &*string("type")? {
        "base64" => format!("data:{};base64,{}", string("media_type")?, string("data")?),
        "url" => {
            let url = string("url")?.into_owned();
            check_url(&url, &format!("{path}.url"))?;
            url
        }
        other => return Err(unknown(other, &path)),
    };
    let (mut image, mut part) = (Writer::object(), Writer::object());
    image.put("url", &url);
    part.put("type", "image_url").raw("image_url", &image.close());
    Ok(part.close())
}

fn blocks<'a>(value: Value<'a>, path: &str) -> Result<Vec<(Members<'a>, String)>, InvalidRequest> {
    let items =
        value.array(path).map_err(|_| InvalidRequest::wrong_type(path, "a string or an array of content blocks"))?;
    let block = |(at, item)| {
        let path = format!("{path}[{at}]");
        Ok((Value::new(item).object(&path)?, path))
    };
    items.into_iter().enumerate().map(block).collect()
}

fn kind<'a>(block: &Members<'a>, path: &str) -> Result<std::borrow::Cow<'a, str>, InvalidRequest> {
    block.required_at(path, "type")?.string(format_args!("{path}.type"))
}

fn write_message(role: &str, content: &str, messages: &mut Writer) -> Result<(), InvalidRequest> {
    let mut message = Writer::object();
    message.put("role", role).raw("content", content);
    messages.item(&message.close());
    Ok(())
}

fn unknown(kind: &str, path: &str) -> InvalidRequest {
    let path = format!("{path}.type");
    let kind: String = kind.chars().take(64).collect();
    InvalidRequest::value(&path, format!("'{path}' must be a type that is offered here; '{kind}' is not."))
}
