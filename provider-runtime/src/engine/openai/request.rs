//! The body for the server: the client's, with the few members changed that have to be.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::error::InvalidRequest;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::engine::{EngineError, Job};

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// What is sent in place of the client's body.
pub fn body(job: &Job<'_>, model: &str, context_length: u32) -> Result<Vec<u8>, EngineError> {
    let mut changes = vec![("model", model.into()), ("stream", is_streamed(job.request).into())];
    if is_streamed(job.request) {
        changes.push(("stream_options", serde_json::json!({"include_usage": true})));
    }
    if is_limit_needed(job, context_length) {
        // Every server knows this name; older ones do not know `max_completion_tokens`.
        changes.push(("max_tokens", job.max_completion_tokens.into()));
    }
    changed(job.body, changes)
}

/// Whether the server is asked for a stream: always, but where it must compare whole answers first.
pub fn is_streamed(request: &ChatRequest<'_>) -> bool {
    request.drafts() == request.answers()
}

/// A body with these members in place of its own, and no limit under a name that older servers do not know.
pub fn changed(
    body: &[u8],
    changes: impl IntoIterator<Item = (&'static str, serde_json::Value)>,
) -> Result<Vec<u8>, EngineError> {
    let malformed = |_| InvalidRequest { message: "The body is no JSON object.".into(), param: None, code: None };
    let mut members: BTreeMap<Name<'_>, Cow<'_, RawValue>> =
        serde_json::from_slice::<BTreeMap<Name<'_>, &RawValue>>(body)
            .map_err(malformed)?
            .into_iter()
            .map(|(name, value)| (name, Cow::Borrowed(value)))
            .collect();
    for (name, value) in changes {
        let value = to_raw_value(&value).expect("a JSON value serializes");
        members.insert(Name(name.into()), Cow::Owned(value));
    }
    members.remove(&Name("max_completion_tokens".into()));
    Ok(serde_json::to_vec(&members).expect("JSON members serialize"))
}

/// vLLM refuses a limit that does not fit into the context beside the prompt. Where the client set none, and the ticket's
/// may not fit, the server's own end of the context is the limit, and the count of what comes back.
fn is_limit_needed(job: &Job<'_>, context_length: u32) -> bool {
    // Text and JSON around it come to three bytes a token or more, but for scripts whose characters are several tokens each.
    let text = job.body.len().saturating_sub(job.request.media_bytes()) / 3;
    let media: u64 = job.request.media.iter().map(|media| u64::from(media.likely_tokens())).sum();
    let prompt_estimate = text as u64 + media;
    job.request.max_tokens.is_some() || u64::from(job.max_completion_tokens) + prompt_estimate < context_length.into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn sent(more: &str, limit: u32) -> Value {
        let text = format!(r#"{{"model":"org/m","messages":[{{"role":"user","content":"hi\u00e9"}}]{more}}}"#);
        let body = Bytes::from(text.into_bytes());
        let request = ChatRequest::parse(&body).unwrap();
        let job =
            Job { id: "job_1", request: &request, body: &body, max_completion_tokens: limit, seed: 0, history: &[] };
        serde_json::from_slice(&super::body(&job, "there", 4096).unwrap()).unwrap()
    }

    #[test]
    fn only_what_has_to_be_is_changed() {
        let sent = sent(r#","temperature":0.5,"top_k":40,"x":{"y":[1.10]},"stream":false"#, 100);
        assert_eq!(
            sent,
            json!({
                "model": "there", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 100,
                "messages": [{"role": "user", "content": "hié"}], "temperature": 0.5, "top_k": 40, "x": {"y": [1.10]}
            })
        );
    }

    #[test]
    fn the_limit_goes_under_the_name_that_every_server_knows() {
        let limited = sent(r#","max_completion_tokens":5000"#, 5000);
        assert_eq!((&limited["max_tokens"], &limited["max_completion_tokens"]), (&json!(5000), &Value::Null));
        assert_eq!(sent(r#","max_tokens":7"#, 7)["max_tokens"], 7);
        assert_eq!(sent("", 5000)["max_tokens"], Value::Null, "it does not fit and nobody asked for it");
    }
}
