//! What is asked, how its answer is read, and in what mixture.

use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use serde_json::json;

/// A piece every so often, for a reader that is slower than any provider.
const SLOW_READER: Duration = Duration::from_millis(60);
/// One reader in so many leaves before the end, where readers leave.
const PIECES_BEFORE_LEAVING: u64 = 40;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Answers in one piece.
    Completion,
    /// Streamed answers.
    Stream,
    /// Answers in one piece to prompts of 64 KiB.
    LongPrompt,
    /// Answers in one piece, each over a connection of its own.
    ConnectStorm,
    /// Streams that are read more slowly than they come.
    SlowReaders,
    /// Streams whose readers leave, anywhere.
    Leavers,
    /// Of everything something.
    Mixed,
}

/// How an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// As it comes.
    Steady,
    /// With a pause after each piece.
    Slow(Duration),
    /// Until so many pieces of a stream have come; then the connection is dropped.
    LeavesAfter(u64),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The body, JSON.
    pub body: Bytes,
    /// Whether the answer is streamed.
    pub streams: bool,
    /// How it is read.
    pub reader: Reader,
    /// Whether it needs a connection of its own.
    pub alone: bool,
    /// The trace that it is part of, as its header says.
    pub traceparent: Option<&'static str>,
}

/// What requests are made of.
#[derive(Clone, Debug)]
pub struct Wording {
    /// The model.
    pub model: String,
    /// The prompt; made up, in the length that the scenario wants, if absent.
    pub prompt: Option<String>,
    /// What streamed answers are asked for with, where the prompt is made up: a script tells prompts apart by it.
    pub stream_cue: String,
    /// Length of a prompt that is made up, in bytes, except where the scenario is about long ones.
    pub prompt_bytes: usize,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Whether the likeliest tokens are asked for, so that nothing is drawn.
    pub greedy: bool,
}

impl Wording {
    /// Made-up prompts of 200 bytes for a model.
    pub fn of(model: &str) -> Self {
        let (model, stream_cue) = (model.into(), String::new());
        Self { model, prompt: None, stream_cue, prompt_bytes: 200, max_tokens: None, greedy: false }
    }

    /// One request for an answer.
    pub fn ask(&self, streams: bool, prompt_bytes: usize) -> Ask {
        let cue = if streams { self.stream_cue.as_str() } else { "" };
        let filler = || cue.chars().chain("padi ".chars().cycle()).take(prompt_bytes.max(cue.len())).collect();
        let prompt: String = self.prompt.clone().unwrap_or_else(filler);
        let mut body = json!({ "model": self.model, "messages": [{ "role": "user", "content": prompt }] });
        if streams {
            body["stream"] = json!(true);
            body["stream_options"] = json!({ "include_usage": true });
        }
        if let Some(most) = self.max_tokens {
            body["max_tokens"] = json!(most);
        }
        if self.greedy {
            body["temperature"] = json!(0);
        }
        Ask { body: body.to_string().into(), streams, reader: Reader::Steady, alone: false, traceparent: None }
    }
}

/// Requests in turn, by their weights; the same ones in every run.
#[derive(Clone, Debug)]
pub struct Mix(Vec<(u32, Ask)>);

impl Mix {
    /// Always the same.
    pub fn only(ask: Ask) -> Self {
        Self(vec![(1, ask)])
    }

    /// What a scenario asks.
    pub fn of(scenario: Scenario, wording: &Wording) -> Self {
        let short = |streams| wording.ask(streams, wording.prompt_bytes);
        let long = || wording.ask(false, 64 << 10);
        let alone = || Ask { alone: true, ..short(false) };
        let read_by = |reader| Ask { reader, ..short(true) };
        let (slow, leaving) = (Reader::Slow(SLOW_READER), Reader::LeavesAfter(PIECES_BEFORE_LEAVING));
        match scenario {
            Scenario::Completion => Self::only(short(false)),
            Scenario::Stream => Self::only(short(true)),
            Scenario::LongPrompt => Self::only(long()),
            Scenario::ConnectStorm => Self::only(alone()),
            Scenario::SlowReaders => Self(vec![(1, read_by(slow)), (1, short(true))]),
            Scenario::Leavers => Self(vec![(1, read_by(leaving)), (1, short(true))]),
            Scenario::Mixed => Self(vec![
                (60, short(false)),
                (20, short(true)),
                (4, long()),
                (6, alone()),
                (4, read_by(slow)),
                (6, read_by(leaving)),
            ]),
        }
    }

    /// The request with this number.
    pub fn pick(&self, number: u64) -> Ask {
        let random = scramble(number);
        let all: u64 = self.0.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut place = random % all.max(1);
        let chosen = self.0.iter().find(|(weight, _)| {
            let is_here = place < u64::from(*weight);
            place = place.saturating_sub(u64::from(*weight));
            is_here
        });
        let mut ask = chosen.unwrap_or(&self.0[0]).1.clone();
        if let Reader::LeavesAfter(most) = ask.reader {
            ask.reader = Reader::LeavesAfter(1 + (random >> 32) % most);
        }
        ask
    }
}

/// SplitMix64: neighbouring numbers come out as far apart as any.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_has_of_everything_as_much_as_it_should() {
        let mix = Mix::of(Scenario::Mixed, &Wording::of("m"));
        let asks: Vec<Ask> = (0..10_000).map(|number| mix.pick(number)).collect();
        let count = |so: &dyn Fn(&Ask) -> bool| asks.iter().filter(|ask| so(ask)).count();
        let near = |count: usize, expected: usize| count.abs_diff(expected) < expected / 4;
        assert!(near(count(&|ask| ask.alone), 600));
        assert!(near(count(&|ask| ask.body.len() > 64 << 10), 400));
        assert!(near(count(&|ask| ask.reader == Reader::Slow(SLOW_READER)), 400));
        let leavers: Vec<u64> = asks
            .iter()
            .filter_map(|ask| if let Reader::LeavesAfter(pieces) = ask.reader { Some(pieces) } else { None })
            .collect();
        assert!(near(leavers.len(), 600) && leavers.contains(&1) && leavers.contains(&PIECES_BEFORE_LEAVING));
        assert!(asks.iter().zip(0..).all(|(ask, number)| ask.body == mix.pick(number).body), "the same every time");
    }

    #[test]
    fn prompts_have_the_length_that_is_wanted() {
        let wording = Wording { stream_cue: "story ".into(), ..Wording::of("m") };
        let prompt = |ask: &Ask| {
            let body: serde_json::Value = serde_json::from_slice(&ask.body).expect("JSON");
            body["messages"][0]["content"].as_str().expect("a prompt").to_owned()
        };
        assert_eq!(prompt(&wording.ask(false, 1024)).len(), 1024);
        let streamed = prompt(&wording.ask(true, 100));
        assert!(streamed.len() == 100 && streamed.starts_with("story padi"), "{streamed}");
    }
}
