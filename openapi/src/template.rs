//! Chat templates: a conversation as the text that the model is given, rendered as transformers does it. The provider's own
//! engine and the gateway, which counts again, render with the same code.

mod json;

use chrono::DateTime;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::json::Json;
use crate::chat::{ChatRequest, Message, ReasoningEffort, Role, Tool, ToolCall};

/// The name of the one template in its environment.
/// Stands after the text of a message that the model is to go on with, while the template is rendered. Its space tells
/// whether the template trims.
const MARK: &str = "\u{e000}here the model goes on\u{e000} ";
const NAME: &str = "chat";
/// The variable that holds the time, Unix seconds.
const NOW: &str = "now_secs";

/// The tokens that templates refer to by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// `bos_token`
    pub bos: Option<String>,
    /// `eos_token`
    pub eos: Option<String>,
    /// `unk_token`
    pub unk: Option<String>,
}

/// Which members of a tool a template is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolMembers {
    /// Those that the request has, as transformers' own examples do, and the embedded engine.
    Given,
    /// Also those that it leaves out, as null, and `strict`: servers that read tools into objects first, such as vLLM.
    All,
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
    source: String,
}

impl ChatTemplate {
    /// Compiles a template's Jinja text. Fails where minijinja cannot read it.
    pub fn compile(source: &str, special: SpecialTokens) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_lstrip_blocks(true);
        environment.set_trim_blocks(true);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, adapted(source))?;
        Ok(Self { environment, special, source: source.to_owned() })
    }

    /// The template's own text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template speaks of this anywhere: the only way to tell whether it heeds a variable.
    pub fn mentions(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// The prompt up to where the answer begins. Fails where the template does not take these messages; the error may
    /// quote them, so it belongs in no log.
    pub fn render(&self, request: &ChatRequest<'_>, now_secs: i64) -> Result<String, Error> {
        self.render_with(request, ToolMembers::Given, now_secs)
    }

    /// The same, with a choice of how tools are written.
    pub fn render_with(&self, request: &ChatRequest<'_>, members: ToolMembers, now_secs: i64) -> Result<String, Error> {
        let goes_on = request.template.continue_final_message;
        let last = request.messages.len().saturating_sub(1);
        let mark = |at| if goes_on && at == last { MARK } else { "" };
        let messages: Vec<Value> =
            request.messages.iter().enumerate().map(|(at, message)| self.message(message, mark(at))).collect();
        let tools = match request.tools.list.as_slice() {
            [] => Value::UNDEFINED,
            tools => Json::wrap(tools.iter().map(|tool| tool_json(tool, members)).collect()),
        };
        let effort = request.reasoning_effort;
        let fixed = context! {
            messages,
            tools,
            add_generation_prompt => request.template.add_generation_prompt,
            continue_final_message => goes_on,
            bos_token => self.special.bos,
            eos_token => self.special.eos,
            unk_token => self.special.unk,
            now_secs,
        };
        // What mistralrs tells every template; those of other engines that ask have the same defaults.
        let defaults = context! {
            date_string => date(now_secs, "%d, %B, %Y")?,
            enable_thinking => effort != Some(ReasoningEffort::None),
            reasoning_effort => effort_name(effort),
        };
        let variables = match &request.template.variables {
            None => serde_json::Map::new(),
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|_| Error::new(ErrorKind::InvalidOperation, "the variables are no JSON object"))?,
        };
        let variables = Value::from_iter(variables.into_iter().map(|(name, value)| (name, Json::wrap(value))));
        // Of a name given more than once, the first counts.
        let context = context! { ..fixed, ..variables, ..defaults };
        let text = self.environment.get_template(NAME)?.render(context)?;
        if goes_on { cut_at_mark(text) } else { Ok(text) }
    }

    /// A message as templates take it, with `mark` after its text.
    fn message(&self, message: &Message<'_>, mark: &str) -> Value {
        let role = match message.role {
            Role::Developer if !self.mentions("developer") => Role::System,
            role => role,
        };
        let mut members = vec![("role", Value::from(role.name()))];
        let is_call_alone = message.text.is_empty() && !message.tool_calls.is_empty();
        members.push((
            "content",
            if is_call_alone { Value::from(()) } else { Value::from(format!("{}{mark}", message.text)) },
        ));
        let texts = [
            ("name", &message.name),
            ("tool_call_id", &message.tool_call_id),
            ("reasoning_content", &message.reasoning),
        ];
        members.extend(texts.into_iter().filter_map(|(name, text)| Some((name, Value::from(text.as_deref()?)))));
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| self.call_json(call)).collect();
            members.push(("tool_calls", Json::wrap(calls)));
        }
        Value::from_iter(members)
    }

    /// As transformers has it, arguments are an object. A template that also takes the text gets it as the model wrote it.
    fn call_json(&self, call: &ToolCall<'_>) -> serde_json::Value {
        let takes_text = self.mentions("arguments is string") || self.mentions("arguments'] is string");
        let arguments = match serde_json::from_str(&call.arguments) {
            Ok(arguments) if !takes_text => arguments,
            _ => serde_json::Value::from(call.arguments.as_ref()),
        };
        json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
    }
}

