//! What the gateway itself writes at the end of an answer: usage, from its own count; the last event; an error in mid-stream.

use bytes::{BufMut, Bytes, BytesMut};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::ErrorObject;
use lumbung_openapi::messages::MessageError;
use lumbung_openapi::reply::Usage;
use lumbung_openapi::responses::{Envelope, State};
use lumbung_openapi::writer::Writer;
use serde::Serialize;

use super::clock;
use super::error::ApiError;

/// The last event of every stream of OpenAI's.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// What the gateway must know of an answer to write its end.
pub struct Tail<'a> {
    /// Where it was asked for.
    pub endpoint: Endpoint,
    /// The request's body.
    pub body: &'a Bytes,
    /// The id that the client sees.
    pub id: &'a str,
    /// Unix seconds.
    pub created: u64,
    /// The model name that the client sees.
    pub model: &'a str,
    /// Whether the answer comes as server-sent events.
    pub stream: bool,
    /// Whether a stream ends with a usage chunk.
    pub include_usage: bool,
}

#[derive(Serialize)]
struct Chunk<'a, C: Serialize> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject>,
}

#[derive(Serialize)]
struct ErrorChoice {
    index: u32,
    delta: Empty,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct ErrorText {
    index: u32,
    text: &'static str,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Empty {}

impl Tail<'_> {
    /// A whole answer: what the provider wrote, which lacks its end, and the usage.
    pub fn document(&self, open: &[u8], usage: Usage) -> Bytes {
        let mut whole = BytesMut::with_capacity(open.len() + 384);
        whole.put_slice(open);
        self.put_usage(&mut whole, usage);
        whole.put_u8(b'}');
        whole.freeze()
    }

    /// The end of a complete stream. `last` is the event that the provider has left open, where the endpoint has such.
    pub fn stream_end(&self, last: Option<&[u8]>, usage: Usage) -> Bytes {
        let mut tail = BytesMut::with_capacity(last.map_or(0, <[u8]>::len) + 512);
        tail.put_slice(last.unwrap_or_default());
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Embeddings => {
                if self.include_usage {
                    put_event(&mut tail, &self.chunk::<[(); 0]>([], Some(usage), None));
                }
                tail.put_slice(DONE);
            }
            Endpoint::Responses => {
                self.put_usage(&mut tail, usage);
                tail.put_slice(b"}}\n\n");
                tail.put_slice(DONE);
            }
            Endpoint::Messages => {
                self.put_usage(&mut tail, usage);
                tail.put_slice(b"}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
            }
        }
        tail.freeze()
    }

    /// The end of a stream that broke off after so many events.
    pub fn stream_error(&self, error: &ApiError, events: u64) -> Bytes {
        let mut tail = BytesMut::with_capacity(512);
        let object = error.object();
        match self.endpoint {
            // The SDKs raise the `error` member as an API error.
            Endpoint::Chat | Endpoint::Embeddings => {
                let choice = ErrorChoice { index: 0, delta: Empty {}, logprobs: None, finish_reason: "error" };
                put_event(&mut tail, &self.chunk([choice], None, Some(object)));
                tail.put_slice(DONE);
            }
            Endpoint::Completions => {
                let choice = ErrorText { index: 0, text: "", logprobs: None, finish_reason: "error" };
                put_event(&mut tail, &self.chunk([choice], None, Some(object)));
                tail.put_slice(DONE);
            }
            Endpoint::Responses => {
                tail.put_slice(self.failed_response(&object, events).as_bytes());
                tail.put_slice(DONE);
            }
            Endpoint::Messages => {
                tail.put_slice(b"event: error\n");
                put_event(&mut tail, &MessageError::new(error.status().as_u16(), &object));
            }
        }
        tail.freeze()
    }

    fn chunk<C: Serialize>(&self, choices: C, usage: Option<Usage>, error: Option<ErrorObject>) -> Chunk<'_, C> {
        let object = match self.endpoint {
            Endpoint::Completions => "text_completion",
            _ => "chat.completion.chunk",
        };
        Chunk { id: self.id, object, created: self.created, model: self.model, choices, usage, error }
    }

    /// The event that says that a response has failed. What it had said is not repeated: the client has it.
    fn failed_response(&self, error: &ErrorObject, events: u64) -> String {
        // The body has been read before.
        let envelope = Envelope::new(self.body, self.id, self.created, self.model);
        let response = envelope.map_or_else(|_| "{".to_owned(), |envelope| envelope.open(State::Failed(error), "[]"));
        let mut event = Writer::object();
        event.put("type", "response.failed").put("sequence_number", &events);
        event.raw("response", &format!("{response},\"completed_at\":null,\"usage\":null}}"));
        format!("event: response.failed\ndata: {}\n\n", event.close())
    }

    /// The usage as a further member, in the endpoint's shape.
    fn put_usage(&self, out: &mut BytesMut, usage: Usage) {
        let (cached, written) =
            (usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens_details.cache_write_tokens);
        let (prompt, completion, total) = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens);
        let cost = usage.cost.map(|cost| format!(",\"cost\":{}", cost.0)).unwrap_or_default();
        if self.endpoint == Endpoint::Responses {
            out.put_slice(b",\"completed_at\":");
            put_json(out, &clock::unix_secs());
        }
        out.put_slice(b",\"usage\":");
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => put_json(out, &usage),
            Endpoint::Responses => {
                let reasoning = usage.completion_tokens_details.reasoning_tokens;
                put_text(
                    out,
                    &format!(
                        "{{\"input_tokens\":{prompt},\"input_tokens_details\":{{\"cached_tokens\":{cached},\"cache_write_tokens\":{written}}},\
                         \"output_tokens\":{completion},\"output_tokens_details\":{{\"reasoning_tokens\":{reasoning}}},\
                         \"total_tokens\":{total}{cost}}}"
                    ),
                );
            }
            // Anthropic counts what came from a cache beside the rest.
            Endpoint::Messages => {
                let fresh = prompt.saturating_sub(cached).saturating_sub(written);
                put_text(
                    out,
                    &format!(
                        "{{\"input_tokens\":{fresh},\"cache_creation_input_tokens\":{written},\"cache_read_input_tokens\":{cached},\
                         \"output_tokens\":{completion}}}"
                    ),
                );
            }
            Endpoint::Embeddings => {
                put_text(out, &format!("{{\"prompt_tokens\":{prompt},\"total_tokens\":{prompt}{cost}}}"));
            }
        }
    }
}

