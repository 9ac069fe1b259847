//! Is a stream of server-sent events whole? It must begin with the role, finish once, then give its usage, then end in
//! `[DONE]`, all under one id, with nothing after.

use memchr::memmem;
use serde::Deserialize;

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An event is no chunk.
    Malformed,
    /// The first chunk names no role.
    NoRole,
    /// The id changed.
    OtherId,
    /// A piece after the finish, an event after `[DONE]`, or usage before the finish.
    Order,
    /// No finish reason.
    Unfinished,
    /// No usage.
    NoUsage,
    /// No `[DONE]`, or half an event at the end.
    Cut,
    /// An error within the stream.
    ErrorEvent,
}

impl Fault {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoRole => "no_role",
            Self::OtherId => "other_id",
            Self::Order => "order",
            Self::Unfinished => "unfinished",
            Self::NoUsage => "no_usage",
            Self::Cut => "cut",
            Self::ErrorEvent => "error_event",
        }
    }
}

/// Reads a stream as it arrives, whatever way it is cut.
#[derive(Debug, Default)]
pub struct StreamCheck {
    rest: Vec<u8>,
    id: String,
    place: Place,
    usage: Usage,
    fault: Option<Fault>,
}

/// How far the stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Answer,
    Finished,
    Counted,
    Done,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    role: Option<String>,
    #[serde(borrow)]
    content: Option<std::borrow::Cow<'a, str>>,
}

impl Choice<'_> {
    fn is_empty(&self) -> bool {
        let Delta { role, content } = &self.delta;
        role.is_none() && content.as_deref().is_none_or(str::is_empty) && self.finish_reason.is_none()
    }
}

/// What an answer says it used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt; 0 where it does not say.
    #[serde(default)]
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}

/// What some bytes of a stream completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Come {
    /// Pieces of the answer, its beginning and its end included.
    pub pieces: u64,
    /// Those among them that carry text.
    pub tokens: u64,
}

impl StreamCheck {
    /// The answer's id; empty before its first piece.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Takes the next bytes, and returns what they completed.
    pub fn push(&mut self, bytes: &[u8]) -> Come {
        let mut wire = std::mem::take(&mut self.rest);
        wire.extend_from_slice(bytes);
        let (mut come, mut begin) = (Come::default(), 0);
        while self.fault.is_none()
            && let Some(length) = memmem::find(&wire[begin..], b"\n\n")
        {
            match self.event(&wire[begin..begin + length]) {
                Ok(event) => {
                    come.pieces += event.pieces;
                    come.tokens += event.tokens;
                }
                Err(fault) => self.fault = Some(fault),
            }
            begin += length + 2;
        }
        wire.drain(..begin);
        self.rest = wire;
        come
    }

    /// The verdict after the last byte: what the usage gave.
    pub fn finish(self) -> Result<Usage, Fault> {
        match (self.fault, self.place) {
            (Some(fault), _) => Err(fault),
            (None, Place::Done) if self.rest.is_empty() => Ok(self.usage),
            (None, _) => Err(Fault::Cut),
        }
    }

