//! The client's bytes, made from an engine's events: one [`Dialect`] for each endpoint and way of answering.
//!
//! A rendering is a function of the events it is given, so an answer that another provider began is taken up by giving it
//! that answer's events and throwing the bytes away. What the gateway writes itself is left out: usage, the end of a
//! stream, a document's closing brace.

mod chat;
mod completions;
mod embeddings;
mod messages;
mod responses;

use bytes::{BufMut, BytesMut};
use lumbung_openapi::chat::{ChatRequest, Encoding};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::responses::Envelope;
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

    /// The next input's vector has come.
    fn vector(&mut self, vector: &[f32]) {
        let _ = vector; // only one endpoint has such
    }

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

impl Shape {
    /// What a request asks for.
    pub fn of(endpoint: Endpoint, request: &ChatRequest<'_>) -> Self {
        Self {
            endpoint,
            stream: request.stream,
            choices: request.answers() as usize,
            include_usage: request.include_usage,
            logprobs: request.logprobs.is_some(),
            may_call: request.tools.may_be_called(),
        }
    }
}

/// The rendering of one answer to a request, which was read from this body.
pub fn dialect(
    ticket: &Ticket,
    shape: Shape,
    body: &[u8],
    request: &ChatRequest<'_>,
) -> Result<Box<dyn Dialect>, InvalidRequest> {
    Ok(match (shape.endpoint, shape.stream) {
        (Endpoint::Chat, true) => Box::new(chat::Chunks::new(ticket, shape)),
        (Endpoint::Chat, false) => Box::new(chat::Completion::new(ticket, shape)),
        (Endpoint::Completions, _) => Box::new(completions::Texts::new(ticket, shape)),
        (Endpoint::Responses, stream) => {
            let envelope = Envelope::new(body, &ticket.public_id, ticket.created, &ticket.public_model)?;
            Box::new(responses::Response::new(ticket, envelope, stream, shape.logprobs))
        }
        (Endpoint::Messages, stream) => {
            let stops = request.stop.iter().map(|stop| stop.clone().into_owned()).collect();
            Box::new(messages::AnthropicMessage::new(ticket, stream, stops))
        }
        (Endpoint::Embeddings, _) => {
            let encoding = request.embedding.as_ref().map_or(Encoding::Float, |wish| wish.encoding);
            Box::new(embeddings::Vectors::new(ticket, encoding))
        }
    })
}

fn write_json<T: Serialize + ?Sized>(out: &mut impl BufMut, value: &T) {
    serde_json::to_writer(out.writer(), value).expect("strings and numbers serialize, and memory takes them");
}

#[cfg(test)]
pub(crate) mod tests {
    //! What the renderings' tests have in common.

    use lumbung_openapi::merkle::Hash;
    use lumbung_openapi::money::{NanoUsd, TokenPrice};
    use lumbung_openapi::reply::TokenLogprob;

    use super::*;

    pub fn ticket() -> Ticket {
        Ticket {
            replica: "r1".into(),
            allowance: "allow_1".into(),
            job: "job_1".into(),
            attempt: 1,
            first_token: 0,
            provider: "p".into(),
            model: "org/model".into(),
            digests: vec![],
            price: TokenPrice::default(),
            fee_bps: 500,
            max_prompt_tokens: 100,
            max_completion_tokens: 100,
            whole: false,
            ceiling: NanoUsd::ZERO,
            request_sha256: Hash::of(b""),
            public_id: "chatcmpl-\"1\"".into(),
            public_model: "org/modèle".into(),
            created: 1_700_000_000,
            start_by: 0,
            claim_by: 0,
        }
    }

    pub fn text(choice: u8, text: &str) -> Tokens {
        Tokens { choice, count: 1, text: text.into(), ..Default::default() }
    }

    pub fn logprob(token: &str) -> TokenLogprob {
        TokenLogprob { token: token.into(), logprob: -0.5, bytes: token.as_bytes().to_vec(), top_logprobs: vec![] }
    }
}
