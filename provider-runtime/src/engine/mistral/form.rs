//! The form that an answer must have, as a grammar: JSON, tool calls, or either.

use lumbung_openapi::chat::{ChatRequest, ResponseFormat, SCHEMA_PARAM, Tool, ToolChoice};
use lumbung_openapi::error::InvalidRequest;
use serde_json::{Value, json};

use super::convention::{CallStyle, Convention};
use super::schema::{Unenforceable, enforceable};
use super::vocabulary::Vocabulary;

/// A grammar in llguidance's variant of Lark, and from where on it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The grammar.
    pub lark: String,
    /// From where on.
    pub holds_from: HoldsFrom,
    /// The request's parameter that asks for it.
    pub param: String,
}

/// From where on a grammar holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldsFrom {
    /// The answer's beginning, after the reasoning.
    Answer,
    /// What shows that a call begins, if the model begins one.
    Call,
}

impl Form {
    /// What a request asks for; `None` where any text will do. `loose` leaves the arguments of tools that are not strict to
    /// the model.
    pub fn of(
        request: &ChatRequest<'_>,
        convention: Convention,
        vocabulary: &Vocabulary,
        loose: bool,
    ) -> Result<Option<Self>, InvalidRequest> {
        let json = match &request.response_format {
            ResponseFormat::Text => None,
            ResponseFormat::JsonObject => Some(json!({"type": "object"})),
            ResponseFormat::JsonSchema(schema) => {
                Some(enforceable(schema).map_err(|Unenforceable(why)| refused(SCHEMA_PARAM, &why))?)
            }
        };
        let style = convention.calls.filter(|_| request.tools.may_be_called());
        let writer = style.map(|style| Writer { style, vocabulary, loose });
        let forced = matches!(request.tools.choice, ToolChoice::Required | ToolChoice::Named(_));
        let rules = match (&writer, json) {
            (None, None) => return Ok(None),
            (None, Some(schema)) => format!("answer: {}\n", literal_json(schema, &COMPACT)),
            // What must call has no other answer.
            (Some(writer), json) if forced || json.is_none() => {
                format!(
                    "answer: {}calls\n{}",
                    if forced { writer.open() } else { String::new() },
                    writer.rules(request)?
                )
            }
            (Some(Writer { style: CallStyle::Bare(_), .. }), _) => {
                return Err(InvalidRequest::value(
                    "response_format",
                    "This model's tool calls are JSON too: 'response_format' needs 'tool_choice' to be 'none', or no tools.",
                ));
            }
            (Some(writer), json) => {
                let json = literal_json(json.unwrap_or_default(), &COMPACT);
                format!("answer: json | {}calls\njson: {json}\n{}", writer.open(), writer.rules(request)?)
            }
        };
        let holds_from = match writer.is_some() && !forced && matches!(request.response_format, ResponseFormat::Text) {
            true => HoldsFrom::Call,
            false => HoldsFrom::Answer,
        };
        // Models that think leave lines free before they answer.
        let lead =
            if convention.reasoning.is_some() && holds_from == HoldsFrom::Answer { "/[ \\n]{1,4}/? " } else { "" };
        let param = match (&request.response_format, writer.is_some()) {
            (ResponseFormat::JsonSchema(_), false) => SCHEMA_PARAM,
            (_, false) => "response_format",
            (_, true) => "tools",
        };
        Ok(Some(Self { lark: format!("start: {lead}answer\n{rules}"), holds_from, param: param.to_owned() }))
    }
}

/// A schema, or anything in its place, that cannot be enforced.
fn refused(param: &str, why: &str) -> InvalidRequest {
    InvalidRequest::value(param, format!("Invalid schema for '{param}': {why}."))
}

/// What comes between JSON's values.
struct Spacing {
    item: &'static str,
    key: &'static str,
}

/// Nothing.
const COMPACT: Spacing = Spacing { item: ",", key: ":" };
/// As the model likes it: models were trained on calls with spaces.
const LOOSE: Spacing = Spacing { item: ", ?", key: ": ?" };

