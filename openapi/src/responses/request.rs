//! The request's members.

use std::borrow::Cow;

use super::input::write_messages;
use super::storing::Storing;
use crate::chat::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::writer::{Writer, json_of};

/// Members that are translated or looked at below. Others pass on: a conversation knows them by the same name, or not at all.
const OWN: [&str; 12] = [
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "max_output_tokens",
    "truncation",
    "include",
    "stream_options",
    "store",
    "previous_response_id",
];
/// Members of the specification that ask for what is not offered here, unless null.
const NOT_OFFERED: [&str; 11] = [
    "conversation",
    "prompt",
    "max_tool_calls",
    "context_management",
    "moderation",
    "image",
    "access_programs",
    "background_options",
    "prompt_cache_options",
    "input_transformations",
    "completion_window",
];
/// A conversation's members that mean nothing here and would change its answer.
const FOREIGN: [&str; 14] = [
    "messages",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
    "logprobs",
    "functions",
    "function_call",
    "reasoning_effort",
    "verbosity",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
];

/// The conversation that a body asks to be answered: a body for `POST /v1/chat/completions`. The error names the first
/// parameter at fault. What `previous_response_id` refers to is in `input` by then, see [`super::Storing`].
pub fn to_chat(body: &[u8]) -> Result<Vec<u8>, InvalidRequest> {
    let members = Members::parse(body)?;
    members.required("model")?;
    if let Some(foreign) = FOREIGN.into_iter().find(|name| members.get(name).is_some()) {
        return Err(unknown(foreign));
    }
    if let Some(name) = NOT_OFFERED.into_iter().find(|name| members.get(name).is_some()) {
        return Err(not_offered(name));
    }
    Storing::of(&members)?;
    if members.get("background").map(|value| value.boolean("background")).transpose()? == Some(true) {
        return Err(not_offered("background"));
    }
    let mut chat = Writer::object();
    for (name, value) in members.iter() {
        let is_own =
            OWN.contains(&name) || NOT_OFFERED.contains(&name) || FOREIGN.contains(&name) || name == "background";
        if !is_own && (name != "top_logprobs" || wants_logprobs(&members)?) {
            chat.raw(name, value.json());
        }
    }
    chat.raw("messages", &write_messages(&members)?);
    write_tools(&members, &mut chat)?;
    write_text(&members, &mut chat)?;
    write_reasoning(&members, &mut chat)?;
    if let Some(value) = members.get("max_output_tokens") {
        value.integer("max_output_tokens", 1..=10_000_000)?;
        chat.raw("max_completion_tokens", value.json());
    }
    if wants_logprobs(&members)? {
        chat.raw("logprobs", "true");
    }
    if let Some(value) = members.get("truncation")
        && value.string("truncation")? != "disabled"
    {
        return Err(InvalidRequest::value(
            "truncation",
            "'truncation' must be 'disabled': no message is left out here.",
        ));
    }
    if let Some(value) = members.get("stream_options") {
        value.object("stream_options")?; // its one member asks for padding against eavesdroppers, which is optional
    }
    Ok(chat.close().into_bytes())
}

/// Whether `include` asks for log-probabilities.
pub(super) fn wants_logprobs(members: &Members<'_>) -> Result<bool, InvalidRequest> {
    let Some(value) = members.get("include") else { return Ok(false) };
    let mut wanted = false;
    for (at, item) in value.array("include")?.into_iter().enumerate() {
        let path = format!("include[{at}]");
        match &*Value::new(item).string(&path)? {
            "message.output_text.logprobs" => wanted = true,
            // Nothing is ever encrypted here: reasoning is given in plain text.
            "reasoning.encrypted_content" => {}
            _ => {
                let offered = "'message.output_text.logprobs' and 'reasoning.encrypted_content'";
                return Err(InvalidRequest::value(&path, format!("'{path}' must be one of {offered}.")));
            }
        }
    }
    Ok(wanted)
}

fn write_tools(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let choice = members.get("tool_choice").map(Choice::parse).transpose()?;
    let mut tools = Writer::array();
    if let Some(value) = members.get("tools") {
        for (at, item) in value.array("tools")?.into_iter().enumerate() {
            let path = format!("tools[{at}]");
            let (name, function) = parse_tool(Value::new(item), &path)?;
            if choice.as_ref().is_none_or(|choice| choice.allows(&name)) {
                tools.item(&function);
            }
        }
    }
    if !tools.is_empty() {
        chat.raw("tools", &tools.close());
    }
    if let Some(choice) = choice {
        chat.raw("tool_choice", &choice.chat);
    }
    Ok(())
}

/// A function, whose members are the tool's own here and one level deeper in a conversation.
fn parse_tool<'a>(value: Value<'a>, path: &str) -> Result<(Cow<'a, str>, String), InvalidRequest> {
    let tool = value.object(path)?;
    let kind = tool.required_at(path, "type")?;
    if kind.string(format_args!("{path}.type"))? != "function" {
        let path = format!("{path}.type");
        return Err(InvalidRequest::value(
            &path,
            format!("'{path}' must be 'function': no other tools are offered here."),
        ));
    }
    let name_path = format!("{path}.name");
    let name = tool.get("name").ok_or_else(|| InvalidRequest::missing(&name_path))?.string(&name_path)?;
    let mut function = Writer::object();
    for member in ["name", "description", "parameters", "strict"] {
        if let Some(value) = tool.get(member) {
            let path = format!("{path}.{member}");
            match member {
                "parameters" => drop(value.object(&path)?),
                "strict" => drop(value.boolean(&path)?),
                _ => drop(value.string(&path)?),
            }
            function.raw(member, value.json());
        }
    }
    let mut tool = Writer::object();
    tool.put("type", "function").raw("function", &function.close());
    Ok((name, tool.close()))
}