    /// Takes one event.
    fn event(&mut self, event: &[u8]) -> Result<Come, Fault> {
        if event.starts_with(b":") {
            return Ok(Come::default()); // a comment that keeps the connection alive
        }
        let data = event.strip_prefix(b"data: ").ok_or(Fault::Malformed)?;
        if data == b"[DONE]" {
            return match self.place {
                Place::Counted => {
                    self.place = Place::Done;
                    Ok(Come::default())
                }
                Place::Finished => Err(Fault::NoUsage),
                Place::Done => Err(Fault::Order),
                Place::Start | Place::Answer => Err(Fault::Unfinished),
            };
        }
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|_| Fault::Malformed)?;
        if chunk.error.is_some() {
            return Err(Fault::ErrorEvent);
        }
        if chunk.id.is_empty() {
            return Err(Fault::Malformed);
        }
        if self.place == Place::Start {
            self.id = chunk.id.clone().into_owned();
        } else if self.id != chunk.id {
            return Err(Fault::OtherId);
        }
        match (chunk.choices.first(), chunk.usage) {
            (Some(choice), None) => self.piece(choice),
            // Some send a choice with nothing in it beside the usage.
            (choice, Some(usage)) if self.place == Place::Finished && choice.is_none_or(Choice::is_empty) => {
                self.usage = usage;
                self.place = Place::Counted;
                Ok(Come::default())
            }
            _ => Err(Fault::Order),
        }
    }

    fn piece(&mut self, choice: &Choice<'_>) -> Result<Come, Fault> {
        match self.place {
            Place::Start if choice.delta.role.is_none() => return Err(Fault::NoRole),
            Place::Start | Place::Answer => self.place = Place::Answer,
            Place::Finished | Place::Counted | Place::Done => return Err(Fault::Order),
        }
        if choice.finish_reason.is_some() {
            self.place = Place::Finished;
        }
        let has_text = choice.delta.content.as_deref().is_some_and(|text| !text.is_empty());
        Ok(Come { pieces: 1, tokens: u64::from(has_text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = r#"data: {"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#;
    const TEXT: &str =
        r#"data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"usage":null}"#;
    const END: &str = r#"data: {"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
    const USAGE: &str = r#"data: {"id":"a","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
    const DONE: &str = "data: [DONE]";

    /// Pieces, tokens, and the verdict.
    fn check(events: &[&str], cut: usize) -> (u64, u64, Result<Usage, Fault>) {
        let wire: String = events.iter().map(|event| format!("{event}\n\n")).collect();
        let mut check = StreamCheck::default();
        let come: Vec<Come> = wire.as_bytes().chunks(cut).map(|bytes| check.push(bytes)).collect();
        (come.iter().map(|come| come.pieces).sum(), come.iter().map(|come| come.tokens).sum(), check.finish())
    }

    #[test]
    fn a_whole_stream_passes_however_it_is_cut() {
        for cut in [1, 2, 3, 7, 100, 10_000] {
            let verdict = check(&[ROLE, ": keep-alive", TEXT, TEXT, END, USAGE, DONE], cut);
            assert_eq!(verdict, (4, 2, Ok(Usage { prompt_tokens: 7, completion_tokens: 2 })), "{cut}");
        }
    }

    #[test]
    fn each_fault_is_found() {
        let other = TEXT.replace(r#""id":"a""#, r#""id":"b""#);
        for (events, fault) in [
            (&[TEXT, END, USAGE, DONE][..], Fault::NoRole),
            (&[ROLE, &other, END, USAGE, DONE], Fault::OtherId),
            (&[ROLE, END, TEXT, USAGE, DONE], Fault::Order),
            (&[ROLE, USAGE, END, DONE], Fault::Order),
            (&[ROLE, END, USAGE, DONE, DONE], Fault::Order),
            (&[ROLE, END, DONE], Fault::NoUsage),
            (&[ROLE, TEXT, DONE], Fault::Unfinished),
            (&[ROLE, TEXT, END, USAGE], Fault::Cut),
            (&[ROLE, TEXT], Fault::Cut),
            (&[], Fault::Cut),
            (&[ROLE, "data: {"], Fault::Malformed),
            (&[ROLE, "event: x"], Fault::Malformed),
            (&[ROLE, r#"data: {"id":"a","choices":[],"error":{"message":"m"}}"#], Fault::ErrorEvent),
            (&[ROLE, r#"data: {"error":{"message":"m"}}"#], Fault::ErrorEvent),
            (&[ROLE, r#"data: {"choices":[]}"#], Fault::Malformed),
        ] {
            assert_eq!(check(events, 50).2, Err(fault), "{events:?}");
        }
        let mut half = StreamCheck::default();
        half.push(format!("{ROLE}\n\n{END}\n\n{USAGE}\n\n{DONE}\n").as_bytes());
        assert_eq!(half.finish(), Err(Fault::Cut));
    }
}
