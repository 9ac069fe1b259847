//! What requests that share the beginning of their prompt have in common: a number, made once for each request.
//!
//! Two kinds of prompts share a beginning: those of one application (a long system prompt), and the turns of one
//! conversation (all but the last message). So the beginning ends with the first message of the user, or after
//! [`PREFIX_BYTES`], whichever comes first: later turns then have the same one.

use lumbung_openapi::chat::{Message, Role};

use super::dice::mix;

/// How much of a prompt tells it from others.
pub const PREFIX_BYTES: usize = 1024;
/// Bytes of text for a token: OpenAI's rule of thumb for English.
const BYTES_PER_TOKEN: usize = 4;

/// The beginning of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The same for the same beginning.
    pub hash: u64,
    /// About how many tokens it has.
    pub tokens: u32,
}

impl Prefix {
    /// Of a conversation.
    pub fn of(messages: &[Message<'_>]) -> Self {
        let (mut hash, mut left) = (0, PREFIX_BYTES);
        for message in messages {
            hash = absorb(hash, message.role.name().as_bytes());
            let text = message.text.as_bytes();
            let part = &text[..text.len().min(left)];
            hash = absorb(hash, part);
            left -= part.len();
            if left == 0 || message.role == Role::User {
                break;
            }
        }
        Self { hash: mix(hash), tokens: ((PREFIX_BYTES - left) / BYTES_PER_TOKEN) as u32 }
    }
}

/// Eight bytes at a time. Whoever makes two prompts collide brings them to one provider, which is of no use to anyone.
fn absorb(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| step(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(step(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::chat::ChatRequest;

    use super::*;

    #[test]
    fn later_turns_of_a_conversation_begin_alike() {
        let prefix = |messages: &str| {
            let body = format!(r#"{{"model":"m","messages":[{messages}]}}"#);
            Prefix::of(&ChatRequest::parse(body.as_bytes()).expect("a chat").messages)
        };
        let (system, first) = (r#"{"role":"system","content":"Be brief."}"#, r#"{"role":"user","content":"Hello"}"#);
        let begun = prefix(&format!("{system},{first}"));
        let answer = r#"{"role":"assistant","content":"Hi"},{"role":"user","content":"And?"}"#;
        assert_eq!(prefix(&format!("{system},{first},{answer}")), begun);
        assert_eq!(begun.tokens, 14 / 4);
        for other in
            [first.to_owned(), format!("{first},{system}"), format!("{system},{}", first.replace("Hello", "Hullo"))]
        {
            assert_ne!(prefix(&other).hash, begun.hash, "{other}");
        }
        // One application's long instructions, whatever the question.
        let long = format!(r#"{{"role":"system","content":"{}"}}"#, "x".repeat(5000));
        let (one, two) =
            (prefix(&format!("{long},{first}")), prefix(&format!("{long},{}", first.replace("Hello", "Why?"))));
        assert_eq!((one, one.tokens), (two, 256));
        assert_ne!(
            prefix(r#"{"role":"user","content":"ab"},{"role":"user","content":"c"}"#),
            prefix(r#"{"role":"user","content":"a"}"#)
        );
    }
}
