use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::reply::{ChatCompletion, ChatCompletionChunk};
use proptest::prelude::*;

use super::*;
use crate::engine::{CallDelta, CallHead};
use crate::render::tests::{logprob, text, ticket};

const PLAIN: Shape = Shape {
    endpoint: Endpoint::Chat,
    stream: true,
    choices: 1,
    include_usage: false,
    logprobs: false,
    may_call: false,
};

fn events(bytes: &[u8]) -> Vec<ChatCompletionChunk> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.is_empty() || text.ends_with("\n\n"), "whole events");
    text.split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

#[test]
fn a_stream_is_chunks_as_openai_sends_them() {
    let (mut chunks, mut out) = (Chunks::new(&ticket(), PLAIN), BytesMut::new());
    chunks.tokens(&mut out, text(0, "Say \"hi\"\n"));
    chunks.tokens(&mut out, text(0, ""));
    chunks.tokens(&mut out, text(0, "💡"));
    chunks.finish(&mut out, 0, FinishReason::Length);
    let first = std::str::from_utf8(&out).unwrap().split("\n\n").next().unwrap();
    assert_eq!(
        first,
        r#"data: {"id":"chatcmpl-\"1\"","object":"chat.completion.chunk","created":1700000000,"model":"org/modèle","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
    );
    let events = events(&out);
    let deltas: Vec<_> =
        events.iter().map(|e| (e.choices[0].delta.role.as_deref(), e.choices[0].delta.content.as_deref())).collect();
    assert_eq!(deltas, [(Some("assistant"), Some("")), (None, Some("Say \"hi\"\n")), (None, Some("💡")), (None, None)]);
    assert_eq!(events[3].choices[0].finish_reason.as_deref(), Some("length"));
    assert!(events[..3].iter().all(|event| event.choices[0].finish_reason.is_none()));
    assert!(events.iter().all(|e| e.id == "chatcmpl-\"1\"" && e.model == "org/modèle" && e.created == 1_700_000_000));
}

#[test]
fn usage_is_null_in_every_chunk_only_if_it_is_to_come() {
    for include_usage in [false, true] {
        let (mut chunks, mut out) = (Chunks::new(&ticket(), Shape { include_usage, ..PLAIN }), BytesMut::new());
        chunks.tokens(&mut out, text(0, "a"));
        chunks.finish(&mut out, 0, FinishReason::Stop);
        for event in std::str::from_utf8(&out).unwrap().split_terminator("\n\n") {
            assert_eq!(event.contains("\"usage\":null"), include_usage, "{event}");
        }
        assert_eq!(events(&out).len(), 3);
    }
}

#[test]
fn choices_begin_and_end_each_for_itself() {
    let (mut chunks, mut out) = (Chunks::new(&ticket(), Shape { choices: 2, ..PLAIN }), BytesMut::new());
    chunks.tokens(&mut out, text(1, "b"));
    chunks.tokens(&mut out, text(0, "a"));
    chunks.finish(&mut out, 1, FinishReason::Stop);
    chunks.finish(&mut out, 0, FinishReason::Stop);
    let seen: Vec<_> = events(&out).iter().map(|e| (e.choices[0].index, e.choices[0].delta.role.is_some())).collect();
    assert_eq!(seen, [(1, true), (1, false), (0, true), (0, false), (1, false), (0, false)]);
}

#[test]
fn log_probabilities_wait_for_their_text_and_none_is_lost() {
    let (mut chunks, mut out) = (Chunks::new(&ticket(), Shape { logprobs: true, ..PLAIN }), BytesMut::new());
    chunks.tokens(&mut out, Tokens { logprobs: vec![logprob("a")], ..text(0, "") });
    chunks.tokens(&mut out, Tokens { logprobs: vec![logprob("b")], ..text(0, "ab") });
    chunks.tokens(&mut out, Tokens { logprobs: vec![logprob("c")], ..text(0, "") });
    chunks.finish(&mut out, 0, FinishReason::Stop);
    let seen: Vec<(Option<String>, Vec<String>)> = events(&out)
        .into_iter()
        .map(|mut event| event.choices.remove(0))
        .map(|c| (c.delta.content, c.logprobs.unwrap_or_default().content.into_iter().map(|l| l.token).collect()))
        .collect();
    let expected = [(Some(""), vec![]), (Some("ab"), vec!["a", "b"]), (Some(""), vec!["c"]), (None, vec![])];
    let expected =
        expected.map(|(text, tokens)| (text.map(str::to_owned), tokens.into_iter().map(str::to_owned).collect()));
    assert_eq!(seen, expected);
}

