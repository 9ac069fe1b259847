use serde_json::{Value, json};

use super::*;
use crate::engine::CallHead;
use crate::render::tests::{logprob, text, ticket};

fn response(stream: bool, logprobs: bool) -> Response {
    let body = br#"{"model":"m","input":"x"}"#;
    let ticket = Ticket { public_id: "resp_1".into(), ..ticket() };
    let envelope = Envelope::new(body, &ticket.public_id, ticket.created, &ticket.public_model).unwrap();
    Response::new(&ticket, envelope, stream, logprobs)
}

/// Events by type, and the whole object at the end of them.
fn play(response: &mut Response, events: Vec<Tokens>, reason: FinishReason) -> (Vec<Value>, Value) {
    let mut out = BytesMut::new();
    events.into_iter().for_each(|tokens| response.tokens(&mut out, tokens));
    response.finish(&mut out, 0, reason);
    let mut last = response.last().unwrap();
    if !response.stream {
        last.extend_from_slice(b",\"completed_at\":1,\"usage\":null}");
        return (Vec::new(), serde_json::from_slice(&last).unwrap());
    }
    last.extend_from_slice(b",\"completed_at\":1,\"usage\":null}}\n\n");
    out.extend_from_slice(&last);
    let events: Vec<Value> = std::str::from_utf8(&out).unwrap().split_terminator("\n\n").map(read_event).collect();
    let object = events.last().unwrap()["response"].clone();
    (events, object)
}

fn read_event(event: &str) -> Value {
    let (name, data) = event.split_once('\n').unwrap();
    let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(data["type"], name.strip_prefix("event: ").unwrap());
    data
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().strip_prefix("response.").unwrap()).collect()
}

fn call(call: u32, head: Option<(&str, &str)>, arguments: &str) -> Tokens {
    let head = head.map(|(id, name)| CallHead { id: id.into(), name: name.into() });
    Tokens { calls: vec![CallDelta { call, head, arguments: arguments.into() }], ..text(0, "") }
}

#[test]
fn text_is_told_piece_by_piece_and_numbered() {
    let (events, object) =
        play(&mut response(true, false), vec![text(0, "Hé"), text(0, ""), text(0, "!")], FinishReason::Stop);
    assert_eq!(
        kinds(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    );
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..10).collect::<Vec<u64>>());
    let part = json!({"type": "output_text", "text": "Hé!", "annotations": [], "logprobs": []});
    assert_eq!(
        object["output"],
        json!([{"id": "msg_10", "type": "message", "status": "completed", "role": "assistant", "content": [part]}])
    );
    assert_eq!((&object["status"], &object["incomplete_details"]), (&json!("completed"), &Value::Null));
    assert_eq!(
        (&events[4]["item_id"], &events[4]["content_index"], &events[4]["logprobs"]),
        (&json!("msg_10"), &json!(0), &json!([]))
    );
}

#[test]
fn reasoning_text_and_calls_are_items_in_their_order() {
    let thought = Tokens { reasoning: "so".into(), ..text(0, "") };
    let made = vec![
        thought,
        text(0, "Let me see"),
        call(0, Some(("c1", "f")), ""),
        call(0, None, "{\"a\":"),
        call(0, None, "1}"),
        call(1, Some(("c2", "g")), "{}"),
    ];
    let (events, object) = play(&mut response(true, false), made.clone(), FinishReason::ToolCalls);
    let types: Vec<&str> =
        object["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(
        object["output"][2],
        json!({"id": "fc_12", "type": "function_call", "status": "completed", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"})
    );
    assert_eq!(object["output"][0]["content"], json!([{"type": "reasoning_text", "text": "so"}]));
    let deltas: String = events
        .iter()
        .filter(|event| event["type"] == "response.function_call_arguments.delta" && event["output_index"] == 2)
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(deltas, "{\"a\":1}");
    let (_, whole) = play(&mut response(false, false), made, FinishReason::ToolCalls);
    assert_eq!(whole["output"], object["output"], "streamed or not");
}

#[test]
fn an_answer_that_is_cut_is_incomplete() {
    let (events, object) = play(&mut response(true, false), vec![text(0, "a")], FinishReason::Length);
    assert_eq!(kinds(&events).last(), Some(&"incomplete"));
    assert_eq!(object["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(object["output"][0]["status"], "incomplete");
    let (_, empty) = play(&mut response(false, false), vec![], FinishReason::Stop);
    assert_eq!(empty["output"][0]["content"][0]["text"], "");
}

#[test]
fn log_probabilities_go_with_their_text() {
    let made = vec![
        Tokens { logprobs: vec![logprob("a")], ..text(0, "") },
        Tokens { logprobs: vec![logprob("b")], ..text(0, "ab") },
        Tokens { logprobs: vec![logprob("c")], ..text(0, "") },
    ];
    let (events, object) = play(&mut response(true, true), made, FinishReason::Stop);
    let delta = events.iter().find(|event| event["type"] == "response.output_text.delta").unwrap();
    assert_eq!(delta["logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(object["output"][0]["content"][0]["logprobs"].as_array().unwrap().len(), 3);
}

#[test]
fn what_is_played_again_in_silence_leads_to_the_same_end() {
    let made: Vec<Tokens> = "one two three four".split_inclusive(' ').map(|word| text(0, word)).collect();
    let (whole, _) = play(&mut response(true, false), made.clone(), FinishReason::Stop);
    for cut in 0..made.len() {
        let (mut resumed, mut silence) = (response(true, false), BytesMut::new());
        made[..cut].iter().for_each(|tokens| resumed.tokens(&mut silence, tokens.clone()));
        let before = std::str::from_utf8(&silence).unwrap().split_terminator("\n\n").count();
        let (rest, _) = play(&mut resumed, made[cut..].to_vec(), FinishReason::Stop);
        assert_eq!(rest, whole[before..], "cut at {cut}");
    }
}
