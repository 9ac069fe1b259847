//! The request's members.

use super::content::{write_messages, write_system};
use crate::chat::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::writer::Writer;

/// Members that are translated or looked at below. Others pass on.
const OWN: [&str; 13] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "tools",
    "tool_choice",
    "stop_sequences",
    "metadata",
    "thinking",
    "output_config",
    "output_format",
    "temperature",
    "service_tier",
];
/// Members of the specification that ask for what is not offered here, unless null.
const NOT_OFFERED: [&str; 6] = ["top_k", "container", "mcp_servers", "context_management", "inference_geo", "speed"];
/// A conversation's members that mean nothing here and would change its answer.
const FOREIGN: [&str; 16] = [
    "n",
    "max_completion_tokens",
    "stop",
    "response_format",
    "logprobs",
    "top_logprobs",
    "functions",
    "function_call",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "stream_options",
];
/// Tokens of thinking up to which it counts as little, and as a middling amount: the efforts of a conversation are words.
const LOW_BUDGET: i64 = 4096;
const MEDIUM_BUDGET: i64 = 16_384;

/// The conversation that a body asks to be answered: a body for `POST /v1/chat/completions`. The error names the first
/// parameter at fault.
pub fn to_chat(body: &[u8]) -> Result<Vec<u8>, InvalidRequest> {
    let members = Members::parse(body)?;
    let max_tokens = members.required("max_tokens")?;
    max_tokens.integer("max_tokens", 1..=10_000_000)?;
    let mut chat = translate(&members)?;
    chat.raw("max_tokens", max_tokens.json());
    Ok(chat.close().into_bytes())
}

/// The conversation of a body of `POST /v1/messages/count_tokens`, which asks for no answer.
pub fn count_to_chat(body: &[u8]) -> Result<Vec<u8>, InvalidRequest> {
    Ok(translate(&Members::parse(body)?)?.close().into_bytes())
}

fn translate(members: &Members<'_>) -> Result<Writer, InvalidRequest> {
    let mut chat = Writer::object();
    chat.raw("model", members.required("model")?.json());
    let refusal = |name: &str, code: &'static str, why: &str| InvalidRequest {
        message: format!("{name}: {why}."),
        param: Some(name.to_owned()),
        code: Some(code),
    };
    if let Some(name) = FOREIGN.into_iter().find(|name| members.get(name).is_some()) {
        return Err(refusal(
            name,
            "unknown_parameter",
            "Extra inputs are not permitted; it belongs to /v1/chat/completions",
        ));
    }
    if let Some(name) = NOT_OFFERED.into_iter().find(|name| members.get(name).is_some()) {
        return Err(refusal(name, "unsupported_parameter", "This is not offered here"));
    }
    for (name, value) in members.iter() {
        if !OWN.contains(&name) && !NOT_OFFERED.contains(&name) && !FOREIGN.contains(&name) {
            chat.raw(name, value.json());
        }
    }
    let mut messages = Writer::array();
    if let Some(system) = members.get("system") {
        messages.item(&write_system(system)?);
    }
    write_messages(members.required("messages")?, &mut messages)?;
    chat.raw("messages", &messages.close());
    if let Some(temperature) = members.get("temperature") {
        temperature.number("temperature", 0.0..=1.0)?;
        chat.raw("temperature", temperature.json());
    }
    if let Some(value) = members.get("service_tier") {
        value.string("service_tier")?;
    }
    write_stops(members, &mut chat)?;
    write_tools(members, &mut chat)?;
    write_metadata(members, &mut chat)?;
    write_thinking(members, &mut chat)?;
    write_format(members, &mut chat)?;
    Ok(chat)
}

fn write_stops(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let Some(value) = members.get("stop_sequences") else { return Ok(()) };
    let stops = value.array("stop_sequences")?;
    if stops.len() > crate::chat::MAX_STOPS {
        let most = crate::chat::MAX_STOPS;
        return Err(InvalidRequest::value(
            "stop_sequences",
            format!("'stop_sequences' may hold {most} sequences at most."),
        ));
    }
    for (at, stop) in stops.iter().enumerate() {
        let path = format!("stop_sequences[{at}]");
        if Value::new(stop).string(&path)?.is_empty() {
            return Err(InvalidRequest::value(&path, format!("'{path}' must not be empty.")));
        }
    }
    chat.raw("stop", value.json());
    Ok(())
}

