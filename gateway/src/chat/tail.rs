//! What the gateway itself writes at the end of an answer: usage, from its own count; `[DONE]`; an error in mid-stream.

use bytes::{BufMut, Bytes, BytesMut};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::ErrorObject;
use lumbung_openapi::reply::Usage;
use serde::Serialize;

/// The last event of every stream.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// What the gateway must know of an answer to write its end.
pub struct Tail<'a> {
    /// Where it was asked for.
    pub endpoint: Endpoint,
    /// The id that the client sees.
    pub id: &'a str,
    /// Unix seconds.
    pub created: u64,
    /// The model name that the client sees.
    pub model: &'a str,
    /// Whether a stream ends with a usage chunk.
    pub include_usage: bool,
}

impl Tail<'_> {
    /// The end of a complete stream. `last` is what the provider left to be completed.
    pub fn stream_end(&self, last: Option<Bytes>, usage: Usage) -> Bytes {
        let _ = last; // a chat's stream leaves nothing
        match self.endpoint {
            Endpoint::Chat => self.chunks_end(self.include_usage.then_some(usage)),
        }
    }

    /// The end of a stream that broke off.
    pub fn stream_error(&self, error: ErrorObject) -> Bytes {
        match self.endpoint {
            Endpoint::Chat => self.error_chunk(error),
        }
    }

    fn chunks_end(&self, usage: Option<Usage>) -> Bytes {
        let mut tail = BytesMut::with_capacity(512);
        if let Some(usage) = usage {
            let Self { id, created, model, .. } = *self;
            put_event(&mut tail, &UsageChunk { id, object: CHUNK, created, model, choices: [], usage });
        }
        tail.put_slice(DONE);
        tail.freeze()
    }

    /// The SDKs raise the `error` member as an API error.
    fn error_chunk(&self, error: ErrorObject) -> Bytes {
        let Self { id, created, model, .. } = *self;
        let choices = [ErrorChoice { index: 0, delta: Empty {}, logprobs: None, finish_reason: "error" }];
        let mut tail = BytesMut::with_capacity(512);
        put_event(&mut tail, &ErrorChunk { id, object: CHUNK, created, model, choices, error });
        tail.put_slice(DONE);
        tail.freeze()
    }
}

#[derive(Serialize)]
struct UsageChunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [(); 0],
    usage: Usage,
}

#[derive(Serialize)]
struct ErrorChunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [ErrorChoice; 1],
    error: ErrorObject,
}

#[derive(Serialize)]
struct ErrorChoice {
    index: u32,
    delta: Empty,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Empty {}

const CHUNK: &str = "chat.completion.chunk";

/// A whole JSON answer: what the provider wrote, which lacks its closing brace, and the usage.
pub fn whole(body: &[u8], usage: Usage) -> Bytes {
    let mut whole = BytesMut::with_capacity(body.len() + 384);
    whole.put_slice(body);
    whole.put_slice(b",\"usage\":");
    put_json(&mut whole, &usage);
    whole.put_u8(b'}');
    whole.freeze()
}

fn put_event(out: &mut BytesMut, event: &impl Serialize) {
    out.put_slice(b"data: ");
    put_json(out, event);
    out.put_slice(b"\n\n");
}

fn put_json(out: &mut BytesMut, value: &impl Serialize) {
    serde_json::to_writer(out.writer(), value).expect("types of our own serialize, and memory does not fail to write");
}

#[cfg(test)]
mod tests {
    use super::*;
    use lumbung_openapi::reply::{ChatCompletion, ChatCompletionChunk};

    const CHAT: Tail<'static> =
        Tail { endpoint: Endpoint::Chat, id: "chatcmpl-1", created: 7, model: "m", include_usage: true };

    #[test]
    fn tails_are_what_clients_expect() {
        let end = CHAT.stream_end(None, Usage::of(3, 1, 2));
        let text = std::str::from_utf8(&end).expect("text");
        let chunk =
            text.strip_prefix("data: ").and_then(|t| t.strip_suffix("\n\ndata: [DONE]\n\n")).expect("two events");
        let chunk: ChatCompletionChunk = serde_json::from_str(chunk).expect("a chunk");
        assert!(chunk.choices.is_empty());
        assert_eq!(chunk.usage.flatten(), Some(Usage::of(3, 1, 2)));
        assert_eq!(&Tail { include_usage: false, ..CHAT }.stream_end(None, Usage::of(3, 1, 2))[..], DONE);

        let whole =
            whole(br#"{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[]"#, Usage::of(3, 0, 2));
        let whole: ChatCompletion = serde_json::from_slice(&whole).expect("a completion");
        assert_eq!(whole.usage.map(|u| u.total_tokens), Some(5));
    }
}