/// OpenAI's order of members, which is that of what models were trained on.
fn tool_json(tool: &Tool<'_>, members: ToolMembers) -> serde_json::Value {
    let description = tool.description.as_ref().map(|description| serde_json::Value::from(description.as_ref()));
    // What is nested too deeply to be read is no schema that a model could heed.
    let parameters = tool.parameters.as_ref().map(|raw| serde_json::from_str(raw.get()).unwrap_or_default());
    let mut function = serde_json::Map::new();
    function.insert("name".into(), tool.name.as_ref().into());
    for (name, value) in [("description", description), ("parameters", parameters)] {
        match value {
            Some(value) => function.insert(name.into(), value),
            None if members == ToolMembers::All => function.insert(name.into(), serde_json::Value::Null),
            None => None,
        };
    }
    if tool.strict && members == ToolMembers::All {
        function.insert("strict".into(), true.into());
    }
    json!({"type": "function", "function": function})
}

/// Templates know three efforts.
fn effort_name(effort: Option<ReasoningEffort>) -> &'static str {
    match effort {
        Some(ReasoningEffort::None | ReasoningEffort::Minimal | ReasoningEffort::Low) => "low",
        None | Some(ReasoningEffort::Medium) => "medium",
        Some(ReasoningEffort::High | ReasoningEffort::XHigh) => "high",
    }
}

/// The prompt up to the mark: what the template writes after it would end the turn that the model is to go on with.
fn cut_at_mark(mut prompt: String) -> Result<String, Error> {
    let mark = MARK.trim_end();
    let start = prompt
        .rfind(mark)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the last message is not in the prompt"))?;
    // Some templates trim what is said; then they would have trimmed what stands before the mark too.
    let is_trimmed = !prompt[start..].starts_with(MARK);
    prompt.truncate(start);
    if is_trimmed {
        prompt.truncate(prompt.trim_end().len());
    }
    Ok(prompt)
}

