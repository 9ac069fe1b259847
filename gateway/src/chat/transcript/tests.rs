use bytes::Bytes;

use super::*;

fn frame(kind: FrameKind, payload: &str) -> Frame {
    Frame { kind, choice: 0, tokens: 0, ids: Bytes::new(), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

fn heard(frames: &[(FrameKind, &str)]) -> Option<Vec<Said>> {
    heard_at(Endpoint::Chat, frames)
}

fn heard_at(endpoint: Endpoint, frames: &[(FrameKind, &str)]) -> Option<Vec<Said>> {
    let mut transcript = Transcript::new(endpoint);
    let frames = frames.iter().chain([&(FrameKind::End, "stop")]);
    frames.for_each(|(kind, payload)| transcript.take(&frame(*kind, payload)));
    transcript.into_choices()
}

#[test]
fn a_stream_is_put_together_however_it_is_cut() {
    let stream = ": keep-alive\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n\
        data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"\\u0061b\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hé\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"so\",\"reasoning_content\":\"so\"}}]}\n\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let first =
        Said {
            content: "Hé".into(), reasoning: "so".into(), finish_reason: Some("stop".into()), ..Default::default()
        };
    let second = Said { content: "ab".into(), ..Default::default() };
    let whole = heard(&[(FrameKind::Delta, stream)]);
    assert_eq!(whole, Some(vec![first, second]));
    for cut in (1..stream.len()).filter(|cut| stream.is_char_boundary(*cut)) {
        assert_eq!(heard(&[(FrameKind::Delta, &stream[..cut]), (FrameKind::Delta, &stream[cut..])]), whole);
    }
}

#[test]
fn a_whole_answer_is_read_without_its_end() {
    let body = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[
        {"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},"finish_reason":"tool_calls"}]"#;
    let said = Said {
        calls: "f{\"a\":1}".into(),
        call_count: 1,
        finish_reason: Some("tool_calls".into()),
        ..Default::default()
    };
    assert_eq!(heard(&[(FrameKind::Progress, ""), (FrameKind::Body, body)]), Some(vec![said]));
}

#[test]
fn a_whole_answer_may_come_in_pieces_and_one_that_was_left_unfinished_does_not_count() {
    let body = r#"{"id":"x","choices":[{"index":0,"message":{"content":"Padi"},"finish_reason":"stop"}]"#;
    let (first, second) = body.split_at(30);
    let said = vec![Said { content: "Padi".into(), finish_reason: Some("stop".into()), ..Default::default() }];
    let pieces = [(FrameKind::Body, first), (FrameKind::Body, second)];
    assert_eq!(heard(&pieces), Some(said.clone()));
    let again =
        [(FrameKind::Body, first), (FrameKind::Progress, ""), (FrameKind::Body, first), (FrameKind::Body, second)];
    assert_eq!(heard(&again), Some(said));
    let mut unfinished = Transcript::new(Endpoint::Chat);
    unfinished.take(&frame(FrameKind::Body, first));
    assert_eq!(unfinished.into_choices(), None);
}

#[test]
fn what_cannot_be_read_is_nothing() {
    assert_eq!(heard(&[(FrameKind::Progress, "")]), None);
    assert_eq!(heard(&[(FrameKind::Body, "{\"choices\":[")]), Some(vec![]));
    assert_eq!(heard(&[(FrameKind::Delta, "data: {\"choices\":7}\n\n")]), Some(vec![]));
    let beyond = "data: {\"choices\":[{\"index\":999999999,\"delta\":{\"content\":\"x\"}}]}\n\n";
    assert_eq!(heard(&[(FrameKind::Delta, beyond)]), Some(vec![]));
    let mut transcript = Transcript::new(Endpoint::Chat);
    let long = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(MAX_KEPT / 2)
    );
    (0..3).for_each(|_| transcript.take(&frame(FrameKind::Delta, &long)));
    assert_eq!(transcript.into_choices().map(|choices| choices[0].content.len()), Some(MAX_KEPT));
}

#[test]
fn texts_of_completions_are_told_by_prompt() {
    let stream = "data: {\"choices\":[{\"index\":3,\"text\":\"a\",\"finish_reason\":null}]}\n\n\
        data: {\"choices\":[{\"index\":3,\"text\":\"b\",\"finish_reason\":\"length\"}]}\n\n";
    let said = heard_at(Endpoint::Completions, &[(FrameKind::Delta, stream)]).expect("text");
    assert_eq!((said[3].content.as_str(), said[3].finish_reason.as_deref()), ("ab", Some("length")));
}

#[test]
fn responses_say_the_same_streamed_or_not() {
    let stream = "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"message\"}}\n\n\
        event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hé\"}\n\n\
        event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"Hé\"}\n\n\
        event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"function_call\",\"name\":\"f\"}}\n\n\
        event: response.function_call_arguments.delta\ndata: {\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{}\"}\n\n";
    let last = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[]";
    let said = Said {
        content: "Hé".into(),
        calls: "f{}".into(),
        call_count: 1,
        finish_reason: Some("tool_calls".into()),
        ..Default::default()
    };
    let frames = [(FrameKind::Delta, stream), (FrameKind::Body, last)];
    assert_eq!(heard_at(Endpoint::Responses, &frames), Some(vec![said.clone()]));
    let whole = r#"{"object":"response","status":"completed","output":[
        {"type":"message","content":[{"type":"output_text","text":"Hé"}]},
        {"type":"function_call","name":"f","arguments":"{}"}]"#;
    assert_eq!(heard_at(Endpoint::Responses, &[(FrameKind::Body, whole)]), Some(vec![said]));
}

#[test]
fn messages_say_the_same_streamed_or_not() {
    let stream = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hé\"}}\n\n\
        event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\",\"name\":\"f\",\"input\":{}}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n";
    let last = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}";
    let said = Said {
        content: "Hé".into(),
        calls: "f{}".into(),
        call_count: 1,
        finish_reason: Some("tool_calls".into()),
        ..Default::default()
    };
    let frames = [(FrameKind::Delta, stream), (FrameKind::Body, last)];
    assert_eq!(heard_at(Endpoint::Messages, &frames), Some(vec![said.clone()]));
    let whole = r#"{"type":"message","content":[{"type":"text","text":"Hé"},{"type":"tool_use","name":"f","input":{}}],
        "stop_reason":"tool_use""#;
    assert_eq!(heard_at(Endpoint::Messages, &[(FrameKind::Body, whole)]), Some(vec![said]));
}
