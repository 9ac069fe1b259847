//! `POST /v1/chat/completions`: a stream's chunks, or one whole completion.
//!
//! What is the same in every chunk is written once per job; only the strings go through serde_json.

use bytes::{BufMut, BytesMut};
use lumbung_openapi::reply::TokenLogprob;
use lumbung_openapi::ticket::Ticket;

use super::{Dialect, Shape, WholeCall, write_json};
use crate::engine::{CallDelta, CallHead, FinishReason, Tokens};

/// Writes a stream's chunks, each a whole server-sent event.
pub struct Chunks {
    /// From `data:` to the choice's index.
    head: Vec<u8>,
    /// From the end of the choice to the end of the event.
    tail: &'static [u8],
    /// The first chunk's content: there may be none in the end where tools may be called.
    first: &'static [u8],
    logprobs: bool,
    choices: Vec<ChunkState>,
}

#[derive(Clone, Default)]
struct ChunkState {
    begun: bool,
    /// Of tokens whose text has not come yet.
    logprobs: Vec<TokenLogprob>,
}

impl Chunks {
    /// For one answer.
    pub fn new(ticket: &Ticket, shape: Shape) -> Self {
        let mut head = Vec::with_capacity(160);
        head.extend_from_slice(b"data: ");
        write_envelope(&mut head, ticket, "chat.completion.chunk");
        Self {
            head,
            tail: if shape.include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" },
            first: if shape.may_call { b"null" } else { b"\"\"" },
            logprobs: shape.logprobs,
            choices: vec![ChunkState::default(); shape.choices],
        }
    }

    /// A choice's first chunk says who speaks.
    fn begin(&mut self, out: &mut BytesMut, choice: u8) {
        if std::mem::replace(&mut self.choices[usize::from(choice)].begun, true) {
            return;
        }
        self.open(out, choice);
        out.put_slice(b"{\"role\":\"assistant\",\"content\":");
        out.put_slice(self.first);
        out.put_slice(b"},\"logprobs\":null,\"finish_reason\":null");
        out.put_slice(self.tail);
    }

    fn text(&mut self, out: &mut BytesMut, choice: u8, member: &str, text: &str) {
        self.delta(out, choice, |out| {
            write_json(out, member);
            out.put_u8(b':');
            write_json(out, text);
        });
    }

    /// Servers disagree on the name, and so do clients.
    fn reasoning(&mut self, out: &mut BytesMut, choice: u8, text: &str) {
        self.delta(out, choice, |out| write_reasoning(out, text));
    }

    fn call(&mut self, out: &mut BytesMut, choice: u8, call: &CallDelta) {
        if let Some(CallHead { id, name }) = &call.head {
            self.delta(out, choice, |out| {
                out.put_slice(b"\"tool_calls\":[{\"index\":");
                write_json(out, &call.call);
                out.put_slice(b",\"id\":");
                write_json(out, id);
                out.put_slice(b",\"type\":\"function\",\"function\":{\"name\":");
                write_json(out, name);
                out.put_slice(b",\"arguments\":\"\"}}]");
            });
        }
        if !call.arguments.is_empty() {
            self.delta(out, choice, |out| {
                out.put_slice(b"\"tool_calls\":[{\"index\":");
                write_json(out, &call.call);
                out.put_slice(b",\"function\":{\"arguments\":");
                write_json(out, &call.arguments);
                out.put_slice(b"}}]");
            });
        }
    }

    /// One chunk, with the log-probabilities that wait for it.
    fn delta(&mut self, out: &mut BytesMut, choice: u8, members: impl FnOnce(&mut BytesMut)) {
        self.open(out, choice);
        out.put_u8(b'{');
        members(out);
        out.put_slice(b"},\"logprobs\":");
        let logprobs = std::mem::take(&mut self.choices[usize::from(choice)].logprobs);
        write_logprobs(out, self.logprobs.then_some(&logprobs));
        out.put_slice(b",\"finish_reason\":null");
        out.put_slice(self.tail);
    }

    fn open(&self, out: &mut BytesMut, choice: u8) {
        out.put_slice(&self.head);
        write_json(out, &choice);
        out.put_slice(b",\"delta\":");
    }
}

impl Dialect for Chunks {
    fn tokens(&mut self, out: &mut BytesMut, mut tokens: Tokens) {
        let choice = tokens.choice;
        self.begin(out, choice);
        self.choices[usize::from(choice)].logprobs.append(&mut tokens.logprobs);
        if !tokens.reasoning.is_empty() {
            self.reasoning(out, choice, &tokens.reasoning);
        }
        if !tokens.text.is_empty() {
            self.text(out, choice, "content", &tokens.text);
        }
        if !tokens.refusal.is_empty() {
            self.text(out, choice, "refusal", &tokens.refusal);
        }
        for call in &tokens.calls {
            self.call(out, choice, call);
        }
    }

