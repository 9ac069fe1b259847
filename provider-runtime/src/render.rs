//! The client's bytes, made from an engine's events: one [`Dialect`] for each endpoint and way of answering.
//!
//! A rendering is a function of the events it is given, so an answer that another provider began is taken up by giving it
//! that answer's events and throwing the bytes away. What the gateway writes itself is left out: usage, the end of a
//! stream, a document's closing brace.

mod chat;

use bytes::{BufMut, BytesMut};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::ticket::Ticket;
use serde::Serialize;

use crate::engine::{CallDelta, CallHead, FinishReason, Tokens};

/// How an answer is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where it is asked for.
    pub endpoint: Endpoint,
    /// Whether it comes as server-sent events.
    pub stream: bool,
    /// How many choices.
    pub choices: usize,
    /// Whether chunks carry `usage: null`, because a last one will carry the usage.
    pub include_usage: bool,
    /// Whether tokens carry log-probabilities.
    pub logprobs: bool,
    /// Whether tools may be called, so that there may be no text at all.
    pub may_call: bool,
}

/// A tool call, put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WholeCall {
    /// Names the call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

impl WholeCall {
    /// Adds parts of calls to those that have begun. Returns how many bytes these are.
    pub fn gather(calls: &mut Vec<Self>, deltas: Vec<CallDelta>) -> usize {
        let mut bytes = 0;
        for delta in deltas {
            let at = delta.call as usize;
            // Calls come one after another; an engine that leaves one out has an empty one.
            if at >= calls.len() {
                calls.resize_with(at.min(MAX_CALLS) + 1, Self::default);
            }
            let Some(call) = calls.get_mut(at) else { continue };
            if let Some(CallHead { id, name }) = delta.head {
                bytes += id.len() + name.len();
                (call.id, call.name) = (id, name);
            }
            bytes += delta.arguments.len();
            call.arguments += &delta.arguments;
        }
        bytes
    }
}

/// More calls than any answer has: a wrong index makes no larger list.
const MAX_CALLS: usize = 1024;

/// How one endpoint writes an answer. What a stream shows is written to `out` at once, in whole server-sent events; a
/// document is kept until [`Dialect::last`].
pub trait Dialect: Send {
    /// The prompt has been counted.
    fn prompt(&mut self, out: &mut BytesMut, prompt: PromptCount) {
        let _ = (out, prompt); // most endpoints tell it at the end, which is the gateway's
    }

    /// Tokens were made; perhaps they show nothing yet.
    fn tokens(&mut self, out: &mut BytesMut, tokens: Tokens);

    /// A choice is complete.
    fn finish(&mut self, out: &mut BytesMut, choice: u8, reason: FinishReason);

    /// Bytes of text that are kept for the end.
    fn kept(&self) -> usize {
        0
    }

    /// Every choice is complete: what goes to the gateway in one piece, which adds the usage and the end. Of a document
    /// that is all of it; of a stream its last event, where that has usage beside other things.
    fn last(&self) -> Option<BytesMut>;
}

/// The rendering of one answer.
pub fn dialect(ticket: &Ticket, shape: Shape) -> Box<dyn Dialect> {
    match (shape.endpoint, shape.stream) {
        (Endpoint::Chat, true) => Box::new(chat::Chunks::new(ticket, shape)),
        (Endpoint::Chat, false) => Box::new(chat::Completion::new(ticket, shape)),
    }
}

fn write_json<T: Serialize + ?Sized>(out: &mut impl BufMut, value: &T) {
    serde_json::to_writer(out.writer(), value).expect("strings and numbers serialize, and memory takes them");
}
