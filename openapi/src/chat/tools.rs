//! Tools that a model may call.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Used;
use super::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::parameter::Parameter;

/// The most tools in one request.
pub const MAX_TOOLS: usize = 128;
/// The longest name of a tool or of a schema.
const MAX_NAME: usize = 64;

/// A function that the model may call.
#[derive(Clone, Debug)]
pub struct Tool<'a> {
    /// Letters, digits, `_` and `-`; unique in its request.
    pub name: Cow<'a, str>,
    /// What it does.
    pub description: Option<Cow<'a, str>>,
    /// JSON Schema of its arguments, an object; `None` where it takes none.
    pub parameters: Option<Cow<'a, RawValue>>,
    /// Whether the arguments must match the schema exactly.
    pub strict: bool,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice<'a> {
    /// As the model sees fit.
    #[default]
    Auto,
    /// No tool.
    None,
    /// Some tool.
    Required,
    /// This one.
    Named(Cow<'a, str>),
}

/// What is asked about tools.
#[derive(Clone, Debug)]
pub struct Tools<'a> {
    /// They, in the request's order.
    pub list: Vec<Tool<'a>>,
    /// Whether they are called.
    pub choice: ToolChoice<'a>,
    /// Whether several may be called in one answer.
    pub parallel: bool,
}

impl Default for Tools<'_> {
    fn default() -> Self {
        Self { list: Vec::new(), choice: ToolChoice::Auto, parallel: true }
    }
}

impl<'a> Tools<'a> {
    pub(super) fn parse(members: &Members<'a>, used: &mut Used) -> Result<Self, InvalidRequest> {
        let list = match members.get("tools") {
            Some(value) => parse_list(value)?,
            None => Vec::new(),
        };
        used.when(Parameter::Tools, !list.is_empty());
        let choice = match members.get("tool_choice") {
            Some(value) => ToolChoice::parse(value, &list)?,
            None => ToolChoice::Auto,
        };
        used.when(Parameter::ToolChoice, matches!(choice, ToolChoice::Required | ToolChoice::Named(_)));
        let parallel =
            members.get("parallel_tool_calls").map(|v| v.boolean("parallel_tool_calls")).transpose()?.unwrap_or(true);
        used.when(Parameter::ParallelToolCalls, !parallel && !list.is_empty());
        Ok(Self { list, choice, parallel })
    }

    /// Whether an answer may call tools.
    pub fn may_be_called(&self) -> bool {
        !self.list.is_empty() && self.choice != ToolChoice::None
    }
}

fn parse_list<'a>(value: Value<'a>) -> Result<Vec<Tool<'a>>, InvalidRequest> {
    let items = value.array("tools")?;
    if items.len() > MAX_TOOLS {
        return Err(InvalidRequest {
            message: format!("'tools' holds {} tools; at most {MAX_TOOLS} are allowed.", items.len()),
            param: Some("tools".into()),
            code: Some("array_above_max_length"),
        });
    }
    let mut tools: Vec<Tool<'a>> = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let tool = Tool::parse(Value::new(item), &format!("tools[{at}]"))?;
        if tools.iter().any(|other| other.name == tool.name) {
            let param = format!("tools[{at}].function.name");
            return Err(InvalidRequest::value(&param, format!("'{param}' is the name of another tool too.")));
        }
        tools.push(tool);
    }
    Ok(tools)
}

impl<'a> Tool<'a> {
    fn parse(value: Value<'a>, path: &str) -> Result<Self, InvalidRequest> {
        let members = value.object(path)?;
        let kind = members.required_at(path, "type")?.string(format_args!("{path}.type"))?;
        if kind != "function" {
            let param = format!("{path}.type");
            return Err(InvalidRequest::value(&param, format!("'{param}' must be 'function'.")));
        }
        let path = format!("{path}.function");
        let function = members.get("function").ok_or_else(|| InvalidRequest::missing(&path))?.object(&path)?;
        let name = parse_name(function.required_at(&path, "name")?, &format!("{path}.name"))?;
        let optional = |name: &str| function.get(name).map(|value| (value, format!("{path}.{name}")));
        let description = optional("description").map(|(value, path)| value.string(&path)).transpose()?;
        let parameters = optional("parameters")
            .map(|(value, path)| value.object(&path).map(|_| Cow::Borrowed(value.raw())))
            .transpose()?;
        let strict = optional("strict").map(|(value, path)| value.boolean(&path)).transpose()?.unwrap_or(false);
        Ok(Self { name, description, parameters, strict })
    }
}

impl<'a> ToolChoice<'a> {
    fn parse(value: Value<'a>, tools: &[Tool<'_>]) -> Result<Self, InvalidRequest> {
        let wrong = || {
            let kinds = "'none', 'auto', 'required' or an object {\"type\": \"function\", \"function\": {\"name\": …}}";
            InvalidRequest::value("tool_choice", format!("'tool_choice' must be {kinds}."))
        };
        let choice = if value.is_string() {
            match &*value.string("tool_choice")? {
                "none" => Self::None,
                "auto" => Self::Auto,
                "required" => Self::Required,
                _ => return Err(wrong()),
            }
        } else {
            let members = value.object("tool_choice").map_err(|_| wrong())?;
            if members.required_at("tool_choice", "type")?.string("tool_choice.type")? != "function" {
                return Err(wrong());
            }
            let function = members.required_at("tool_choice", "function")?.object("tool_choice.function")?;
            let path = "tool_choice.function";
            Self::Named(function.required_at(path, "name")?.string("tool_choice.function.name")?)
        };
        match &choice {
            Self::Required | Self::Named(_) if tools.is_empty() => {
                Err(InvalidRequest::value("tool_choice", "'tool_choice' is only allowed when 'tools' are given."))
            }
            Self::Named(name) if tools.iter().all(|tool| tool.name != *name) => Err(InvalidRequest::value(
                "tool_choice.function.name",
                "'tool_choice.function.name' must be the name of one of the tools.",
            )),
            _ => Ok(choice),
        }
    }
}

/// The name of a tool or of a schema.
pub(super) fn parse_name<'a>(value: Value<'a>, param: &str) -> Result<Cow<'a, str>, InvalidRequest> {
    let name = value.string(param)?;
    let is_name = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    match is_name {
        true => Ok(name),
        false => Err(InvalidRequest::value(
            param,
            format!("'{param}' must be of letters, digits, underscores and dashes, {MAX_NAME} at most."),
        )),
    }
}
