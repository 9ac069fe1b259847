//! `POST /v1/responses`.

use serde::Deserialize;

use super::{Heard, calls, content, reasoning};

/// An event, or a whole response.
#[derive(Deserialize)]
struct Message {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    delta: Option<String>,
    #[serde(default)]
    item: Option<Item>,
    #[serde(default)]
    response: Option<Whole>,
    #[serde(flatten)]
    whole: Whole,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    output: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
    #[serde(default)]
    content: Option<Vec<Part>>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

/// Reads an event, or a whole response. What events repeat when something is done has been read already.
pub fn read(json: &[u8], heard: &mut Heard) {
    let Ok(message) = serde_json::from_slice::<Message>(json) else { return };
    let delta = message.delta.as_deref();
    match message.kind.as_deref() {
        None => {
            message.whole.output.into_iter().for_each(|item| take_item(item, heard));
            finish(message.whole.status.as_deref(), heard);
        }
        Some("response.output_text.delta" | "response.refusal.delta") => heard.keep(0, content, delta),
        Some("response.reasoning_text.delta") => heard.keep(0, reasoning, delta),
        Some("response.function_call_arguments.delta") => heard.keep(0, calls, delta),
        Some("response.output_item.added") => {
            heard.call(
                0,
                message.item.filter(|item| item.kind == "function_call").and_then(|item| item.name).as_deref(),
            );
        }
        Some("response.completed" | "response.incomplete") => {
            finish(message.response.and_then(|response| response.status).as_deref(), heard);
        }
        Some(_) => {}
    }
}

fn take_item(item: Item, heard: &mut Heard) {
    if item.kind == "function_call" {
        heard.call(0, item.name.as_deref());
        heard.keep(0, calls, item.arguments.as_deref());
    }
    let part_of = if item.kind == "reasoning" { reasoning } else { content };
    for part in item.content.unwrap_or_default() {
        heard.keep(0, part_of, part.text.as_deref());
        heard.keep(0, part_of, part.refusal.as_deref());
    }
}

/// A chat's word for how it ended.
fn finish(status: Option<&str>, heard: &mut Heard) {
    let has_calls = heard.choice(0).is_some_and(|said| said.call_count > 0);
    let reason = match status {
        Some("completed") if has_calls => "tool_calls",
        Some("completed") => "stop",
        Some("incomplete") => "length",
        _ => return,
    };
    heard.finish(0, Some(reason.to_owned()));
}