fn put_event(out: &mut BytesMut, event: &impl Serialize) {
    out.put_slice(b"data: ");
    put_json(out, event);
    out.put_slice(b"\n\n");
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
}

fn put_json(out: &mut BytesMut, value: &impl Serialize) {
    serde_json::to_writer(out.writer(), value).expect("types of our own serialize, and memory does not fail to write");
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::money::NanoUsd;
    use lumbung_openapi::reply::{ChatCompletion, ChatCompletionChunk};
    use serde_json::{Value, json};

    use super::*;

    fn tail(endpoint: Endpoint, body: &Bytes) -> Tail<'_> {
        Tail { endpoint, body, id: "id-1", created: 7, model: "m", stream: true, include_usage: true }
    }

    fn events(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).expect("text");
        let data = |event: &str| event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
        text.split_terminator("\n\n")
            .filter_map(data)
            .filter(|data| data != "[DONE]")
            .map(|data| serde_json::from_str(&data).expect("JSON"))
            .collect()
    }

    #[test]
    fn chats_end_as_clients_expect() {
        let body = Bytes::new();
        let chat = tail(Endpoint::Chat, &body);
        let end = chat.stream_end(None, Usage::of(3, 1, 2));
        let text = std::str::from_utf8(&end).expect("text");
        let chunk =
            text.strip_prefix("data: ").and_then(|t| t.strip_suffix("\n\ndata: [DONE]\n\n")).expect("two events");
        let chunk: ChatCompletionChunk = serde_json::from_str(chunk).expect("a chunk");
        assert!(chunk.choices.is_empty());
        assert_eq!(chunk.usage.flatten(), Some(Usage::of(3, 1, 2)));
        assert_eq!(&Tail { include_usage: false, ..chat }.stream_end(None, Usage::of(3, 1, 2))[..], DONE);

        let open = br#"{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[]"#;
        let whole = tail(Endpoint::Chat, &body).document(open, Usage::of(3, 0, 2));
        let whole: ChatCompletion = serde_json::from_slice(&whole).expect("a completion");
        assert_eq!(whole.usage.map(|u| u.total_tokens), Some(5));
    }

    #[test]
    fn responses_and_messages_end_with_their_own_usage() {
        let body = Bytes::from_static(br#"{"model":"m","input":"x"}"#);
        let last = b"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"";
        let end = tail(Endpoint::Responses, &body).stream_end(Some(last), Usage::of(3, 1, 2));
        assert!(end.ends_with(DONE));
        assert_eq!(
            events(&end)[0]["response"]["usage"],
            json!({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
                   "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5})
        );
        let last = b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{}";
        let end = tail(Endpoint::Messages, &body).stream_end(Some(last), Usage::of(3, 1, 2));
        let usage = json!({"input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1, "output_tokens": 2});
        assert_eq!(
            events(&end),
            [json!({"type": "message_delta", "delta": {}, "usage": usage}), json!({"type": "message_stop"})]
        );
        let vectors = |usage| tail(Endpoint::Embeddings, &body).document(b"{\"data\":[]", usage);
        assert!(vectors(Usage::of(3, 0, 0)).ends_with(br#""usage":{"prompt_tokens":3,"total_tokens":3}}"#));
        let cost = NanoUsd::from_nanos(1_500);
        let end = br#""usage":{"prompt_tokens":3,"total_tokens":3,"cost":0.0000015}}"#;
        assert!(vectors(Usage::of(3, 0, 0).at(cost)).ends_with(end));
        let open = Bytes::from_static(b"{\"id\":\"r\"");
        let response = tail(Endpoint::Responses, &body).document(&open, Usage::of(3, 0, 2).at(cost));
        assert!(response.ends_with(br#""total_tokens":5,"cost":0.0000015}}"#), "{response:?}");
    }

    #[test]
    fn a_stream_that_breaks_off_says_so_in_its_own_shape() {
        let body = Bytes::from_static(br#"{"model":"m","input":"x","temperature":0.5}"#);
        let broken = |endpoint| events(&tail(endpoint, &body).stream_error(&ApiError::ProviderFailed, 4)).remove(0);
        assert_eq!(broken(Endpoint::Chat)["error"]["code"], "provider_failed");
        let text = broken(Endpoint::Completions);
        assert_eq!((&text["object"], &text["choices"][0]["text"]), (&json!("text_completion"), &json!("")));
        let response = broken(Endpoint::Responses);
        assert_eq!((&response["type"], &response["sequence_number"]), (&json!("response.failed"), &json!(4)));
        assert_eq!(response["response"]["status"], "failed");
        assert_eq!(
            (&response["response"]["error"]["code"], &response["response"]["temperature"]),
            (&json!("server_error"), &json!(0.5))
        );
        let message = broken(Endpoint::Messages);
        assert_eq!((&message["type"], &message["error"]["type"]), (&json!("error"), &json!("api_error")));
    }
}
