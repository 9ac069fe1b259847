//! What a client was told, taken out of the very bytes that it got: for attempts whose tokens are counted again.

use lumbung_openapi::chat::MAX_CHOICES;
use lumbung_openapi::frame::{Frame, FrameKind, MAX_PAYLOAD};
use serde::Deserialize;

use crate::domain::tokenizer::Said;

/// Bytes of text that are kept of one attempt. A context of 131,072 tokens has about a quarter of it; what is beyond earns
/// nothing where an attempt is counted again.
const MAX_KEPT: usize = 2 << 20;

/// The text of one attempt, choice by choice. What a client could not read is not in it.
#[derive(Clone, Default)]
pub struct Transcript {
    choices: Vec<Said>,
    kept: usize,
    /// An event whose end has not come: events may be cut differently from frames.
    rest: Vec<u8>,
    has_text: bool,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    choices: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    index: usize,
    /// Of a chunk.
    #[serde(default)]
    delta: Option<Words>,
    /// Of a whole answer.
    #[serde(default)]
    message: Option<Words>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Words {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    /// The same text under two names where a server sends both.
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    function_call: Option<Function>,
}

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

impl Transcript {
    /// Takes the text of one frame.
    pub fn take(&mut self, frame: &Frame) {
        match frame.kind {
            FrameKind::Delta | FrameKind::Finish => self.events(&frame.payload),
            FrameKind::Body => {
                self.has_text = true;
                // The provider leaves the end to the gateway.
                self.message(&[&frame.payload[..], b"}"].concat());
            }
            _ => {}
        }
    }

    /// The choices in order; `None` where the client was told nothing at all.
    pub fn into_choices(self) -> Option<Vec<Said>> {
        self.has_text.then_some(self.choices)
    }

    fn events(&mut self, bytes: &[u8]) {
        self.has_text |= !bytes.is_empty();
        if self.rest.len() + bytes.len() > 2 * MAX_PAYLOAD {
            return; // an event without an end
        }
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.windows(2).rposition(|pair| pair == b"\n\n") else { return };
        let whole: Vec<u8> = self.rest.drain(..end + 2).collect();
        for line in whole.split(|byte| *byte == b'\n') {
            if let Some(data) = line.strip_prefix(b"data:") {
                self.message(data);
            }
        }
    }

    fn message(&mut self, json: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Message>(json) else { return };
        for part in message.choices {
            if part.index >= MAX_CHOICES as usize {
                continue;
            }
            if self.choices.len() <= part.index {
                self.choices.resize_with(part.index + 1, Said::default);
            }
            let said = &mut self.choices[part.index];
            for words in [part.delta, part.message].into_iter().flatten() {
                take_words(said, &mut self.kept, words);
            }
            if let Some(reason) = part.finish_reason.filter(|reason| reason.len() <= 32) {
                said.finish_reason = Some(reason);
            }
        }
    }
}

fn take_words(said: &mut Said, kept: &mut usize, words: Words) {
    let mut keep = |to: &mut String, text: Option<String>| {
        let text = text.unwrap_or_default();
        if *kept + text.len() <= MAX_KEPT {
            *kept += text.len();
            to.push_str(&text);
        }
    };
    keep(&mut said.content, words.content);
    keep(&mut said.content, words.refusal);
    keep(&mut said.reasoning, words.reasoning_content.or(words.reasoning));
    let calls = words.tool_calls.unwrap_or_default().into_iter().filter_map(|call| call.function);
    for function in calls.chain(words.function_call) {
        // A call's first part names it; the arguments may follow in many.
        said.call_count += usize::from(function.name.as_ref().is_some_and(|name| !name.is_empty()));
        keep(&mut said.calls, function.name);
        keep(&mut said.calls, function.arguments);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame(kind: FrameKind, payload: &str) -> Frame {
        Frame { kind, choice: 0, tokens: 0, ids: Bytes::new(), payload: Bytes::copy_from_slice(payload.as_bytes()) }
    }

    fn heard(frames: &[(FrameKind, &str)]) -> Option<Vec<Said>> {
        let mut transcript = Transcript::default();
        frames.iter().for_each(|(kind, payload)| transcript.take(&frame(*kind, payload)));
        transcript.into_choices()
    }

    #[test]
    fn a_stream_is_put_together_however_it_is_cut() {
        let stream = ": keep-alive\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n\
            data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"\\u0061b\"}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hé\"}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"so\",\"reasoning_content\":\"so\"}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let first = Said {
            content: "Hé".into(),
            reasoning: "so".into(),
            finish_reason: Some("stop".into()),
            ..Default::default()
        };
        let second = Said { content: "ab".into(), ..Default::default() };
        let whole = heard(&[(FrameKind::Delta, stream)]);
        assert_eq!(whole, Some(vec![first, second]));
        for cut in (1..stream.len()).filter(|cut| stream.is_char_boundary(*cut)) {
            assert_eq!(heard(&[(FrameKind::Delta, &stream[..cut]), (FrameKind::Delta, &stream[cut..])]), whole);
        }
    }

    #[test]
    fn a_whole_answer_is_read_without_its_end() {
        let body = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[
            {"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},"finish_reason":"tool_calls"}]"#;
        let said = Said {
            calls: "f{\"a\":1}".into(),
            call_count: 1,
            finish_reason: Some("tool_calls".into()),
            ..Default::default()
        };
        assert_eq!(heard(&[(FrameKind::Progress, ""), (FrameKind::Body, body)]), Some(vec![said]));
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        assert_eq!(heard(&[(FrameKind::Progress, "")]), None);
        assert_eq!(heard(&[(FrameKind::Body, "{\"choices\":[")]), Some(vec![]));
        assert_eq!(heard(&[(FrameKind::Delta, "data: {\"choices\":7}\n\n")]), Some(vec![]));
        let beyond = "data: {\"choices\":[{\"index\":999999999,\"delta\":{\"content\":\"x\"}}]}\n\n";
        assert_eq!(heard(&[(FrameKind::Delta, beyond)]), Some(vec![]));
        let mut transcript = Transcript::default();
        let long = format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
            "x".repeat(MAX_KEPT / 2)
        );
        (0..3).for_each(|_| transcript.take(&frame(FrameKind::Delta, &long)));
        assert_eq!(transcript.into_choices().map(|choices| choices[0].content.len()), Some(MAX_KEPT));
    }
}