fn literal_json(schema: Value, spacing: &Spacing) -> String {
    let options = json!({
        "whitespace_flexible": false, "item_separator": spacing.item, "key_separator": spacing.key,
        // Without `\uXXXX`, so that no name can be written in two ways.
        "json_allowed_escapes": "nrbtf\\\"",
    });
    let mut members = match schema {
        Value::Object(members) => members,
        // `true` and `false`.
        other => json!({"allOf": [other]}).as_object().cloned().unwrap_or_default(),
    };
    members.insert("x-guidance".into(), options);
    format!("%json {}", Value::Object(members))
}

/// Writes the grammar of calls.
struct Writer<'a> {
    style: CallStyle,
    vocabulary: &'a Vocabulary,
    loose: bool,
}

impl Writer<'_> {
    /// What shows that a call begins.
    fn open(&self) -> String {
        format!("{} ", self.literal(self.style.open()))
    }

    /// `calls`: what follows the opening.
    fn rules(&self, request: &ChatRequest<'_>) -> Result<String, InvalidRequest> {
        let parallel = request.tools.parallel;
        let more = |rule: String| if parallel { rule } else { String::new() };
        let mut rules = match self.style {
            CallStyle::Tagged(tags) => {
                let (open, close) = (self.literal(tags.open), self.literal(tags.close));
                let one = format!("\"\\n\"? \"{{\" \"\\\"name\\\"\" call \"\\n\"? {close}");
                format!("calls: one {}\none: {one}\n", more(format!("(\"\\n\"? {open} one)*")))
            }
            CallStyle::List(_) => {
                let one = "one: \"{\" \"\\\"name\\\"\" call\n";
                format!("calls: \" \"? \"[\" one {}\"]\"\n{one}", more("(\",\" \" \"? one)* ".to_owned()))
            }
            CallStyle::Bare(_) => {
                format!("calls: call {}\n", more(format!("({} call)*", self.literal(self.style.open()))))
            }
        };
        let named = |tool: &&Tool<'_>| match &request.tools.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let mut calls = Vec::new();
        for (at, tool) in request.tools.list.iter().enumerate().filter(|(_, tool)| named(tool)) {
            let schema = match self.loose && !tool.strict {
                true => json!({"type": "object"}),
                false => arguments_of(tool, &format!("tools[{at}].function.parameters"))?,
            };
            let (name, key) = (quoted(&quoted(&tool.name)), quoted(&quoted(self.style.arguments())));
            rules += &format!("call_{at}: \":\" \" \"? {name} \",\" \" \"? {key} \":\" \" \"? args_{at} \"}}\"\n");
            rules += &format!("args_{at}: {}\n", literal_json(schema, &LOOSE));
            calls.push(format!("call_{at}"));
        }
        Ok(format!("{rules}call: {}\n", calls.join(" | ")))
    }

    /// Text, or the control token of that name.
    fn literal(&self, text: &str) -> String {
        match self.vocabulary.special_id(text) {
            Some(id) => format!("<[{id}]>"),
            None => quoted(text),
        }
    }
}

/// As JSON and Lark write a string.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The schema of a tool's arguments. One that cannot be enforced is refused if it was to be strict; otherwise the arguments
/// are some JSON object, as the model sees fit.
fn arguments_of(tool: &Tool<'_>, param: &str) -> Result<Value, InvalidRequest> {
    let Some(parameters) = &tool.parameters else {
        return Ok(json!({"type": "object", "properties": {}, "additionalProperties": false}));
    };
    let of_object = |schema: Value| match schema {
        Value::Object(mut members) if members.get("type").is_none_or(|kind| kind == "object") => {
            members.insert("type".into(), "object".into());
            Ok(Value::Object(members))
        }
        _ => Err(Unenforceable("at the root: 'type' must be 'object'".into())),
    };
    match enforceable(parameters).and_then(of_object) {
        Ok(schema) => Ok(schema),
        Err(Unenforceable(why)) if tool.strict => Err(refused(param, &why)),
        Err(_) => Ok(json!({"type": "object"})),
    }
}