/// Python and transformers' own extensions, in words that minijinja knows.
fn adapted(source: &str) -> String {
    source.replace("[::-1]", "|reverse").replace("{% generation %}", "").replace("{% endgeneration %}", "")
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(state: &State<'_, '_>, format: String) -> Result<String, Error> {
    let now = state.lookup(NOW).and_then(|now| i64::try_from(now).ok());
    date(now.unwrap_or(0), &format)
}

fn date(secs: i64, format: &str) -> Result<String, Error> {
    use std::fmt::Write;
    let wrong = |what| Error::new(ErrorKind::InvalidOperation, what);
    let at = DateTime::from_timestamp(secs, 0).ok_or_else(|| wrong("a time beyond the calendar"))?;
    let mut text = String::new();
    write!(text, "{}", at.format(format)).map_err(|_| wrong("not a date format"))?;
    Ok(text)
}

/// JSON as transformers writes it into prompts: with a space after `:` and `,`, and nothing escaped but what must be.
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    // Others that transformers takes change nothing here.
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(name)?;
    }
    options.assert_all_used()?;
    let wrong = |error| Error::new(ErrorKind::BadSerialization, "not JSON").with_source(error);
    let text = match value.downcast_object_ref::<Json>() {
        Some(json) => json::write(json.value(), indent),
        None => json::write(&value, indent),
    };
    text.map(Value::from_safe_string).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, Error> {
        let body = br#"{"model":"m","messages":[{"role":"developer","content":" be <kind> "},{"role":"user","content":"hi"}]}"#;
        let request = ChatRequest::parse(body).expect("a request");
        let special = SpecialTokens { bos: Some("<s>".into()), ..Default::default() };
        ChatTemplate::compile(template, special)?.render(&request, 1_700_000_000)
    }

    #[test]
    fn templates_get_what_those_of_transformers_use() {
        let chat = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'].strip() }}{% endfor %}\
                    {% if add_generation_prompt %}[assistant]{% endif %}";
        assert_eq!(render(chat).ok().as_deref(), Some("<s>[system]be <kind>[user]hi[assistant]"));
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").ok().as_deref(), Some("14 Nov 2023"));
        assert_eq!(render("{{ date_string }}").ok().as_deref(), Some("14, November, 2023"));
        assert_eq!(
            render("{% for m in messages[::-1] %}{{ m.role }},{% endfor %}").ok().as_deref(),
            Some("user,system,")
        );
        assert_eq!(render("{{ {'a': '<b>'} | tojson }}").ok().as_deref(), Some(r#"{"a": "<b>"}"#));
        assert_eq!(render("{% if tools %}x{% endif %}y").ok().as_deref(), Some("y"));
    }

    fn render_body(template: &str, body: &str) -> Result<String, Error> {
        let request = ChatRequest::parse(body.as_bytes()).expect("a request");
        ChatTemplate::compile(template, SpecialTokens::default())?.render(&request, 0)
    }

    #[test]
    fn tools_calls_and_results_are_in_the_order_in_which_they_were_given() {
        let body = r#"{"model":"m","tools":[{"type":"function","function":{"parameters":{"type":"object","properties":{"z":{"type":"string"},"a":{}}},"description":"d","name":"f"}}],
            "messages":[{"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"z\":\"<1>\",\"a\":[1,2]}"}}]},
            {"role":"tool","tool_call_id":"c1","content":"ok"}]}"#;
        let tools = "{{ tools | tojson }}";
        assert_eq!(
            render_body(tools, body).ok().as_deref(),
            Some(
                r#"[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {}}}}}]"#
            )
        );
        let indented = render_body("{{ tools[0].function | tojson(indent=2) }}", body).expect("rendered");
        assert!(indented.starts_with("{\n  \"name\": \"f\",\n  \"description\""), "{indented}");
        let calls = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.function.arguments.z }}{% endfor %}\
                     {{ m.content is none }}{{ m.tool_call_id }}{{ m.reasoning_content }};{% endfor %}";
        assert_eq!(
            render_body(calls, body).ok().as_deref(),
            Some(r#"c1 f {"z": "<1>", "a": [1, 2]} <1>Truehm;Falsec1;"#)
        );
        let as_text = "{% for c in messages[0].tool_calls %}{% if c.function.arguments is string %}{{ c.function.arguments }}{% endif %}{% endfor %}";
        assert_eq!(render_body(as_text, body).ok().as_deref(), Some(r#"{"z":"<1>","a":[1,2]}"#));
        let names = "{% for t in tools %}{% for k, v in t.function.parameters.properties | items %}{{ k }}{{ v.type }},{% endfor %}{% endfor %}";
        assert_eq!(render_body(names, body).ok().as_deref(), Some("zstring,a,"));
    }

    #[test]
    fn what_a_tool_leaves_out_is_written_where_that_is_asked_for() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f","strict":true}}]}"#;
        let request = ChatRequest::parse(body).expect("a request");
        let template = ChatTemplate::compile("{{ tools | tojson }}", SpecialTokens::default()).expect("a template");
        let render = |members| template.render_with(&request, members, 0).expect("rendered");
        assert_eq!(render(ToolMembers::Given), r#"[{"type": "function", "function": {"name": "f"}}]"#);
        assert_eq!(
            render(ToolMembers::All),
            r#"[{"type": "function", "function": {"name": "f", "description": null, "parameters": null, "strict": true}}]"#
        );
    }

    #[test]
    fn a_developer_is_the_system_where_the_template_knows_none() {
        assert_eq!(render("{{ messages[0].role }}").ok().as_deref(), Some("system"));
        assert_eq!(render("{{ messages[0].role }}{# developer #}").ok().as_deref(), Some("developer"));
    }

    #[test]
    fn variables_and_effort_reach_the_template_and_replace_nothing_else() {
        let ask = |more: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{more}}}"#);
        let template = "{{ enable_thinking }} {{ reasoning_effort }} {{ mood }} {{ messages[0].content }}";
        let render = |more: &str| render_body(template, &ask(more)).expect("rendered");
        assert_eq!(render(""), "True medium  hi");
        assert_eq!(render(r#","reasoning_effort":"none""#), "False low  hi");
        assert_eq!(render(r#","reasoning_effort":"xhigh""#), "True high  hi");
        let variables = r#","chat_template_kwargs":{"enable_thinking":false,"mood":"good","messages":[]}"#;
        assert_eq!(render(variables), "False medium good hi");
    }

    #[test]
    fn the_final_message_is_gone_on_with() {
        let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let body = r#"{"model":"m","continue_final_message":true,"messages":[{"role":"user","content":"Rice"},{"role":"assistant","content":"Rice is"}]}"#;
        assert_eq!(render_body(template, body).ok().as_deref(), Some("<user>Rice</>\n<assistant>Rice is"));
        assert!(render_body("{{ messages[0].content }}", body).is_err(), "the message is not in the prompt");

        // What is said may be a piece of what ends a turn, and end in a space, which some templates trim.
        let template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
        let trimming = template.replace("m.content", "m.content | trim");
        for said in ["<", "im", "|", "end", "so "] {
            let body = format!(
                r#"{{"model":"m","continue_final_message":true,"messages":[{{"role":"assistant","content":"{said}"}}]}}"#
            );
            assert_eq!(render_body(template, &body).expect("rendered"), format!("<|im_start|>{said}"));
            assert_eq!(render_body(&trimming, &body).expect("rendered"), format!("<|im_start|>{}", said.trim()));
        }
    }

    #[test]
    fn a_template_can_refuse() {
        assert!(render("{{ raise_exception('no system role') }}").is_err());
        assert!(render("{{ strftime_now('%!') }}").is_err());
        assert!(render("{% if %}").is_err());
    }
}