    fn finish(&mut self, out: &mut BytesMut, choice: u8, reason: FinishReason) {
        self.begin(out, choice);
        if !self.choices[usize::from(choice)].logprobs.is_empty() {
            self.text(out, choice, "content", "");
        }
        self.open(out, choice);
        out.put_slice(b"{},\"logprobs\":null,\"finish_reason\":");
        write_json(out, reason.name());
        out.put_slice(self.tail);
    }

    fn last(&self) -> Option<BytesMut> {
        None
    }
}

/// Collects a completion that is not streamed.
pub struct Completion {
    head: Vec<u8>,
    logprobs: bool,
    kept: usize,
    choices: Vec<WholeChoice>,
}

#[derive(Clone, Default)]
struct WholeChoice {
    reasoning: String,
    text: String,
    refusal: String,
    calls: Vec<WholeCall>,
    logprobs: Vec<TokenLogprob>,
    reason: Option<FinishReason>,
}

impl Completion {
    /// For one answer.
    pub fn new(ticket: &Ticket, shape: Shape) -> Self {
        let mut head = Vec::with_capacity(160);
        write_envelope(&mut head, ticket, "chat.completion");
        Self { head, logprobs: shape.logprobs, kept: 0, choices: vec![WholeChoice::default(); shape.choices] }
    }

    /// The completion's JSON without its usage and its closing brace.
    fn body(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(512);
        for (index, choice) in self.choices.iter().enumerate() {
            out.put_slice(if index == 0 { &self.head } else { b"},{\"index\":" });
            write_json(&mut out, &index);
            out.put_slice(b",\"message\":");
            choice.write_message(&mut out);
            out.put_slice(b",\"logprobs\":");
            write_logprobs(&mut out, self.logprobs.then_some(&choice.logprobs));
            out.put_slice(b",\"finish_reason\":");
            write_json(&mut out, choice.reason.unwrap_or(FinishReason::Stop).name());
        }
        out.put_slice(b"}]");
        out
    }
}

impl WholeChoice {
    /// What calls tools or refuses has no text, as opposed to an empty one.
    fn write_message(&self, out: &mut BytesMut) {
        let has_else = !self.calls.is_empty() || !self.refusal.is_empty();
        let or_null = |text: &String, is_null: bool| (!is_null).then(|| text.clone());
        out.put_slice(b"{\"role\":\"assistant\",\"content\":");
        write_json(out, &or_null(&self.text, self.text.is_empty() && has_else));
        out.put_slice(b",\"refusal\":");
        write_json(out, &or_null(&self.refusal, self.refusal.is_empty()));
        if !self.reasoning.is_empty() {
            out.put_u8(b',');
            write_reasoning(out, &self.reasoning);
        }
        for (at, WholeCall { id, name, arguments }) in self.calls.iter().enumerate() {
            out.put_slice(if at == 0 { b",\"tool_calls\":[" } else { b"," });
            out.put_slice(b"{\"id\":");
            write_json(out, id);
            out.put_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            write_json(out, name);
            out.put_slice(b",\"arguments\":");
            write_json(out, arguments);
            out.put_slice(b"}}");
        }
        out.put_slice(if self.calls.is_empty() { b"}" } else { b"]}" });
    }
}

impl Dialect for Completion {
    fn tokens(&mut self, _: &mut BytesMut, mut tokens: Tokens) {
        let choice = &mut self.choices[usize::from(tokens.choice)];
        choice.reasoning.push_str(&tokens.reasoning);
        choice.text.push_str(&tokens.text);
        choice.refusal.push_str(&tokens.refusal);
        choice.logprobs.append(&mut tokens.logprobs);
        // Reasoning goes out under two names.
        self.kept += 2 * tokens.reasoning.len() + tokens.text.len() + tokens.refusal.len();
        self.kept += WholeCall::gather(&mut choice.calls, tokens.calls);
    }

    fn finish(&mut self, _: &mut BytesMut, choice: u8, reason: FinishReason) {
        self.choices[usize::from(choice)].reason = Some(reason);
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn last(&self) -> Option<BytesMut> {
        Some(self.body())
    }
}

/// From the opening brace to the first choice's index.
fn write_envelope(out: &mut Vec<u8>, ticket: &Ticket, object: &str) {
    out.put_slice(b"{\"id\":");
    write_json(out, &ticket.public_id);
    out.put_slice(b",\"object\":");
    write_json(out, object);
    out.put_slice(b",\"created\":");
    write_json(out, &ticket.created);
    out.put_slice(b",\"model\":");
    write_json(out, &ticket.public_model);
    out.put_slice(b",\"choices\":[{\"index\":");
}

fn write_reasoning(out: &mut BytesMut, text: &str) {
    out.put_slice(b"\"reasoning\":");
    write_json(out, text);
    out.put_slice(b",\"reasoning_content\":");
    write_json(out, text);
}

fn write_logprobs(out: &mut BytesMut, content: Option<&Vec<TokenLogprob>>) {
    match content {
        None => out.put_slice(b"null"),
        Some(content) => {
            out.put_slice(b"{\"content\":");
            write_json(out, content);
            out.put_slice(b",\"refusal\":null}");
        }
    }
}

#[cfg(test)]
mod tests;
