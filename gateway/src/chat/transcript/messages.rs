//! `POST /v1/messages`.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Heard, calls, content, reasoning};

/// An event, or a whole message.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, borrow)]
    content_block: Option<Block<'a>>,
    #[serde(default)]
    delta: Option<Delta>,
    /// Of a whole message.
    #[serde(default, borrow)]
    content: Vec<Block<'a>>,
    /// Of a whole message.
    #[serde(default)]
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    partial_json: Option<String>,
    /// Of the last event.
    #[serde(default)]
    stop_reason: Option<String>,
}

/// Reads an event, or a whole message.
pub fn read(json: &[u8], heard: &mut Heard) {
    let Ok(message) = serde_json::from_slice::<Message<'_>>(json) else { return };
    match message.kind.as_deref() {
        Some("message") => {
            for block in message.content {
                heard.call(0, block.name.as_deref());
                heard.keep(0, calls, block.input.map(RawValue::get));
                heard.keep(0, content, block.text.as_deref());
                heard.keep(0, reasoning, block.thinking.as_deref());
            }
            finish(message.stop_reason.as_deref(), heard);
        }
        // Its input is empty: it comes in deltas.
        Some("content_block_start") => heard.call(0, message.content_block.and_then(|block| block.name).as_deref()),
        _ => {
            let Some(delta) = message.delta else { return };
            heard.keep(0, content, delta.text.as_deref());
            heard.keep(0, reasoning, delta.thinking.as_deref());
            heard.keep(0, calls, delta.partial_json.as_deref());
            finish(delta.stop_reason.as_deref(), heard);
        }
    }
}

/// A chat's word for how it ended.
fn finish(stop_reason: Option<&str>, heard: &mut Heard) {
    let reason = match stop_reason {
        Some("end_turn" | "stop_sequence") => "stop",
        Some("tool_use") => "tool_calls",
        Some("max_tokens") => "length",
        _ => return,
    };
    heard.finish(0, Some(reason.to_owned()));
}
