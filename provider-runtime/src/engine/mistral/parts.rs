//! The parts of what a model writes: reasoning, text and tool calls, told apart as it comes.
//!
//! However the text is cut, the parts are the same. What may yet become a tag or a stop sequence is held back.

use super::convention::{CallStyle, Tags};
use crate::engine::calls::CallIds;
use crate::engine::text::{Matched, StopMatcher};
use crate::engine::{CallDelta, CallHead};

/// What has become clear with more text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// More reasoning.
    pub reasoning: String,
    /// More of the answer's text.
    pub text: String,
    /// More of tool calls.
    pub calls: Vec<CallDelta>,
    /// A stop sequence has come: the answer ends here.
    pub stopped: bool,
    /// Something has begun; with it, the text that has come of it. [`Reader::decide`] is to be asked next.
    pub begun: Option<(Begun, String)>,
}

/// What has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The answer, after the reasoning or in place of it.
    Answer,
    /// Tool calls.
    Calls,
}

/// Where in an answer the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At its beginning, where reasoning may come.
    Start,
    /// In the reasoning.
    Reasoning,
    /// In the answer.
    Answer,
    /// In the calls.
    Calls,
}

/// Tells the parts apart.
pub struct Reader {
    place: Place,
    reasoning: Option<Tags>,
    style: Option<CallStyle>,
    stops: StopMatcher,
    /// Text whose part is not clear yet.
    held: String,
    /// White space is dropped until something else comes.
    trims: bool,
    /// Nothing of the answer has been shown.
    is_fresh: bool,
    calls: CallReader,
}

impl Reader {
    /// For one choice. `style` is how calls are written, if they may come; `place` is where the prompt leaves off.
    pub fn new(
        place: Place,
        reasoning: Option<Tags>,
        style: Option<CallStyle>,
        stops: Vec<String>,
        ids: CallIds,
    ) -> Self {
        Self {
            place,
            reasoning,
            style,
            stops: StopMatcher::new(stops),
            held: String::new(),
            trims: place == Place::Reasoning,
            is_fresh: true,
            calls: CallReader::new(ids),
        }
    }

    /// Where the text is now.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether a tool has been called.
    pub fn has_called(&self) -> bool {
        self.calls.made > 0
    }

    /// Which stop sequence has ended the answer, by its number.
    pub fn stopped_by(&self) -> Option<usize> {
        self.stops.stopped_by()
    }

    /// Takes more text. After [`Parts::stopped`], nothing more is to come.
    pub fn push(&mut self, text: &str) -> Parts {
        let mut parts = Parts::default();
        self.held.push_str(text);
        self.go_on(&mut parts);
        parts
    }

    /// Goes on after something has begun. `is_right` says whether calls are calls; otherwise what looked like them is text.
    pub fn decide(&mut self, is_right: bool, parts: &mut Parts) {
        if self.place == Place::Calls && !is_right {
            let open = self.style.take().map_or("", CallStyle::open);
            self.held.insert_str(0, open);
            self.place = Place::Answer;
        }
        self.go_on(parts);
    }

    /// The end: what was held back.
    pub fn finish(&mut self) -> Parts {
        let mut parts = Parts::default();
        let held = std::mem::take(&mut self.held);
        match self.place {
            Place::Reasoning => parts.reasoning = self.trimmed(held.trim_end()).to_owned(),
            Place::Calls => {}
            Place::Start | Place::Answer => {
                self.say(&held, &mut parts);
                if !parts.stopped {
                    parts.text += &self.stops.finish();
                }
            }
        }
        parts
    }

    fn go_on(&mut self, parts: &mut Parts) {
        match self.place {
            Place::Start => self.start(parts),
            Place::Reasoning => self.reason(parts),
            Place::Answer => self.answer(parts),
            Place::Calls => {
                let held = std::mem::take(&mut self.held);
                self.calls.push(&held, &mut parts.calls);
            }
        }
    }

    fn start(&mut self, parts: &mut Parts) {
        let open = self.reasoning.map_or("", |tags| tags.open);
        let text = self.held.trim_start();
        if let Some(rest) = text.strip_prefix(open).filter(|_| !open.is_empty()) {
            self.held = rest.to_owned();
            (self.place, self.trims) = (Place::Reasoning, true);
            self.reason(parts);
        } else if !open.starts_with(text) {
            self.place = Place::Answer;
            parts.begun = Some((Begun::Answer, self.held.clone()));
        }
    }

    fn reason(&mut self, parts: &mut Parts) {
        let close = self.reasoning.map_or("", |tags| tags.close);
        if let Some(at) = self.held.find(close) {
            let rest = self.held.split_off(at + close.len());
            let reasoning = std::mem::replace(&mut self.held, rest);
            parts.reasoning += self.trimmed(reasoning[..at].trim_end());
            (self.place, self.trims) = (Place::Answer, true);
            parts.begun = Some((Begun::Answer, self.held.clone()));
            return;
        }
        let keep = self.held.len() - beginning_at_end(&self.held, close);
        let shown = self.held[..keep].trim_end().len();
        let kept = self.held.split_off(shown);
        let reasoning = std::mem::replace(&mut self.held, kept);
        parts.reasoning += self.trimmed(&reasoning);
    }

