//! `POST /v1/completions`: text that goes on from a prompt, in chunks or as one document.

use bytes::{BufMut, BytesMut};
use lumbung_openapi::reply::TokenLogprob;
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::writer::{Writer, json_of};

use super::{Dialect, Shape};
use crate::engine::{FinishReason, Tokens};

/// An answer, choice by choice.
pub struct Texts {
    /// From the opening brace to the list of choices.
    head: String,
    shape: Shape,
    choices: Vec<Text>,
    kept: usize,
}

#[derive(Clone, Default)]
struct Text {
    /// What was not written yet: of a stream nothing, of a document everything.
    text: String,
    logprobs: Vec<TokenLogprob>,
    /// Characters of the tokens whose log-probabilities were written.
    offset: usize,
    reason: Option<FinishReason>,
}

impl Texts {
    /// For one answer.
    pub fn new(ticket: &Ticket, shape: Shape) -> Self {
        let mut head = Writer::object();
        head.put("id", &ticket.public_id).put("object", "text_completion").put("created", &ticket.created);
        head.put("model", &ticket.public_model);
        let head = format!("{},\"choices\":[", head.open());
        Self { head, shape, choices: vec![Text::default(); shape.choices], kept: 0 }
    }

    fn chunk(&mut self, out: &mut BytesMut, choice: u8) {
        let text = &mut self.choices[usize::from(choice)];
        let written = text.write(choice, self.shape.logprobs);
        let end = if self.shape.include_usage { "],\"usage\":null}\n\n" } else { "]}\n\n" };
        for part in ["data: ", &self.head, &written, end] {
            out.put_slice(part.as_bytes());
        }
    }
}

impl Text {
    /// What there is as a choice, and makes room for more.
    fn write(&mut self, index: u8, logprobs: bool) -> String {
        let mut choice = Writer::object();
        choice.put("index", &index).put("text", &std::mem::take(&mut self.text));
        let tokens = std::mem::take(&mut self.logprobs);
        match logprobs {
            true => choice.raw("logprobs", &self.write_logprobs(&tokens)),
            false => choice.raw("logprobs", "null"),
        };
        choice.put("finish_reason", &self.reason.map(FinishReason::name));
        choice.close()
    }

    /// OpenAI's first shape for log-probabilities: four lists side by side.
    fn write_logprobs(&mut self, tokens: &[TokenLogprob]) -> String {
        let (mut names, mut values) = (Writer::array(), Writer::array());
        let (mut tops, mut offsets) = (Writer::array(), Writer::array());
        for token in tokens {
            names.item(&json_of(&token.token));
            values.item(&json_of(&token.logprob));
            let mut top = Writer::object();
            let mut seen = vec![token.token.as_str()];
            top.put(&token.token, &token.logprob);
            for other in &token.top_logprobs {
                // Tokens that are no text by themselves look alike.
                if !seen.contains(&other.token.as_str()) {
                    seen.push(&other.token);
                    top.put(&other.token, &other.logprob);
                }
            }
            tops.item(&top.close());
            offsets.item(&json_of(&self.offset));
            // A character is counted where it begins: every other byte of UTF-8 is a continuation.
            self.offset += token.bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        }
        let mut lists = Writer::object();
        lists.raw("tokens", &names.close()).raw("token_logprobs", &values.close());
        lists.raw("top_logprobs", &tops.close()).raw("text_offset", &offsets.close());
        lists.close()
    }
}

impl Dialect for Texts {
    fn tokens(&mut self, out: &mut BytesMut, mut tokens: Tokens) {
        let text = &mut self.choices[usize::from(tokens.choice)];
        text.text.push_str(&tokens.text);
        text.logprobs.append(&mut tokens.logprobs);
        match self.shape.stream {
            true if !tokens.text.is_empty() => self.chunk(out, tokens.choice),
            true => {}
            false => self.kept += tokens.text.len(),
        }
    }

    fn finish(&mut self, out: &mut BytesMut, choice: u8, reason: FinishReason) {
        self.choices[usize::from(choice)].reason = Some(reason);
        if self.shape.stream {
            self.chunk(out, choice);
        }
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn last(&self) -> Option<BytesMut> {
        if self.shape.stream {
            return None;
        }
        let mut choices = self.choices.clone();
        let written = choices.iter_mut().enumerate().map(|(index, text)| text.write(index as u8, self.shape.logprobs));
        let body = format!("{}{}]", self.head, written.collect::<Vec<_>>().join(","));
        Some(BytesMut::from(body.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::endpoint::Endpoint;
    use serde_json::{Value, json};

    use super::*;
    use crate::render::tests::{logprob, text, ticket};

    const STREAM: Shape = Shape {
        endpoint: Endpoint::Completions,
        stream: true,
        choices: 2,
        include_usage: true,
        logprobs: false,
        may_call: false,
    };

    #[test]
    fn a_stream_is_chunks_of_text() {
        let (mut texts, mut out) = (Texts::new(&ticket(), STREAM), BytesMut::new());
        texts.tokens(&mut out, text(1, "b"));
        texts.tokens(&mut out, text(0, ""));
        texts.finish(&mut out, 1, FinishReason::Length);
        let events: Vec<Value> = std::str::from_utf8(&out)
            .unwrap()
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect();
        let choices: Vec<&Value> = events.iter().map(|event| &event["choices"][0]).collect();
        assert_eq!(
            choices,
            [
                &json!({"index": 1, "text": "b", "logprobs": null, "finish_reason": null}),
                &json!({"index": 1, "text": "", "logprobs": null, "finish_reason": "length"}),
            ]
        );
        assert!(events.iter().all(|event| event["object"] == "text_completion" && event["usage"].is_null()));
        assert!(texts.last().is_none());
    }

    #[test]
    fn log_probabilities_are_four_lists() {
        let shape = Shape { stream: false, choices: 1, logprobs: true, ..STREAM };
        let (mut texts, mut out) = (Texts::new(&ticket(), shape), BytesMut::new());
        texts.tokens(&mut out, Tokens { logprobs: vec![logprob("Hé")], ..text(0, "Hé") });
        texts.tokens(&mut out, Tokens { logprobs: vec![logprob("!")], ..text(0, "!") });
        texts.finish(&mut out, 0, FinishReason::Stop);
        assert_eq!((out.len(), texts.kept()), (0, 4));
        let body: Value = serde_json::from_slice(&[&texts.last().unwrap()[..], b"}"].concat()).unwrap();
        assert_eq!(body["choices"][0]["text"], "Hé!");
        assert_eq!(
            body["choices"][0]["logprobs"],
            json!({"tokens": ["Hé", "!"], "token_logprobs": [-0.5, -0.5], "top_logprobs": [{"Hé": -0.5}, {"!": -0.5}],
                   "text_offset": [0, 2]})
        );
    }
}
