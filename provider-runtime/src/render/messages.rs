//! `POST /v1/messages`: blocks of content in Anthropic's shape, as events or as one document.

use bytes::{BufMut, BytesMut};
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::writer::{Writer, json_of};
use serde_json::value::RawValue;

use super::Dialect;
use crate::engine::{CallDelta, FinishReason, Tokens};

/// An answer, block by block.
pub struct AnthropicMessage {
    id: String,
    model: String,
    stream: bool,
    prompt: PromptCount,
    begun: bool,
    open: Option<Block>,
    /// Blocks that are complete, as JSON.
    content: Vec<String>,
    reason: Option<FinishReason>,
    /// The stop sequences, of which one may have ended the answer.
    stops: Vec<String>,
    kept: usize,
}

/// A block in the making.
struct Block {
    kind: Kind,
    /// Its text, or its input.
    text: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    ToolUse { number: u32, id: String, name: String },
}

impl AnthropicMessage {
    /// For one answer.
    pub fn new(ticket: &Ticket, stream: bool, stops: Vec<String>) -> Self {
        Self {
            id: ticket.public_id.clone(),
            model: ticket.public_model.clone(),
            stream,
            prompt: PromptCount::default(),
            begun: false,
            open: None,
            content: Vec::new(),
            reason: None,
            stops,
            kept: 0,
        }
    }

    fn event(&self, out: &mut BytesMut, kind: &str, members: &[(&str, &str)]) {
        if !self.stream {
            return;
        }
        let mut event = Writer::object();
        event.put("type", kind);
        for (name, json) in members {
            event.raw(name, json);
        }
        for part in ["event: ", kind, "\ndata: ", &event.close(), "\n\n"] {
            out.put_slice(part.as_bytes());
        }
    }

    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        // Counted before the answer is; the last event has the figures that are charged.
        let PromptCount { prompt_tokens, cached_tokens } = self.prompt;
        let mut usage = Writer::object();
        usage.put("input_tokens", &prompt_tokens.saturating_sub(cached_tokens));
        usage.raw("cache_creation_input_tokens", "0").put("cache_read_input_tokens", &cached_tokens);
        usage.raw("output_tokens", "0");
        let mut message = self.head();
        message.raw("content", "[]").raw("stop_reason", "null").raw("stop_sequence", "null");
        message.raw("usage", &usage.close());
        self.event(out, "message_start", &[("message", &message.close())]);
        self.event(out, "ping", &[]);
    }

    fn head(&self) -> Writer {
        let mut message = Writer::object();
        message.put("id", &self.id).put("type", "message").put("role", "assistant").put("model", &self.model);
        message
    }

    fn open(&mut self, out: &mut BytesMut, kind: Kind) {
        if self.open.as_ref().is_some_and(|block| block.kind == kind) {
            return;
        }
        self.close(out);
        let block = Block { kind, text: String::new() };
        let index = json_of(&self.content.len());
        self.event(out, "content_block_start", &[("index", &index), ("content_block", &block.json())]);
        self.open = Some(block);
    }

    fn add(&mut self, out: &mut BytesMut, text: &str) {
        let Some(block) = &mut self.open else { return };
        block.text.push_str(text);
        let (kind, name) = match block.kind {
            Kind::Thinking => ("thinking_delta", "thinking"),
            Kind::Text => ("text_delta", "text"),
            Kind::ToolUse { .. } => ("input_json_delta", "partial_json"),
        };
        self.kept += text.len();
        let mut delta = Writer::object();
        delta.put("type", kind).put(name, text);
        let index = json_of(&self.content.len());
        self.event(out, "content_block_delta", &[("index", &index), ("delta", &delta.close())]);
    }

    fn close(&mut self, out: &mut BytesMut) {
        let Some(block) = self.open.take() else { return };
        self.event(out, "content_block_stop", &[("index", &json_of(&self.content.len()))]);
        self.content.push(block.json());
    }

    fn call(&mut self, out: &mut BytesMut, delta: CallDelta) {
        if let Some(head) = delta.head {
            self.open(out, Kind::ToolUse { number: delta.call, id: head.id, name: head.name });
        }
        let is_open = |block: &Block| matches!(block.kind, Kind::ToolUse { number, .. } if number == delta.call);
        if !delta.arguments.is_empty() && self.open.as_ref().is_some_and(is_open) {
            self.add(out, &delta.arguments);
        }
    }

    /// Why the answer ended, as members.
    fn stop(&self) -> String {
        let (reason, sequence) = match self.reason {
            Some(FinishReason::Length) => ("max_tokens", None),
            Some(FinishReason::ToolCalls) => ("tool_use", None),
            Some(FinishReason::ContentFilter) => ("refusal", None),
            Some(FinishReason::StopSequence(at)) => ("stop_sequence", self.stops.get(usize::from(at))),
            Some(FinishReason::Stop) | None => ("end_turn", None),
        };
        format!("\"stop_reason\":{},\"stop_sequence\":{}", json_of(reason), json_of(&sequence))
    }
}