/// Which tools are called.
struct Choice<'a> {
    /// In a conversation's words.
    chat: String,
    /// The only tools that may be called, where some are named.
    allowed: Option<Vec<Cow<'a, str>>>,
}

impl<'a> Choice<'a> {
    fn parse(value: Value<'a>) -> Result<Self, InvalidRequest> {
        let wrong = || {
            let kinds =
                "'none', 'auto', 'required', {\"type\": \"function\", \"name\": …} or {\"type\": \"allowed_tools\", …}";
            InvalidRequest::value("tool_choice", format!("'tool_choice' must be {kinds}."))
        };
        if value.is_string() {
            let mode = value.string("tool_choice")?;
            let known = ["none", "auto", "required"].contains(&&*mode);
            return if known { Ok(Self { chat: json_of(&mode), allowed: None }) } else { Err(wrong()) };
        }
        let choice = value.object("tool_choice").map_err(|_| wrong())?;
        let member = |name: &str| choice.required_at("tool_choice", name);
        match &*member("type")?.string("tool_choice.type")? {
            "function" => {
                let (mut function, mut chat) = (Writer::object(), Writer::object());
                function.put("name", &member("name")?.string("tool_choice.name")?);
                chat.put("type", "function").raw("function", &function.close());
                Ok(Self { chat: chat.close(), allowed: None })
            }
            "allowed_tools" => {
                let mode = member("mode")?.string("tool_choice.mode")?;
                if !["auto", "required"].contains(&&*mode) {
                    return Err(InvalidRequest::value(
                        "tool_choice.mode",
                        "'tool_choice.mode' must be 'auto' or 'required'.",
                    ));
                }
                let named = |(at, item)| {
                    let path = format!("tool_choice.tools[{at}]");
                    let tool = Value::new(item).object(&path)?;
                    let name = tool.required_at(&path, "name")?;
                    name.string(format_args!("{path}.name"))
                };
                let tools = member("tools")?.array("tool_choice.tools")?;
                let allowed = tools.into_iter().enumerate().map(named).collect::<Result<_, _>>()?;
                Ok(Self { chat: json_of(&mode), allowed: Some(allowed) })
            }
            _ => Err(wrong()),
        }
    }

    fn allows(&self, tool: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == tool))
    }
}

fn write_text(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let Some(text) = members.get("text").map(|value| value.object("text")).transpose()? else { return Ok(()) };
    if let Some(verbosity) = text.get("verbosity") {
        verbosity.string("text.verbosity")?;
        chat.raw("verbosity", verbosity.json());
    }
    let Some(format) = text.get("format").map(|value| value.object("text.format")).transpose()? else { return Ok(()) };
    let kind = format.required_at("text.format", "type")?;
    let kind = kind.string("text.format.type")?;
    let mut written = Writer::object();
    written.put("type", &kind);
    match &*kind {
        "text" | "json_object" => {}
        "json_schema" => {
            let mut schema = Writer::object();
            for name in ["name", "schema"] {
                format.required_at("text.format", name)?;
            }
            for name in ["name", "description", "schema", "strict"] {
                if let Some(value) = format.get(name) {
                    schema.raw(name, value.json());
                }
            }
            written.raw("json_schema", &schema.close());
        }
        _ => {
            return Err(InvalidRequest::value(
                "text.format.type",
                "'text.format.type' must be 'text', 'json_object' or 'json_schema'.",
            ));
        }
    }
    chat.raw("response_format", &written.close());
    Ok(())
}

fn write_reasoning(members: &Members<'_>, chat: &mut Writer) -> Result<(), InvalidRequest> {
    let reasoning = members.get("reasoning").map(|value| value.object("reasoning")).transpose()?;
    let Some(reasoning) = reasoning else { return Ok(()) };
    if let Some(effort) = reasoning.get("effort") {
        effort.string("reasoning.effort")?;
        chat.raw("reasoning_effort", effort.json());
    }
    for name in ["summary", "generate_summary"] {
        let path = format!("reasoning.{name}");
        // `auto` asks for whatever there is.
        if let Some(summary) = reasoning.get(name)
            && summary.string(&path)? != "auto"
        {
            return Err(InvalidRequest::value(
                &path,
                format!("'{path}' must be 'auto': reasoning is given as it is, not summed up."),
            ));
        }
    }
    Ok(())
}

pub(super) fn not_offered(name: &str) -> InvalidRequest {
    let why = match name {
        "store" | "previous_response_id" | "conversation" => {
            "responses are not stored here. Send the whole conversation as 'input', and 'store': false"
        }
        "background" => "responses are made while the client waits",
        _ => "it is not offered here",
    };
    InvalidRequest {
        message: format!("Unsupported parameter: '{name}': {why}."),
        param: Some(name.to_owned()),
        code: Some("unsupported_parameter"),
    }
}

fn unknown(name: &str) -> InvalidRequest {
    InvalidRequest {
        message: format!("Unknown parameter: '{name}'. It belongs to /v1/chat/completions."),
        param: Some(name.to_owned()),
        code: Some("unknown_parameter"),
    }
}
