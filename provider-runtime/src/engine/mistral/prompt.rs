//! The prompt: the model's chat template, found in its files, and what is rendered with it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use candle_core::quantized::gguf_file::Content;
use lumbung_openapi::chat::{ChatRequest, Role};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::template::{ChatTemplate, SpecialTokens};
use serde_json::Value;

use super::convention::Convention;
use super::files::read_json;
use super::load::LoadError;
use super::parts::Place;

/// What is asked of a template at the start, to see that it works.
const PROBE: &[u8] = br#"{"model":"?","messages":[{"role":"user","content":"?"}]}"#;

/// Makes prompts.
pub struct Prompts {
    template: ChatTemplate,
    /// Some models have another one for requests with tools.
    with_tools: Option<ChatTemplate>,
    convention: Convention,
}

/// A prompt.
pub struct Prompt {
    /// What the model is given.
    pub text: String,
    /// Where the answer begins: a template may open the reasoning itself.
    pub place: Place,
}

impl Prompts {
    /// From a folder in Hugging Face's layout.
    pub fn from_folder(folder: &Path) -> Result<Self, LoadError> {
        let read = |name: &str| match folder.join(name) {
            path if path.is_file() => read_json::<Value>(&path),
            _ => Ok(Value::Null),
        };
        let config = read("tokenizer_config.json")?;
        let jinja = folder.join("chat_template.jinja");
        let template = match jinja.is_file() {
            true => {
                let text = std::fs::read_to_string(&jinja);
                Value::from(text.map_err(|source| LoadError::Read { path: jinja, source })?)
            }
            false => match read("chat_template.json")?.get("chat_template") {
                Some(template) => template.clone(),
                None => config.get("chat_template").cloned().unwrap_or_default(),
            },
        };
        let token = |name: &str| {
            let token = config.get(name)?;
            token.get("content").unwrap_or(token).as_str().map(str::to_owned)
        };
        let special = SpecialTokens { bos: token("bos_token"), eos: token("eos_token"), unk: token("unk_token") };
        match &template {
            Value::String(source) => Self::new(source, None, &special),
            Value::Array(named) => {
                let find = |wanted: &str| {
                    let found = named.iter().find(|template| template["name"] == wanted);
                    found.and_then(|template| template["template"].as_str())
                };
                Self::new(find("default").unwrap_or_default(), find("tool_use"), &special)
            }
            _ => Err(no_template("there is none in the model's files")),
        }
    }

    /// From a GGUF's header.
    pub fn from_gguf(header: &Content) -> Result<Self, LoadError> {
        let get = |name: &str| header.metadata.get(&format!("tokenizer.{name}"));
        let tokens = get("ggml.tokens").and_then(|tokens| tokens.to_vec().ok());
        let token = |name: &str| {
            let id = get(name)?;
            let id = id.to_u32().ok().or_else(|| u32::try_from(id.to_u64().ok()?).ok())?;
            tokens?.get(id as usize)?.to_string().ok().cloned()
        };
        let special = SpecialTokens {
            bos: token("ggml.bos_token_id"),
            eos: token("ggml.eos_token_id"),
            unk: token("ggml.unknown_token_id"),
        };
        let source = get("chat_template").and_then(|template| template.to_string().ok());
        Self::new(source.ok_or_else(|| no_template("there is none in the file"))?, None, &special)
    }

    fn new(source: &str, with_tools: Option<&str>, special: &SpecialTokens) -> Result<Self, LoadError> {
        let compile = |source: &str| {
            ChatTemplate::compile(source, special.clone()).map_err(|error| LoadError::NoTemplate(error.into()))
        };
        let (template, with_tools) = (compile(source)?, with_tools.map(compile).transpose()?);
        let convention = Convention::of(with_tools.as_ref().unwrap_or(&template));
        let prompts = Self { template, with_tools, convention };
        let probe = ChatRequest::parse(PROBE).map_err(|error| LoadError::NoTemplate(error.into()))?;
        match prompts.render(&probe) {
            Ok(prompt) if !prompt.text.is_empty() => Ok(prompts),
            _ => Err(no_template("it does not take a message")),
        }
    }

    /// How the model writes calls and reasoning.
    pub fn convention(&self) -> Convention {
        self.convention
    }

    /// Whether the template heeds a variable.
    pub fn heeds(&self, variable: &str) -> bool {
        self.template.mentions(variable) || self.with_tools.as_ref().is_some_and(|template| template.mentions(variable))
    }

    /// The prompt of a request.
    pub fn render(&self, request: &ChatRequest<'_>) -> Result<Prompt, InvalidRequest> {
        self.check_options(request)?;
        let template = match &self.with_tools {
            Some(template) if !request.tools.list.is_empty() => template,
            _ => &self.template,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // The template's own words may quote the messages: they go no further than this.
        let text = template.render(request, now as i64).map_err(|_| {
            InvalidRequest::value(
                "messages",
                "The model's chat template does not take these messages; perhaps their roles are in an order that it does not know.",
            )
        })?;
        let place = match self.convention.reasoning {
            Some(tags) if text.trim_end().ends_with(tags.open) => Place::Reasoning,
            // What is gone on with, or has been thought already, begins with the answer.
            Some(tags) if request.template.continue_final_message || text.trim_end().ends_with(tags.close) => {
                Place::Answer
            }
            Some(_) => Place::Start,
            None => Place::Answer,
        };
        Ok(Prompt { text, place })
    }

    /// What the template does not heed is refused, not passed over.
    fn check_options(&self, request: &ChatRequest<'_>) -> Result<(), InvalidRequest> {
        let is_last_assistant = request.messages.last().is_some_and(|message| message.role == Role::Assistant);
        if request.template.continue_final_message && !is_last_assistant {
            return Err(InvalidRequest::value(
                "continue_final_message",
                "'continue_final_message' needs the last message to be the assistant's.",
            ));
        }
        let Some(variables) = &request.template.variables else { return Ok(()) };
        let variables: Value = serde_json::from_str(variables.get()).unwrap_or_default();
        match variables.as_object().into_iter().flatten().find(|(name, _)| !self.heeds(name)) {
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                Err(InvalidRequest::unsupported(format!("chat_template_kwargs.{name}"), &request.model))
            }
            None => Ok(()),
        }
    }
}

fn no_template(why: &'static str) -> LoadError {
    LoadError::NoTemplate(why.into())
}