impl Block {
    fn json(&self) -> String {
        let mut block = Writer::object();
        match &self.kind {
            Kind::Thinking => block.put("type", "thinking").put("thinking", &self.text).put("signature", ""),
            Kind::Text => block.put("type", "text").put("text", &self.text),
            Kind::ToolUse { id, name, .. } => {
                // Arguments that were cut off are no JSON, and then there is no input that could be given.
                let input = serde_json::from_str::<&RawValue>(&self.text).ok().filter(|raw| raw.get().starts_with('{'));
                block
                    .put("type", "tool_use")
                    .put("id", id)
                    .put("name", name)
                    .raw("input", input.map_or("{}", RawValue::get))
            }
        };
        block.close()
    }
}

impl Dialect for AnthropicMessage {
    fn prompt(&mut self, _: &mut BytesMut, prompt: PromptCount) {
        self.prompt = prompt;
    }

    fn tokens(&mut self, out: &mut BytesMut, tokens: Tokens) {
        self.begin(out);
        for (kind, text) in
            [(Kind::Thinking, &tokens.reasoning), (Kind::Text, &tokens.text), (Kind::Text, &tokens.refusal)]
        {
            if !text.is_empty() {
                self.open(out, kind);
                self.add(out, text);
            }
        }
        tokens.calls.into_iter().for_each(|delta| self.call(out, delta));
    }

    fn finish(&mut self, out: &mut BytesMut, _: u8, reason: FinishReason) {
        self.begin(out);
        self.close(out);
        self.reason = Some(reason);
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn last(&self) -> Option<BytesMut> {
        let last = match self.stream {
            true => format!("event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{{}}}", self.stop()),
            false => {
                let mut message = self.head();
                message.raw("content", &format!("[{}]", self.content.join(",")));
                format!("{},{}", message.open(), self.stop())
            }
        };
        Some(BytesMut::from(last.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::engine::CallHead;
    use crate::render::tests::{text, ticket};

    fn play(stream: bool, events: Vec<Tokens>, reason: FinishReason) -> Vec<Value> {
        let stops = vec!["END".to_owned()];
        let (mut message, mut out) = (AnthropicMessage::new(&ticket(), stream, stops), BytesMut::new());
        message.prompt(&mut out, PromptCount { prompt_tokens: 7, cached_tokens: 2 });
        events.into_iter().for_each(|tokens| message.tokens(&mut out, tokens));
        message.finish(&mut out, 0, reason);
        out.extend_from_slice(&message.last().unwrap());
        out.extend_from_slice(b"}\n\n");
        if !stream {
            return vec![serde_json::from_slice(&out).unwrap()];
        }
        let read = |event: &str| {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(data["type"], name.strip_prefix("event: ").unwrap());
            data
        };
        std::str::from_utf8(&out).unwrap().split_terminator("\n\n").map(read).collect()
    }

    fn made() -> Vec<Tokens> {
        let head = Some(CallHead { id: "c1".into(), name: "f".into() });
        let call = |head, arguments: &str| Tokens {
            calls: vec![CallDelta { call: 0, head, arguments: arguments.into() }],
            ..text(0, "")
        };
        let thought = Tokens { reasoning: "so".into(), ..text(0, "") };
        vec![thought, text(0, "Let me"), text(0, " see"), call(head, ""), call(None, "{\"a\":"), call(None, "1}")]
    }

    #[test]
    fn a_stream_is_blocks_that_open_grow_and_close() {
        let events = play(true, made(), FinishReason::ToolCalls);
        let kinds: Vec<(&str, Option<u64>)> =
            events.iter().map(|event| (event["type"].as_str().unwrap(), event["index"].as_u64())).collect();
        let block = |at| [("content_block_start", Some(at)), ("content_block_delta", Some(at))];
        let (delta, stop) = ("content_block_delta", "content_block_stop");
        let expected = [
            &[("message_start", None), ("ping", None)][..],
            &block(0),
            &[(stop, Some(0))],
            &block(1),
            &[(delta, Some(1)), (stop, Some(1))],
            &block(2),
            &[(delta, Some(2)), (stop, Some(2)), ("message_delta", None)],
        ];
        assert_eq!(kinds, expected.concat());
        assert_eq!(events[0]["message"]["usage"]["input_tokens"], 5);
        assert_eq!(events[0]["message"]["usage"]["cache_read_input_tokens"], 2);
        assert_eq!(events[2]["content_block"], json!({"type": "thinking", "thinking": "", "signature": ""}));
        assert_eq!(events.last().unwrap()["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    }

    #[test]
    fn a_document_has_the_same_blocks() {
        let message = play(false, made(), FinishReason::ToolCalls).remove(0);
        assert_eq!(
            message["content"],
            json!([
                {"type": "thinking", "thinking": "so", "signature": ""},
                {"type": "text", "text": "Let me see"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
            ])
        );
        assert_eq!((&message["role"], &message["stop_reason"]), (&json!("assistant"), &json!("tool_use")));
    }

    #[test]
    fn the_reason_to_stop_is_named() {
        for (reason, name, sequence) in [
            (FinishReason::Stop, "end_turn", Value::Null),
            (FinishReason::Length, "max_tokens", Value::Null),
            (FinishReason::StopSequence(0), "stop_sequence", json!("END")),
        ] {
            let message = play(false, vec![text(0, "a")], reason).remove(0);
            assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!(name), &sequence));
        }
    }
}
