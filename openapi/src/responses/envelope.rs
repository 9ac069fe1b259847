//! The response object. All of the members that Open Responses requires are there, null where there is nothing to say.
//! `completed_at`, `usage` and the closing brace are left to whoever knows them.

use crate::chat::json::{Members, Value};
use crate::error::{ErrorObject, InvalidRequest};
use crate::writer::{Writer, json_of};

/// Where an answer stands.
#[derive(Clone, Copy, Debug)]
pub enum State<'a> {
    /// It is being made.
    InProgress,
    /// It is complete.
    Completed,
    /// It ended early; says why: `max_output_tokens` or `content_filter`.
    Incomplete(&'a str),
    /// It broke off.
    Failed(&'a ErrorObject),
}

impl State<'_> {
    /// OpenAI's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Failed(_) => "failed",
        }
    }
}

/// What is the same in every response object of one answer.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `id`, `object`, `created_at`, `model`; open.
    head: String,
    /// What the request said, from a comma on; open.
    echo: String,
}

impl Envelope {
    /// For an answer to this body, which [`to_chat`](super::to_chat) takes.
    pub fn new(body: &[u8], id: &str, created: u64, model: &str) -> Result<Self, InvalidRequest> {
        let mut head = Writer::object();
        head.put("id", id).put("object", "response").put("created_at", &created).put("model", model);
        Ok(Self { head: head.open(), echo: echo(&Members::parse(body)?)? })
    }

    /// The object, open: without `completed_at`, `usage` and its closing brace. `output` is a JSON array.
    pub fn open(&self, state: State<'_>, output: &str) -> String {
        let error = match state {
            State::Failed(error) => {
                let mut object = Writer::object();
                object.put("code", response_error_code(error)).put("message", &error.message);
                object.close()
            }
            _ => "null".to_owned(),
        };
        let incomplete = match state {
            State::Incomplete(reason) => format!("{{\"reason\":{}}}", json_of(reason)),
            _ => "null".to_owned(),
        };
        format!(
            "{head},\"status\":\"{status}\",\"error\":{error},\"incomplete_details\":{incomplete},\"output\":{output}{echo}",
            head = self.head,
            status = state.name(),
            echo = self.echo,
        )
    }
}

/// Of OpenAI's codes for a response's error the two that can happen here.
fn response_error_code(error: &ErrorObject) -> &'static str {
    match error.kind.as_ref() {
        "insufficient_quota" => "rate_limit_exceeded",
        _ => "server_error",
    }
}

fn echo(members: &Members<'_>) -> Result<String, InvalidRequest> {
    let mut echo = Writer::object();
    let json = |name: &str| members.get(name).map(Value::json);
    echo.raw("instructions", json("instructions").unwrap_or("null"));
    echo.raw("previous_response_id", json("previous_response_id").unwrap_or("null"));
    echo.raw("tools", &tools(members)?);
    echo.raw("tool_choice", json("tool_choice").unwrap_or("\"auto\""));
    echo.raw("truncation", "\"disabled\"");
    echo.raw("parallel_tool_calls", json("parallel_tool_calls").unwrap_or("true"));
    echo.raw("text", &text(members)?);
    for (name, default) in [
        ("temperature", "1"),
        ("top_p", "1"),
        ("presence_penalty", "0"),
        ("frequency_penalty", "0"),
        ("top_logprobs", "0"),
    ] {
        echo.raw(name, json(name).unwrap_or(default));
    }
    echo.raw("reasoning", &reasoning(members)?);
    echo.raw("max_output_tokens", json("max_output_tokens").unwrap_or("null"));
    echo.raw("max_tool_calls", "null");
    echo.raw("store", json("store").unwrap_or("false"));
    echo.raw("background", "false");
    echo.raw("service_tier", "\"default\"");
    echo.raw("metadata", json("metadata").unwrap_or("{}"));
    for name in ["safety_identifier", "prompt_cache_key"] {
        echo.raw(name, json(name).unwrap_or("null"));
    }
    // Node's types want it: null is that none applies.
    echo.raw("access_programs", "null");
    // Not of Open Responses, and in Node's types a string or absent.
    if let Some(user) = json("user") {
        echo.raw("user", user);
    }
    Ok(echo.open().replacen('{', ",", 1))
}

/// Functions, each with all of its members.
fn tools(members: &Members<'_>) -> Result<String, InvalidRequest> {
    let mut list = Writer::array();
    let Some(tools) = members.get("tools") else { return Ok(list.close()) };
    for tool in tools.array("tools")? {
        let tool = Value::new(tool).object("tools")?;
        let mut written = Writer::object();
        written.put("type", "function");
        for (name, default) in [("name", "\"\""), ("description", "null"), ("parameters", "null"), ("strict", "null")] {
            written.raw(name, tool.get(name).map_or(default, Value::json));
        }
        list.item(&written.close());
    }
    Ok(list.close())
}

fn text(members: &Members<'_>) -> Result<String, InvalidRequest> {
    let text = members.get("text").map(|value| value.object("text")).transpose()?;
    let json = |name: &str| text.as_ref().and_then(|text| text.get(name)).map(Value::json);
    let mut written = Writer::object();
    written.raw("format", json("format").unwrap_or("{\"type\":\"text\"}"));
    if let Some(verbosity) = json("verbosity") {
        written.raw("verbosity", verbosity);
    }
    Ok(written.close())
}

fn reasoning(members: &Members<'_>) -> Result<String, InvalidRequest> {
    let reasoning = members.get("reasoning").map(|value| value.object("reasoning")).transpose()?;
    let json = |name: &str| reasoning.as_ref().and_then(|reasoning| reasoning.get(name)).map_or("null", Value::json);
    let mut written = Writer::object();
    written.raw("effort", json("effort")).raw("summary", json("summary"));
    Ok(written.close())
}