    fn answer(&mut self, parts: &mut Parts) {
        let found = match self.style {
            Some(style @ CallStyle::Bare(_)) if self.is_fresh => {
                let text = self.held.trim_start();
                if !text.starts_with(style.open()) && style.open().starts_with(text) {
                    return;
                }
                text.starts_with(style.open()).then(|| self.held.len() - text.len())
            }
            Some(CallStyle::Bare(_)) | None => None,
            Some(style) => self.held.find(style.open()),
        };
        let (Some(style), Some(at)) = (self.style, found) else {
            let keep = match self.style {
                Some(CallStyle::Bare(_)) | None => 0,
                Some(style) => beginning_at_end(&self.held, style.open()),
            };
            let kept = self.held.split_off(self.held.len() - keep);
            let text = std::mem::replace(&mut self.held, kept);
            return self.say(&text, parts);
        };
        let rest = self.held.split_off(at + style.open().len());
        let text = std::mem::replace(&mut self.held, rest);
        if !matches!(style, CallStyle::Bare(_)) {
            self.say(&text[..at], parts);
        }
        if !parts.stopped {
            parts.text += &self.stops.finish();
            self.place = Place::Calls;
            self.calls.begin();
            parts.begun = Some((Begun::Calls, self.held.clone()));
        }
    }

    /// Shows text of the answer.
    fn say(&mut self, text: &str, parts: &mut Parts) {
        let text = self.trimmed(text).to_owned();
        self.is_fresh &= text.trim_start().is_empty();
        match self.stops.push(&text) {
            Matched::Open(text) => parts.text += &text,
            Matched::Stopped(text) => {
                parts.text += &text;
                parts.stopped = true;
            }
        }
    }

    fn trimmed<'a>(&mut self, text: &'a str) -> &'a str {
        if !self.trims {
            return text;
        }
        let text = text.trim_start();
        self.trims = text.is_empty();
        text
    }
}

/// How long the end of a text is with which a tag begins.
fn beginning_at_end(text: &str, tag: &str) -> usize {
    let most = text.len().min(tag.len().saturating_sub(1));
    (1..=most).rev().find(|&len| text.as_bytes().ends_with(&tag.as_bytes()[..len])).unwrap_or(0)
}

/// Reads calls of which the grammar has made sure that each is `{"name": "…", "arguments": {…}}`, and what may be between
/// them.
struct CallReader {
    ids: CallIds,
    /// Calls whose names have come.
    made: u32,
    at: CallPlace,
}

enum CallPlace {
    /// Before a call, and after one.
    Between,
    /// From the call's brace, or from after its first key, to its arguments.
    Head(String),
    /// In the arguments, so many braces and brackets deep.
    Arguments { depth: u32, in_string: bool, escaped: bool },
}

impl CallReader {
    fn new(ids: CallIds) -> Self {
        Self { ids, made: 0, at: CallPlace::Between }
    }

    /// The first call begins, or has begun with its first key.
    fn begin(&mut self) {
        self.at = CallPlace::Head(String::new());
    }

    fn push(&mut self, text: &str, calls: &mut Vec<CallDelta>) {
        for letter in text.chars() {
            match &mut self.at {
                CallPlace::Between => {
                    if letter == '{' {
                        self.begin();
                    }
                }
                CallPlace::Head(head) => {
                    // After the name's colon and the arguments' comes their brace.
                    let colons = head.matches(':').count();
                    if letter != '{' || colons < 2 {
                        head.push(letter);
                        continue;
                    }
                    let name = head.split(':').nth(1).and_then(|name| name.split('"').nth(1)).unwrap_or_default();
                    let head = CallHead { id: self.ids.of(self.made), name: name.to_owned() };
                    calls.push(CallDelta { call: self.made, head: Some(head), arguments: String::new() });
                    self.made += 1;
                    self.at = CallPlace::Arguments { depth: 0, in_string: false, escaped: false };
                    self.argue(letter, calls);
                }
                CallPlace::Arguments { .. } => self.argue(letter, calls),
            }
        }
    }

    fn argue(&mut self, letter: char, calls: &mut Vec<CallDelta>) {
        let CallPlace::Arguments { depth, in_string, escaped } = &mut self.at else { return };
        let call = self.made.saturating_sub(1);
        match calls.last_mut().filter(|last| last.call == call && last.head.is_none()) {
            Some(last) => last.arguments.push(letter),
            None => calls.push(CallDelta { call, head: None, arguments: letter.into() }),
        }
        match letter {
            _ if *escaped => *escaped = false,
            '\\' if *in_string => *escaped = true,
            '"' => *in_string = !*in_string,
            '{' | '[' if !*in_string => *depth += 1,
            '}' | ']' if !*in_string => {
                *depth -= 1;
                if *depth == 0 {
                    self.at = CallPlace::Between;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
