//! The endpoints that a model answers at, and how each one's body is read. All of them come to one [`ChatRequest`].
//!
//! A job goes down a provider's tunnel at the path that the client used, with the body as it came, so that both sides
//! read it by the same rules.

use bytes::Bytes;
use serde_json::Value;

use crate::chat::{ChatRequest, Media};
use crate::error::InvalidRequest;
use crate::modality::Modalities;
use crate::parameter::{Parameter, ParameterSet};
use crate::{messages, responses};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages`, Anthropic's
    Messages,
    /// `POST /v1/embeddings`
    Embeddings,
}

/// What an endpoint calls what a conversation calls otherwise: the beginnings of parameters' paths, the longest first.
type Names = &'static [(&'static str, &'static str)];

const RESPONSES: Names = &[
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
    ("max_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("logprobs", "include"),
    ("messages", "input"),
    ("image_url", "input_image"),
    ("file", "input_file"),
];
const MESSAGES: Names = &[
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
    ("reasoning_effort", "thinking"),
    ("stop", "stop_sequences"),
    ("image_url", "image"),
    ("messages", "messages"),
];

/// Where there is no conversation, what an engine says of it is meant for what came in its place.
const COMPLETIONS: Names = &[("messages", "prompt")];
const EMBEDDINGS: Names = &[("messages", "input")];

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Chat, Self::Completions, Self::Responses, Self::Messages, Self::Embeddings];

    /// Where it is, at the gateway and on a tunnel.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// What is done there, in the words of OpenTelemetry's GenAI conventions (`gen_ai.operation.name`).
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }

    /// What the ids of its answers begin with.
    pub const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completions => "cmpl-",
            Self::Responses => "resp_",
            Self::Messages => "msg_",
            Self::Embeddings => "embd-",
        }
    }

    /// Whether a stream's last event is the provider's up to its usage, which the gateway writes.
    pub const fn has_open_end(self) -> bool {
        matches!(self, Self::Responses | Self::Messages)
    }

    /// The body in the form that [`Self::parse`] reads and engines pass on: for the endpoints that are conversations under
    /// other names, that of `POST /v1/chat/completions`; for the others, itself.
    pub fn normalize(self, body: &Bytes) -> Result<Bytes, InvalidRequest> {
        match self {
            Self::Chat | Self::Completions | Self::Embeddings => Ok(body.clone()),
            Self::Responses => responses::to_chat(body).map(Bytes::from),
            Self::Messages => messages::to_chat(body).map(Bytes::from),
        }
    }

    /// Reads a normalized body. The error names the first parameter at fault, by the name that it has here.
    pub fn parse<'a>(self, normalized: &'a [u8]) -> Result<ChatRequest<'a>, InvalidRequest> {
        match self {
            Self::Chat => ChatRequest::parse(normalized),
            Self::Completions => ChatRequest::parse_completion(normalized),
            Self::Embeddings => ChatRequest::parse_embedding(normalized),
            Self::Responses | Self::Messages => ChatRequest::parse(normalized).map_err(|error| self.named(error)),
        }
    }

    /// Why a model that honours only `supported` cannot serve a request, by the name that the first parameter has here.
    pub fn unsupported(self, request: &ChatRequest<'_>, supported: ParameterSet) -> Option<InvalidRequest> {
        // Whoever makes text heeds a limit: what offers vectors and no limit makes vectors only.
        let makes_vectors_only = supported.contains(Parameter::Input) && !supported.contains(Parameter::MaxTokens);
        let missing = request.parameters.missing_from(supported).iter().next();
        match missing {
            Some(Parameter::Prompt | Parameter::Input) => Some(self.not_served(request)),
            _ if makes_vectors_only && self != Self::Embeddings => Some(self.not_served(request)),
            Some(missing) => Some(InvalidRequest::unsupported(self.name(missing.name()), &request.model)),
            None => None,
        }
    }

    /// Why a model that takes only `inputs` cannot serve a request, which was read from this body as it came: the place of
    /// the first content of another kind.
    pub fn not_taken(self, request: &ChatRequest<'_>, inputs: &Modalities, body: &[u8]) -> Option<InvalidRequest> {
        let media = request.media.iter().find(|media| !inputs.contains(media.modality))?;
        let place = self.place_of(media, body);
        Some(InvalidRequest::unsupported_content(place, media.modality, &request.model))
    }

    /// Where the first content of such a kind stands in the body as it came: messages are numbered otherwise there.
    fn place_of(self, media: &Media, body: &[u8]) -> String {
        let place = format!("messages[{}].content[{}]", media.message, media.part);
        let Some(parameter) = media.parameter().filter(|_| self != Self::Chat) else { return place };
        let (list, kind) = (self.name("messages"), self.name(parameter.name()));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let items = body[&list].as_array().into_iter().flatten().enumerate();
        let found = items
            .flat_map(|(at, item)| ["content", "output"].map(|member| (at, member, &item[member])))
            .find_map(|(at, member, parts)| {
                let part = parts.as_array()?.iter().position(|part| part["type"] == kind.as_str())?;
                Some(format!("{list}[{at}].{member}[{part}]"))
            });
        found.unwrap_or_else(|| self.name(&place))
    }

    fn not_served(self, request: &ChatRequest<'_>) -> InvalidRequest {
        InvalidRequest {
            message: format!("The model '{}' is not served at {}.", request.model, self.path()),
            param: Some("model".into()),
            code: Some("unsupported_parameter"),
        }
    }

    /// An error about a normalized body in the words of the body that it was made from.
    pub fn named(self, mut error: InvalidRequest) -> InvalidRequest {
        let Some(param) = error.param.take() else { return error };
        let own = self.name(&param);
        error.message = error.message.replace(&format!("'{param}'"), &format!("'{own}'"));
        error.param = Some(own);
        error
    }

    /// What a conversation's parameter, or a path into one, is called here.
    pub fn name(self, param: &str) -> String {
        let names = match self {
            Self::Responses => RESPONSES,
            Self::Messages => MESSAGES,
            Self::Completions => COMPLETIONS,
            Self::Embeddings => EMBEDDINGS,
            Self::Chat => return param.to_owned(),
        };
        let is_step = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        let renamed = names.iter().find_map(|(chat, own)| {
            let rest = param.strip_prefix(chat).filter(|rest| is_step(rest))?;
            // Messages are put together of several items, so that their numbers differ.
            Some(if *chat == "messages" { (*own).to_owned() } else { format!("{own}{rest}") })
        });
        // A conversation's tools have their members one level deeper.
        let name = renamed.unwrap_or_else(|| param.replacen(".function", "", 1));
        match self {
            Self::Messages => name.replacen(".parameters", ".input_schema", 1),
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::modality::Modality;

    #[test]
    fn errors_name_parameters_as_the_endpoint_does() {
        for (endpoint, chat, own) in [
            (Endpoint::Chat, "max_tokens", "max_tokens"),
            (Endpoint::Responses, "max_completion_tokens", "max_output_tokens"),
            (Endpoint::Responses, "response_format.json_schema.schema", "text.format.schema"),
            (Endpoint::Responses, "tools[0].function.parameters", "tools[0].parameters"),
            (Endpoint::Responses, "messages[2].content", "input"),
            (Endpoint::Messages, "stop", "stop_sequences"),
            (Endpoint::Messages, "stop[1]", "stop_sequences[1]"),
            (Endpoint::Messages, "tools[0].function.parameters", "tools[0].input_schema"),
            (Endpoint::Messages, "messages[2].content", "messages"),
            (Endpoint::Embeddings, "messages", "input"),
            (Endpoint::Messages, "stops", "stops"),
        ] {
            assert_eq!(endpoint.name(chat), own);
        }
        let error = Endpoint::Responses.named(InvalidRequest::value("max_tokens", "'max_tokens' must be an integer."));
        assert_eq!(
            (error.message.as_str(), error.param.as_deref()),
            ("'max_output_tokens' must be an integer.", Some("max_output_tokens"))
        );
    }

    #[test]
    fn content_that_a_model_does_not_take_is_named_by_its_place_in_the_body_as_it_came() {
        let (text, url) = (json!({"type": "input_text", "text": "x"}), "https://example.org/a.png");
        let image = json!({"type": "input_image", "image_url": url});
        let responses = json!({"model": "m", "instructions": "Be brief", "input": [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [text]},
            {"role": "user", "content": [text, image]},
        ]});
        let image = json!({"type": "image", "source": {"type": "url", "url": url}});
        let messages = json!({"model": "m", "max_tokens": 5, "system": "Be brief", "messages": [
            {"role": "user", "content": "x"}, {"role": "user", "content": [image]},
        ]});
        for (endpoint, body, place) in [
            (Endpoint::Responses, responses, "input[2].content[1]"),
            (Endpoint::Messages, messages, "messages[1].content[0]"),
        ] {
            let body = Bytes::from(body.to_string());
            let normalized = endpoint.normalize(&body).expect("normalized");
            let request = endpoint.parse(&normalized).expect("a request");
            let refusal = endpoint.not_taken(&request, &Modalities::default(), &body).expect("a refusal");
            assert_eq!((refusal.param.as_deref(), refusal.code), (Some(place), Some("unsupported_content")));
            let both = Modalities::new(vec![Modality::Text, Modality::Image]).expect("some");
            assert_eq!(endpoint.not_taken(&request, &both, &body), None);
        }
    }

    #[test]
    fn every_endpoint_reads_its_own_body_as_one_kind_of_request() {
        for (endpoint, body) in [
            (Endpoint::Chat, r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":5}"#),
            (Endpoint::Completions, r#"{"model":"m","prompt":"x","max_tokens":5}"#),
            (Endpoint::Responses, r#"{"model":"m","input":"x","max_output_tokens":5}"#),
            (Endpoint::Messages, r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":5}"#),
        ] {
            let body = endpoint.normalize(&Bytes::from(body)).expect("normalized");
            let request = endpoint.parse(&body).expect("a request");
            assert_eq!((&*request.model, request.max_tokens, request.answers()), ("m", Some(5), 1), "{endpoint:?}");
        }
    }

    #[test]
    fn a_model_that_does_not_serve_an_endpoint_is_named() {
        let body = Bytes::from_static(br#"{"model":"m","input":"x"}"#);
        let request = Endpoint::Embeddings.parse(&body).expect("a request");
        let refusal = Endpoint::Embeddings.unsupported(&request, ParameterSet::default()).expect("a refusal");
        assert_eq!((refusal.param.as_deref(), refusal.code), (Some("model"), Some("unsupported_parameter")));
        assert!(refusal.message.contains("/v1/embeddings"));

        let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
        let chat = Endpoint::Chat.parse(body).expect("a request");
        let vectors = ParameterSet::from_iter([Parameter::Input, Parameter::Dimensions]);
        let refusal = Endpoint::Chat.unsupported(&chat, vectors).expect("a refusal");
        assert_eq!(refusal.param.as_deref(), Some("model"));
        assert!(Endpoint::Chat.unsupported(&chat, ParameterSet::default()).is_none());
    }
}