fn write_tools(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let mut tools = Writer::array();
    for (at, item) in
        members.get("tools").map(|value| value.array("tools")).transpose()?.into_iter().flatten().enumerate()
    {
        tools.item(&write_tool(Value::new(item), &format!("tools[{at}]"))?);
    }
    if !tools.is_empty() {
        chat.raw("tools", &tools.close());
    }
    let Some(choice) = members.get("tool_choice").map(|value| value.object("tool_choice")).transpose()? else {
        return Ok(());
    };
    let member = |name: &str| choice.required_at("tool_choice", name);
    match &*member("type")?.string("tool_choice.type")? {
        "auto" => chat.put("tool_choice", "auto"),
        "any" => chat.put("tool_choice", "required"),
        "none" => chat.put("tool_choice", "none"),
        "tool" => {
            let (mut function, mut named) = (Writer::object(), Writer::object());
            function.put("name", &member("name")?.string("tool_choice.name")?);
            named.put("type", "function").raw("function", &function.close());
            chat.raw("tool_choice", &named.close())
        }
        _ => {
            return Err(InvalidRequest::value(
                "tool_choice.type",
                "'tool_choice.type' must be 'auto', 'any', 'tool' or 'none'.",
            ));
        }
    };
    if let Some(disabled) = choice.get("disable_parallel_tool_use") {
        let parallel = !disabled.boolean("tool_choice.disable_parallel_tool_use")?;
        chat.put("parallel_tool_calls", &parallel);
    }
    Ok(())
}

fn write_tool(value: Value<'_>, path: &str) -> Result<String, InvalidRequest> {
    let tool = value.object(path)?;
    if let Some(kind) = tool.get("type")
        && kind.string(format_args!("{path}.type"))? != "custom"
    {
        let path = format!("{path}.type");
        return Err(InvalidRequest::value(
            &path,
            format!("'{path}' must be 'custom': no other tools are offered here."),
        ));
    }
    let required = |name: &str| tool.required_at(path, name);
    let mut function = Writer::object();
    function.put("name", &required("name")?.string(format_args!("{path}.name"))?);
    if let Some(description) = tool.get("description") {
        function.put("description", &description.string(format_args!("{path}.description"))?);
    }
    let schema = required("input_schema")?;
    schema.object(format_args!("{path}.input_schema"))?;
    function.raw("parameters", schema.json());
    if let Some(strict) = tool.get("strict") {
        function.put("strict", &strict.boolean(&format!("{path}.strict"))?);
    }
    let mut written = Writer::object();
    written.put("type", "function").raw("function", &function.close());
    Ok(written.close())
}

fn write_metadata(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let metadata = members.get("metadata").map(|value| value.object("metadata")).transpose()?;
    if let Some(user) = metadata.as_ref().and_then(|metadata| metadata.get("user_id")) {
        chat.put("user", &user.string("metadata.user_id")?);
    }
    Ok(())
}

/// A budget of thinking becomes an effort.
fn write_thinking(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let Some(thinking) = members.get("thinking").map(|value| value.object("thinking")).transpose()? else {
        return Ok(());
    };
    let kind = thinking.required_at("thinking", "type")?.string("thinking.type")?;
    let effort = match &*kind {
        "disabled" => "none",
        "adaptive" => "medium",
        "enabled" => {
            let budget = thinking.required_at("thinking", "budget_tokens")?;
            match budget.integer("thinking.budget_tokens", 1024..=10_000_000)? {
                budget if budget <= LOW_BUDGET => "low",
                budget if budget <= MEDIUM_BUDGET => "medium",
                _ => "high",
            }
        }
        _ => {
            return Err(InvalidRequest::value(
                "thinking.type",
                "'thinking.type' must be 'enabled', 'adaptive' or 'disabled'.",
            ));
        }
    };
    chat.put("reasoning_effort", effort);
    Ok(())
}

/// Structured output: `output_config.format`, or `output_format` as it was called before.
fn write_format(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let config = members.get("output_config").map(|value| value.object("output_config")).transpose()?;
    if config.as_ref().is_some_and(|config| config.get("effort").is_some()) {
        return Err(InvalidRequest {
            message: "output_config.effort: This is not offered here; set 'thinking'.".into(),
            param: Some("output_config.effort".into()),
            code: Some("unsupported_parameter"),
        });
    }
    let (path, format) = match config.as_ref().and_then(|config| config.get("format")) {
        Some(format) => ("output_config.format", format),
        None => match members.get("output_format") {
            Some(format) => ("output_format", format),
            None => return Ok(()),
        },
    };
    let format = format.object(path)?;
    let member = |name: &str| format.required_at(path, name);
    if member("type")?.string(format_args!("{path}.type"))? != "json_schema" {
        return Err(InvalidRequest::value(format!("{path}.type"), format!("'{path}.type' must be 'json_schema'.")));
    }
    let schema = member("schema")?;
    schema.object(format_args!("{path}.schema"))?;
    let (mut json_schema, mut written) = (Writer::object(), Writer::object());
    json_schema.put("name", "output").raw("schema", schema.json()).raw("strict", "true");
    written.put("type", "json_schema").raw("json_schema", &json_schema.close());
    chat.raw("response_format", &written.close());
    Ok(())
}
