//! `POST /v1/responses`: items of output, as events that tell of each piece, or as one response object.
//!
//! Both come from the same state: what is open, and what is complete. The last event of a stream repeats the whole object,
//! of which the gateway adds the usage.

use bytes::{BufMut, BytesMut};
use lumbung_openapi::reply::TokenLogprob;
use lumbung_openapi::responses::{Envelope, State};
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::writer::{Writer, json_of};

use super::Dialect;
use crate::engine::{CallDelta, FinishReason, Tokens};

/// An answer, item by item.
pub struct Response {
    envelope: Envelope,
    stream: bool,
    logprobs: bool,
    /// What the ids of items end with, before their number.
    suffix: String,
    /// Events so far.
    sequence: u64,
    begun: bool,
    open: Option<Item>,
    /// Items that are complete, as JSON.
    output: Vec<String>,
    /// Of tokens whose text has not come yet.
    pending: Vec<TokenLogprob>,
    reason: Option<FinishReason>,
    kept: usize,
}

/// An item in the making.
struct Item {
    id: String,
    kind: Kind,
    /// Its text, or its arguments.
    text: String,
    logprobs: Vec<TokenLogprob>,
}

/// What an item is.
#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
    Refusal,
    Call { number: u32, call_id: String, name: String },
}

impl Response {
    /// For one answer.
    pub fn new(ticket: &Ticket, envelope: Envelope, stream: bool, logprobs: bool) -> Self {
        let suffix = ticket.public_id.trim_start_matches("resp_").to_owned();
        Self {
            envelope,
            stream,
            logprobs,
            suffix,
            sequence: 0,
            begun: false,
            open: None,
            output: Vec::new(),
            pending: Vec::new(),
            reason: None,
            kept: 0,
        }
    }

    /// Writes an event. `members` are JSON, the number and the type aside.
    fn event(&mut self, out: &mut BytesMut, kind: &str, members: &[(&str, &str)]) {
        if !self.stream {
            return;
        }
        let mut event = Writer::object();
        event.put("type", kind).put("sequence_number", &self.sequence);
        self.sequence += 1;
        for (name, json) in members {
            event.raw(name, json);
        }
        for part in ["event: ", kind, "\ndata: ", &event.close(), "\n\n"] {
            out.put_slice(part.as_bytes());
        }
    }

    /// The first two events, which say that there is a response.
    fn begin(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.begun, true) || !self.stream {
            return;
        }
        let response =
            format!("{},\"completed_at\":null,\"usage\":null}}", self.envelope.open(State::InProgress, "[]"));
        self.event(out, "response.created", &[("response", &response)]);
        self.event(out, "response.in_progress", &[("response", &response)]);
    }

    /// Opens an item of this kind, unless it is open already; what else is open is complete.
    fn open(&mut self, out: &mut BytesMut, kind: Kind) {
        if self.open.as_ref().is_some_and(|item| item.kind == kind) {
            return;
        }
        self.close(out, "completed");
        let index = self.output.len();
        let id = format!("{}_{}{index}", kind.prefix(), self.suffix);
        let item = Item { id, kind, text: String::new(), logprobs: Vec::new() };
        self.event(out, "response.output_item.added", &[("output_index", &json_of(&index)), ("item", &item.begun())]);
        if let Some(part) = item.part() {
            let place = item.place(index);
            let mut members = place.members();
            members.push(("part", &part));
            self.event(out, "response.content_part.added", &members);
        }
        self.open = Some(item);
    }

    /// Adds to the open item.
    fn add(&mut self, out: &mut BytesMut, text: &str) {
        let Some(mut item) = self.open.take() else { return };
        self.kept += text.len();
        item.text.push_str(text);
        let (place, delta) = (item.place(self.output.len()), json_of(text));
        let mut members = place.members();
        members.push(("delta", &delta));
        match item.kind {
            Kind::Text => {
                let new = std::mem::take(&mut self.pending);
                let logprobs = json_of(&new);
                item.logprobs.extend(new);
                members.push(("logprobs", &logprobs));
                self.event(out, "response.output_text.delta", &members);
            }
            Kind::Reasoning => self.event(out, "response.reasoning_text.delta", &members),
            Kind::Refusal => self.event(out, "response.refusal.delta", &members),
            Kind::Call { .. } => self.event(out, "response.function_call_arguments.delta", &members),
        }
        self.open = Some(item);
    }

    /// The open item is over.
    fn close(&mut self, out: &mut BytesMut, status: &str) {
        let Some(mut item) = self.open.take() else { return };
        if item.kind == Kind::Text {
            item.logprobs.append(&mut self.pending);
        }
        let (place, text) = (item.place(self.output.len()), json_of(&item.text));
        let mut members = place.members();
        let more;
        match &item.kind {
            Kind::Text => {
                more = json_of(&item.logprobs);
                members.extend([("text", text.as_str()), ("logprobs", &more)]);
                self.event(out, "response.output_text.done", &members);
            }
            Kind::Reasoning => {
                members.push(("text", &text));
                self.event(out, "response.reasoning_text.done", &members);
            }
            Kind::Refusal => {
                members.push(("refusal", &text));
                self.event(out, "response.refusal.done", &members);
            }
            Kind::Call { name, .. } => {
                more = json_of(name);
                members.extend([("arguments", text.as_str()), ("name", &more)]);
                self.event(out, "response.function_call_arguments.done", &members);
            }
        }
        if let Some(part) = item.part() {
            let mut members = place.members();
            members.push(("part", &part));
            self.event(out, "response.content_part.done", &members);
        }
        let done = item.json(status);
        let index = json_of(&self.output.len());
        self.event(out, "response.output_item.done", &[("output_index", &index), ("item", &done)]);
        self.output.push(done);
    }

    fn call(&mut self, out: &mut BytesMut, delta: CallDelta) {
        if let Some(head) = delta.head {
            self.open(out, Kind::Call { number: delta.call, call_id: head.id, name: head.name });
        }
        let is_open = |item: &Item| matches!(item.kind, Kind::Call { number, .. } if number == delta.call);
        if !delta.arguments.is_empty() && self.open.as_ref().is_some_and(is_open) {
            self.add(out, &delta.arguments);
        }
    }

    /// The whole object, open.
    fn object(&self) -> (&'static str, String) {
        let state = match self.reason {
            Some(FinishReason::Length) => State::Incomplete("max_output_tokens"),
            Some(FinishReason::ContentFilter) => State::Incomplete("content_filter"),
            _ => State::Completed,
        };
        (state.name(), self.envelope.open(state, &format!("[{}]", self.output.join(","))))
    }
}