#[test]
fn a_completion_lacks_only_its_usage_and_its_brace() {
    let mut completion = Completion::new(&ticket(), Shape { choices: 2, logprobs: true, ..PLAIN });
    let mut out = BytesMut::new();
    completion.tokens(&mut out, Tokens { logprobs: vec![logprob("a")], ..text(0, "a\u{0}\"") });
    completion.tokens(&mut out, text(1, "b"));
    completion.tokens(&mut out, text(0, "c"));
    completion.finish(&mut out, 0, FinishReason::Length);
    completion.finish(&mut out, 1, FinishReason::Stop);
    assert_eq!((out.len(), completion.kept()), (0, 5));
    let mut body = completion.body().to_vec();
    body.extend_from_slice(br#","usage":null}"#);
    let read: ChatCompletion = serde_json::from_slice(&body).unwrap();
    assert_eq!((read.object.as_str(), read.choices.len()), ("chat.completion", 2));
    assert_eq!(read.choices[0].message.content.as_deref(), Some("a\u{0}\"c"));
    assert_eq!(read.choices[0].logprobs.as_ref().unwrap().content.len(), 1);
    assert_eq!((read.choices[0].finish_reason.as_str(), read.choices[1].finish_reason.as_str()), ("length", "stop"));
    assert_eq!(read.choices[1].index, 1);
}

fn call(at: u32, head: Option<(&str, &str)>, arguments: &str) -> Tokens {
    let head = head.map(|(id, name)| CallHead { id: id.into(), name: name.into() });
    let delta = CallDelta { call: at, head, arguments: arguments.into() };
    Tokens { count: 1, calls: vec![delta], ..Default::default() }
}

/// Two calls, the second in several pieces.
fn calls() -> Vec<Tokens> {
    vec![
        call(0, Some(("call_a", "f")), "{}"),
        call(1, Some(("call_b", "g")), ""),
        call(1, None, "{\"x\":"),
        call(1, None, "\"é\"}"),
    ]
}

#[test]
fn calls_are_streamed_as_openai_streams_them() {
    let (mut chunks, mut out) = (Chunks::new(&ticket(), Shape { may_call: true, ..PLAIN }), BytesMut::new());
    calls().into_iter().for_each(|tokens| chunks.tokens(&mut out, tokens));
    chunks.finish(&mut out, 0, FinishReason::ToolCalls);
    let text = std::str::from_utf8(&out).unwrap();
    let deltas: Vec<serde_json::Value> = text
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .map(|chunk: serde_json::Value| chunk["choices"][0]["delta"].clone())
        .collect();
    let head = |at: u32, id: &str, name: &str| serde_json::json!({"tool_calls": [{"index": at, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}]});
    let more =
        |at: u32, text: &str| serde_json::json!({"tool_calls": [{"index": at, "function": {"arguments": text}}]});
    let expected = [
        serde_json::json!({"role": "assistant", "content": null}),
        head(0, "call_a", "f"),
        more(0, "{}"),
        head(1, "call_b", "g"),
        more(1, "{\"x\":"),
        more(1, "\"é\"}"),
        serde_json::json!({}),
    ];
    assert_eq!(deltas, expected);
    assert_eq!(events(&out)[6].choices[0].finish_reason.as_deref(), Some("tool_calls"));
}

#[test]
fn a_message_has_its_calls_and_no_text() {
    let mut completion = Completion::new(&ticket(), PLAIN);
    calls().into_iter().for_each(|tokens| completion.tokens(&mut BytesMut::new(), tokens));
    completion.finish(&mut BytesMut::new(), 0, FinishReason::ToolCalls);
    let read: serde_json::Value = serde_json::from_slice(&[&completion.body()[..], b"}"].concat()).unwrap();
    let call = |id: &str, name: &str, arguments: &str| serde_json::json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let message = serde_json::json!({"role": "assistant", "content": null, "refusal": null,
        "tool_calls": [call("call_a", "f", "{}"), call("call_b", "g", "{\"x\":\"é\"}")]});
    assert_eq!(read["choices"][0]["message"], message);
    assert_eq!(completion.kept(), 2 * 7 + 12, "ids, names and arguments");
}

#[test]
fn reasoning_goes_by_both_names_and_a_refusal_by_its_own() {
    let parts = || {
        let part = |reasoning: &str, text: &str, refusal: &str| Tokens {
            count: 1,
            reasoning: reasoning.into(),
            text: text.into(),
            refusal: refusal.into(),
            ..Default::default()
        };
        [part("so", "", ""), part("", "yes", ""), part("", "", "no")]
    };
    let (mut chunks, mut out) = (Chunks::new(&ticket(), PLAIN), BytesMut::new());
    parts().into_iter().for_each(|tokens| chunks.tokens(&mut out, tokens));
    let text = std::str::from_utf8(&out).unwrap();
    for delta in [r#"{"reasoning":"so","reasoning_content":"so"}"#, r#"{"content":"yes"}"#, r#"{"refusal":"no"}"#] {
        assert!(text.contains(&format!("\"delta\":{delta}")), "{text}");
    }
    let mut completion = Completion::new(&ticket(), PLAIN);
    parts().into_iter().for_each(|tokens| completion.tokens(&mut BytesMut::new(), tokens));
    let read: serde_json::Value = serde_json::from_slice(&[&completion.body()[..], b"}"].concat()).unwrap();
    let message = serde_json::json!({"role": "assistant", "content": "yes", "refusal": "no", "reasoning": "so", "reasoning_content": "so"});
    assert_eq!(read["choices"][0]["message"], message);
}

proptest! {
    #[test]
    fn any_text_arrives_as_it_was(parts in proptest::collection::vec(".*", 0..6)) {
        let (mut chunks, mut out) = (Chunks::new(&ticket(), PLAIN), BytesMut::new());
        let mut completion = Completion::new(&ticket(), PLAIN);
        for part in &parts {
            chunks.tokens(&mut out, text(0, part));
            completion.tokens(&mut out, text(0, part));
        }
        let whole = parts.concat();
        let streamed: String = events(&out).into_iter().filter_map(|mut e| e.choices.remove(0).delta.content).collect();
        prop_assert_eq!(&streamed, &whole);
        let read: ChatCompletion = serde_json::from_slice(&[&completion.body()[..], b"}"].concat()).unwrap();
        prop_assert_eq!(read.choices[0].message.content.as_deref(), Some(&*whole));
    }
}
