//! Is a provider's answer whole, as its frames have it? They begin with the prompt's count, go on with the answer, and end
//! with the receipt's claims, which say what has come before.

use anyhow::{Context, anyhow, bail, ensure};
use lumbung_openapi::frame::{Frame, FrameKind, PromptCount};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::ReceiptClaims;
use serde::Deserialize;

use crate::stream::{StreamCheck, Usage};

/// What an answer used.
///
/// # Errors
/// It is not whole, not in order, or not as its provider claims.
pub fn check(frames: &[Frame], is_streamed: bool) -> anyhow::Result<Usage> {
    let [prompt, answer @ .., end, receipt] = frames else { bail!("it has {} frames", frames.len()) };
    let ends = [prompt.kind, end.kind, receipt.kind];
    ensure!(ends == [FrameKind::Prompt, FrameKind::End, FrameKind::Receipt], "it begins or ends with others: {ends:?}");
    let belongs = |frame: &Frame| match is_streamed {
        true => matches!(frame.kind, FrameKind::Delta | FrameKind::Finish),
        false => matches!(frame.kind, FrameKind::Progress | FrameKind::Body),
    };
    ensure!(answer.iter().all(belongs), "it has other frames than were asked for");
    ensure!(frames.is_sorted_by_key(|frame| frame.tokens), "its tokens grow fewer");

    let delivered: Vec<u8> =
        answer.iter().filter(|frame| frame.kind.is_for_client()).flat_map(|frame| &frame.payload).copied().collect();
    let prompt = PromptCount::from_bytes(&prompt.payload).context("it does not count its prompt")?;
    let usage = Usage { prompt_tokens: prompt.prompt_tokens, completion_tokens: end.tokens };
    let claims: ReceiptClaims = serde_json::from_slice(&receipt.payload).context("it claims nothing")?;
    let claimed = Usage { prompt_tokens: claims.prompt_tokens, completion_tokens: claims.completion_tokens };
    ensure!(claimed == usage, "it claims {claimed:?} for {usage:?}");
    ensure!(claims.delivered_sha256 == Hash::of(&delivered), "it claims other bytes than have come");
    match is_streamed {
        true => check_events(&delivered, usage)?,
        false => check_document(delivered)?,
    }
    Ok(usage)
}

/// The end of a stream is the gateway's.
fn check_events(events: &[u8], usage: Usage) -> anyhow::Result<()> {
    let mut check = StreamCheck::default();
    let come = check.push(events);
    let Usage { prompt_tokens, completion_tokens } = usage;
    let usage = format!(r#"{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens}}}"#);
    check.push(
        format!("data: {{\"id\":\"{}\",\"choices\":[],\"usage\":{usage}}}\n\ndata: [DONE]\n\n", check.id()).as_bytes(),
    );
    check.finish().map_err(|fault| anyhow!("its stream is broken: {}", fault.name()))?;
    ensure!(come.tokens > 0, "its stream says nothing");
    Ok(())
}

/// So is the end of a document.
fn check_document(mut document: Vec<u8>) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Document {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Message,
        finish_reason: String,
    }
    #[derive(Deserialize)]
    struct Message {
        content: String,
    }
    document.push(b'}');
    let Document { choices } = serde_json::from_slice(&document).context("its document is broken")?;
    let says_something = |choice: &Choice| !choice.message.content.is_empty() && !choice.finish_reason.is_empty();
    ensure!(!choices.is_empty() && choices.iter().all(says_something), "its document says nothing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const ROLE: &str = "data: {\"id\":\"a\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    const TEXT: &str = "data: {\"id\":\"a\",\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
    const STOP: &str = "data: {\"id\":\"a\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const OPEN: &str = r#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]"#;

    fn frame(kind: FrameKind, tokens: u32, payload: &[u8]) -> Frame {
        Frame { kind, choice: 0, tokens, ids: Bytes::new(), payload: Bytes::copy_from_slice(payload) }
    }

    type Change = fn(&mut Vec<Frame>);

    /// Around these, an answer of a prompt of 7 tokens and of 2 tokens.
    fn answer(parts: &[(FrameKind, u32, &str)]) -> Vec<Frame> {
        let prompt = PromptCount { prompt_tokens: 7, cached_tokens: 0 };
        let delivered: String = parts.iter().map(|(_, _, text)| *text).collect();
        let claims = ReceiptClaims {
            weights_digest: String::new(),
            prompt_tokens: 7,
            cached_tokens: 0,
            completion_tokens: 2,
            delivered_sha256: Hash::of(delivered.as_bytes()),
        };
        let mut frames = vec![frame(FrameKind::Prompt, 0, &prompt.to_bytes())];
        frames.extend(parts.iter().map(|(kind, tokens, text)| frame(*kind, *tokens, text.as_bytes())));
        frames.push(frame(FrameKind::End, 2, b"stop"));
        frames.push(frame(FrameKind::Receipt, 2, serde_json::to_string(&claims).expect("claims").as_bytes()));
        frames
    }

    #[test]
    fn whole_answers_pass() {
        use FrameKind::{Body, Delta, Finish, Progress};
        let usage = Usage { prompt_tokens: 7, completion_tokens: 2 };
        let (begin, rest) = ([ROLE, TEXT].concat(), [TEXT, STOP].concat());
        let streamed = answer(&[(Delta, 1, &begin), (Finish, 2, &rest)]);
        assert_eq!(check(&streamed, true).expect("whole"), usage);
        let whole = answer(&[(Progress, 1, ""), (Body, 2, OPEN)]);
        assert_eq!(check(&whole, false).expect("whole"), usage);
        assert!(check(&streamed, false).is_err() && check(&whole, true).is_err(), "not what was asked for");
    }

    #[test]
    fn each_fault_is_found() {
        use FrameKind::{Body, Delta, Error, Finish, Progress};
        let whole = || answer(&[(Progress, 1, ""), (Body, 2, OPEN)]);
        let faults: [(&str, Change); 7] = [
            ("without its claims", |frames| drop(frames.pop())),
            ("without its end", |frames| drop(frames.remove(3))),
            ("without its prompt", |frames| drop(frames.remove(0))),
            ("an error", |frames| frames[2].kind = Error),
            ("fewer tokens", |frames| frames[1].tokens = 3),
            ("another count than claimed", |frames| frames[3..].iter_mut().for_each(|frame| frame.tokens = 3)),
            ("other bytes than claimed", |frames| frames[2].payload = Bytes::from_static(b"{")),
        ];
        for (what, fault) in faults {
            let mut frames = whole();
            fault(&mut frames);
            assert!(check(&frames, false).is_err(), "{what}");
        }
        assert!(check(&answer(&[(Body, 2, "{")]), false).is_err(), "no document");
        assert!(check(&answer(&[(Body, 2, r#"{"choices":[]"#)]), false).is_err(), "an empty document");
        assert!(check(&answer(&[(Delta, 2, &[ROLE, TEXT].concat())]), true).is_err(), "unfinished");
        assert!(check(&answer(&[(Finish, 2, &[ROLE, STOP].concat())]), true).is_err(), "an empty stream");
    }
}
