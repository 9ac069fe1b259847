//! `POST /v1/chat/completions` and `POST /v1/completions`.

use serde::Deserialize;

use super::{Heard, calls, content, reasoning};

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    choices: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    index: usize,
    /// Of a chunk.
    #[serde(default)]
    delta: Option<Words>,
    /// Of a whole answer.
    #[serde(default)]
    message: Option<Words>,
    /// Of a completion, in chunks and whole.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Words {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    /// The same text under two names where a server sends both.
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    function_call: Option<Function>,
}

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    function: Option<Function>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

/// Reads a chunk, or a whole answer.
pub fn read(json: &[u8], heard: &mut Heard) {
    let Ok(message) = serde_json::from_slice::<Message>(json) else { return };
    for part in message.choices {
        heard.keep(part.index, content, part.text.as_deref());
        for words in [part.delta, part.message].into_iter().flatten() {
            take_words(part.index, heard, words);
        }
        heard.finish(part.index, part.finish_reason);
    }
}

fn take_words(index: usize, heard: &mut Heard, words: Words) {
    heard.keep(index, content, words.content.as_deref());
    heard.keep(index, content, words.refusal.as_deref());
    heard.keep(index, reasoning, words.reasoning_content.or(words.reasoning).as_deref());
    let functions = words.tool_calls.unwrap_or_default().into_iter().filter_map(|call| call.function);
    for function in functions.chain(words.function_call) {
        heard.call(index, function.name.as_deref());
        heard.keep(index, calls, function.arguments.as_deref());
    }
}
