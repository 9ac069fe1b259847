//! What a client was told, taken out of the very bytes that it got: for attempts whose tokens are counted again.
//!
//! Each endpoint has a reader of its own, which knows its documents and its events.

mod chat;
mod messages;
mod responses;

use bytes::Bytes;
use lumbung_openapi::chat::MAX_ANSWERS;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::{Frame, FrameKind, MAX_PAYLOAD};

use crate::domain::tokenizer::Said;

/// Bytes of text that are kept of one attempt. A context of 131,072 tokens has about a quarter of it; what is beyond earns
/// nothing where an attempt is counted again.
const MAX_KEPT: usize = 2 << 20;

/// The text of one attempt, choice by choice. What a client could not read is not in it.
#[derive(Clone)]
pub struct Transcript {
    endpoint: Endpoint,
    heard: Heard,
    /// An event whose end has not come: events may be cut differently from frames.
    rest: Vec<u8>,
    /// A document or a stream's last event, piece by piece.
    body: Vec<Bytes>,
    has_ended: bool,
    has_text: bool,
}

/// What readers have found.
#[derive(Clone, Default)]
struct Heard {
    choices: Vec<Said>,
    kept: usize,
}

impl Heard {
    fn choice(&mut self, index: usize) -> Option<&mut Said> {
        if index >= MAX_ANSWERS as usize {
            return None;
        }
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Said::default);
        }
        self.choices.get_mut(index)
    }

    /// Adds text to one part of a choice, as long as there is room for more.
    fn keep(&mut self, index: usize, part: fn(&mut Said) -> &mut String, text: Option<&str>) {
        let text = text.unwrap_or_default();
        let has_room = self.kept + text.len() <= MAX_KEPT;
        let Some(said) = self.choice(index) else { return };
        if has_room {
            part(said).push_str(text);
            self.kept += text.len();
        }
    }

    /// Notes a call's first part, which names it; the arguments may follow in many.
    fn call(&mut self, index: usize, name: Option<&str>) {
        if let Some(said) = self.choice(index) {
            said.call_count += usize::from(name.is_some_and(|name| !name.is_empty()));
        }
        self.keep(index, calls, name);
    }

    fn finish(&mut self, index: usize, reason: Option<String>) {
        if let (Some(said), Some(reason)) = (self.choice(index), reason.filter(|reason| reason.len() <= 32)) {
            said.finish_reason = Some(reason);
        }
    }
}

fn content(said: &mut Said) -> &mut String {
    &mut said.content
}

fn reasoning(said: &mut Said) -> &mut String {
    &mut said.reasoning
}

fn calls(said: &mut Said) -> &mut String {
    &mut said.calls
}

impl Transcript {
    /// Of an answer at this endpoint.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            heard: Heard::default(),
            rest: Vec::new(),
            body: Vec::new(),
            has_ended: false,
            has_text: false,
        }
    }

    /// Takes the text of one frame.
    pub fn take(&mut self, frame: &Frame) {
        match frame.kind {
            FrameKind::Delta | FrameKind::Finish => self.events(&frame.payload),
            FrameKind::Body if self.endpoint == Endpoint::Embeddings => {} // vectors say nothing
            FrameKind::Body => self.body.push(frame.payload.clone()),
            FrameKind::End => self.has_ended = true,
            FrameKind::Receipt => {}
            // One that its provider left unfinished is begun anew by whoever goes on.
            _ => self.body.clear(),
        }
    }

    /// The choices in order; `None` where the client was told nothing at all. Reads the document, which takes its time.
    pub fn into_choices(mut self) -> Option<Vec<Said>> {
        // The provider leaves the end to the gateway.
        let body = std::mem::take(&mut self.body).concat();
        if self.has_ended && !body.is_empty() {
            self.has_text = true;
            match body.starts_with(b"{") {
                true => self.message(&[&body[..], b"}"].concat()),
                false => self.last_event(&body),
            }
        }
        self.has_text.then_some(self.heard.choices)
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

    /// An event that lacks its usage, and the braces after it.
    fn last_event(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n') {
            if let Some(data) = line.strip_prefix(b"data:") {
                let braces: &[u8] = if self.endpoint == Endpoint::Responses { b"}}" } else { b"}" };
                self.message(&[data, braces].concat());
            }
        }
    }

    fn message(&mut self, json: &[u8]) {
        match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => chat::read(json, &mut self.heard),
            Endpoint::Responses => responses::read(json, &mut self.heard),
            Endpoint::Messages => messages::read(json, &mut self.heard),
            Endpoint::Embeddings => {}
        }
    }
}

#[cfg(test)]
mod tests;