impl Kind {
    fn prefix(&self) -> &'static str {
        match self {
            Self::Reasoning => "rs",
            Self::Text | Self::Refusal => "msg",
            Self::Call { .. } => "fc",
        }
    }
}

/// Where an event belongs: members' values as JSON.
struct Place {
    item: String,
    output: String,
    has_parts: bool,
}

impl Place {
    fn members(&self) -> Vec<(&'static str, &str)> {
        let mut members = vec![("item_id", self.item.as_str()), ("output_index", &self.output)];
        if self.has_parts {
            members.push(("content_index", "0")); // one part to an item
        }
        members
    }
}

impl Item {
    fn place(&self, index: usize) -> Place {
        Place { item: json_of(&self.id), output: json_of(&index), has_parts: !matches!(self.kind, Kind::Call { .. }) }
    }

    /// The content so far, where an item has such.
    fn part(&self) -> Option<String> {
        let mut part = Writer::object();
        match self.kind {
            Kind::Text => {
                part.put("type", "output_text").put("text", &self.text).raw("annotations", "[]");
                part.put("logprobs", &self.logprobs);
            }
            Kind::Reasoning => {
                part.put("type", "reasoning_text").put("text", &self.text);
            }
            Kind::Refusal => {
                part.put("type", "refusal").put("refusal", &self.text);
            }
            Kind::Call { .. } => return None,
        }
        Some(part.close())
    }

    fn begun(&self) -> String {
        self.written("in_progress", "[]")
    }

    fn json(&self, status: &str) -> String {
        let part = self.part().unwrap_or_default();
        self.written(status, &format!("[{part}]"))
    }

    fn written(&self, status: &str, content: &str) -> String {
        let mut item = Writer::object();
        item.put("id", &self.id);
        match &self.kind {
            Kind::Text | Kind::Refusal => {
                item.put("type", "message").put("status", status).put("role", "assistant").raw("content", content);
            }
            Kind::Reasoning => {
                item.put("type", "reasoning").put("status", status).raw("summary", "[]").raw("content", content);
                item.raw("encrypted_content", "null");
            }
            Kind::Call { call_id, name, .. } => {
                item.put("type", "function_call").put("status", status).put("call_id", call_id).put("name", name);
                item.put("arguments", &self.text);
            }
        }
        item.close()
    }
}

impl Dialect for Response {
    fn tokens(&mut self, out: &mut BytesMut, mut tokens: Tokens) {
        self.begin(out);
        if self.logprobs {
            self.pending.append(&mut tokens.logprobs);
        }
        for (kind, text) in
            [(Kind::Reasoning, &tokens.reasoning), (Kind::Text, &tokens.text), (Kind::Refusal, &tokens.refusal)]
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
        if self.open.is_none() && self.output.is_empty() {
            self.open(out, Kind::Text); // an answer without words is a message without words
        }
        let is_cut = matches!(reason, FinishReason::Length | FinishReason::ContentFilter);
        self.close(out, if is_cut { "incomplete" } else { "completed" });
        self.reason = Some(reason);
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn last(&self) -> Option<BytesMut> {
        let (state, object) = self.object();
        if !self.stream {
            return Some(BytesMut::from(object.as_bytes()));
        }
        let kind = format!("response.{state}");
        let mut event = Writer::object();
        event.put("type", &kind).put("sequence_number", &self.sequence).raw("response", &object);
        Some(BytesMut::from(format!("event: {kind}\ndata: {}", event.open()).as_bytes()))
    }
}

#[cfg(test)]
mod tests;
