//! Chat templates: a conversation as the text that the model is given, rendered as transformers and mistralrs do it.

use chrono::DateTime;
use lumbung_openapi::chat::ChatRequest;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};

/// The name of the one template in its environment.
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

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialTokens,
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
        Ok(Self { environment, special })
    }

    /// The prompt up to where the answer begins. Fails where the template does not take these messages; the error may
    /// quote them, so it belongs in no log.
    pub fn render(&self, request: &ChatRequest<'_>, now_secs: i64) -> Result<String, Error> {
        let message = |message: &lumbung_openapi::chat::Message<'_>| {
            context! { role => message.role.name(), content => message.text.as_ref() }
        };
        let messages: Vec<Value> = request.messages.iter().map(message).collect();
        self.environment.get_template(NAME)?.render(context! {
            messages,
            add_generation_prompt => true,
            bos_token => self.special.bos,
            eos_token => self.special.eos,
            unk_token => self.special.unk,
            // What mistralrs tells every template; those of other engines that ask have the same defaults.
            date_string => date(now_secs, "%d, %B, %Y")?,
            enable_thinking => true,
            reasoning_effort => "medium",
            now_secs,
        })
    }
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

/// JSON as the engine writes it into prompts: HTML's characters escaped.
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let wrong = |error| Error::new(ErrorKind::BadSerialization, "not JSON").with_source(error);
    let text = match options.get::<Option<usize>>("indent")? {
        None => serde_json::to_string(&value).map_err(wrong)?,
        Some(width) => {
            let indent = b" ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            let mut text = Vec::new();
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).map_err(wrong)?;
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    let escaped = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027");
    Ok(Value::from_safe_string(escaped))
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
        assert_eq!(render("{{ {'a': '<b>'} | tojson }}").ok().as_deref(), Some(r#"{"a":"\u003cb\u003e"}"#));
        assert_eq!(render("{% if tools %}x{% endif %}y").ok().as_deref(), Some("y"));
    }

    #[test]
    fn a_template_can_refuse() {
        assert!(render("{{ raise_exception('no system role') }}").is_err());
        assert!(render("{{ strftime_now('%!') }}").is_err());
        assert!(render("{% if %}").is_err());
    }
}
