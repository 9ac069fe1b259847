use serde_json::{Value, json};

use super::*;
use crate::error::InvalidRequest;

fn chat(more: Value) -> Result<Value, InvalidRequest> {
    let mut body = json!({"model": "m"});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let chat = to_chat(body.to_string().as_bytes())?;
    crate::chat::ChatRequest::parse(&chat)?;
    Ok(serde_json::from_slice(&chat).expect("JSON"))
}

fn refused(more: Value) -> Option<String> {
    chat(more).expect_err("an error").param
}

#[test]
fn text_is_a_message_of_the_user() {
    let got =
        chat(json!({"input": "Hi", "instructions": "Be kind", "max_output_tokens": 9, "top_k": 4})).expect("chat");
    let messages = json!([{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]);
    assert_eq!(got, json!({"model": "m", "messages": messages, "max_completion_tokens": 9, "top_k": 4}));
}

#[test]
fn an_assistants_items_are_one_message() {
    let got = chat(json!({"input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "Let me see", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{\"a\":1}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
    ]}))
    .expect("chat");
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        got["messages"],
        json!([
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Let me see"}], "reasoning_content": "so",
             "tool_calls": [call("c1", "f", "{}"), call("c2", "g", "{\"a\":1}")]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
        ])
    );
}

#[test]
fn tools_and_forms_go_one_level_deeper() {
    let f = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true});
    let g = json!({"type": "function", "name": "g"});
    let got = chat(json!({
        "input": "x", "tools": [f, g], "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": true}},
        "reasoning": {"effort": "low", "summary": "auto"}, "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    }))
    .expect("chat");
    assert_eq!(
        got["tools"][0],
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": true}})
    );
    assert_eq!(got["tool_choice"], json!({"type": "function", "function": {"name": "f"}}));
    assert_eq!(
        got["response_format"]["json_schema"],
        json!({"name": "s", "schema": {"type": "object"}, "strict": true})
    );
    assert_eq!(
        (&got["reasoning_effort"], &got["logprobs"], &got["top_logprobs"]),
        (&json!("low"), &json!(true), &json!(2))
    );
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]});
    let got = chat(json!({"input": "x", "tools": [f, g], "tool_choice": allowed})).expect("chat");
    assert_eq!(
        (&got["tools"], &got["tool_choice"]),
        (&json!([{"type": "function", "function": {"name": "g"}}]), &json!("required"))
    );
}

#[test]
fn pictures_sounds_and_documents_go_on_as_they_came() {
    let (image, audio) = ("data:image/png;base64,iVBOR+/=", json!({"data": "UklGRg==", "format": "wav"}));
    let got = chat(json!({"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": image, "detail": "high"},
        {"type": "input_audio", "input_audio": audio},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
    ]}]}));
    let expected = json!([
        {"type": "image_url", "image_url": {"url": image, "detail": "high"}},
        {"type": "input_audio", "input_audio": audio},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
    ]);
    assert_eq!(got.expect("chat")["messages"][0]["content"], expected);
    for (part, name) in [
        (json!({"type": "input_image"}), "image_url"),
        (json!({"type": "input_image", "file_id": "file-1"}), "file_id"),
        (json!({"type": "input_image", "image_url": "file:///etc/passwd"}), "image_url"),
        (json!({"type": "input_file", "file_id": "file-1"}), "file_id"),
        (json!({"type": "input_file", "file_url": "https://example.org/a.pdf"}), "file_url"),
        (json!({"type": "input_file", "filename": "a.pdf"}), "file_data"),
        (json!({"type": "input_audio", "input_audio": {"data": "x"}}), "input_audio.format"),
    ] {
        let refused = refused(json!({"input": [{"role": "user", "content": [part]}]}));
        assert_eq!(refused, Some(format!("input[0].content[0].{name}")));
    }
}

#[test]
fn what_is_not_offered_is_refused_by_its_own_name() {
    for (more, param) in [
        (json!({}), "input"),
        (json!({"input": 7}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"role": "tool", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"role": "user", "content": [{"type": "video"}]}]}), "input[0].content[0].type"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0].type"),
        (json!({"input": "x", "store": "yes"}), "store"),
        (json!({"input": "x", "previous_response_id": 7}), "previous_response_id"),
        (json!({"input": "x", "background": true}), "background"),
        (json!({"input": "x", "conversation": "c"}), "conversation"),
        (json!({"input": "x", "truncation": "auto"}), "truncation"),
        (json!({"input": "x", "tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"input": "x", "tool_choice": "any"}), "tool_choice"),
        (json!({"input": "x", "n": 2}), "n"),
        (json!({"input": "x", "max_output_tokens": 0}), "max_output_tokens"),
        (json!({"input": "x", "reasoning": {"summary": "detailed"}}), "reasoning.summary"),
        (json!({"input": "x", "include": ["file_search_call.results"]}), "include[0]"),
        (json!({"input": "x", "text": {"format": {"type": "grammar"}}}), "text.format.type"),
    ] {
        assert_eq!(refused(more.clone()).as_deref(), Some(param), "{more}");
    }
    assert!(chat(json!({"input": "x", "store": null, "previous_response_id": null, "truncation": "disabled"})).is_ok());
}

#[test]
fn a_request_that_was_written_on_many_lines_is_told_on_one() {
    let body = json!({
        "model": "m", "input": "x", "metadata": {"a": "b"}, "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}],
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}}
    });
    let open = |body: String| {
        Envelope::new(body.as_bytes(), "resp_1", 7, "m").expect("an envelope").open(State::InProgress, "[]")
    };
    let pretty = open(serde_json::to_string_pretty(&body).expect("JSON").replace('\n', "\r\n\r\n"));
    assert!(!pretty.contains(['\r', '\n']), "{pretty}");
    let read = |open: &str| serde_json::from_str::<Value>(&format!("{open}}}")).expect("JSON");
    assert_eq!(read(&pretty), read(&open(body.to_string())));
}

#[test]
fn the_object_has_all_that_open_responses_requires() {
    let body = json!({"model": "m", "input": "x", "tools": [{"type": "function", "name": "f"}], "temperature": 0.5});
    let envelope = Envelope::new(body.to_string().as_bytes(), "resp_1", 7, "m").expect("an envelope");
    let object: Value = serde_json::from_str(&format!(
        "{},\"completed_at\":null,\"usage\":null}}",
        envelope.open(State::Incomplete("max_output_tokens"), "[]")
    ))
    .expect("JSON");
    for name in [
        "id",
        "object",
        "created_at",
        "completed_at",
        "status",
        "incomplete_details",
        "model",
        "previous_response_id",
        "instructions",
        "output",
        "error",
        "tools",
        "tool_choice",
        "truncation",
        "parallel_tool_calls",
        "text",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "temperature",
        "reasoning",
        "usage",
        "max_output_tokens",
        "max_tool_calls",
        "store",
        "background",
        "service_tier",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "access_programs",
    ] {
        assert!(object.get(name).is_some(), "{name}");
    }
    assert_eq!(
        object["tools"],
        json!([{"type": "function", "name": "f", "description": null, "parameters": null, "strict": null}])
    );
    assert_eq!((&object["temperature"], &object["status"]), (&json!(0.5), &json!("incomplete")));
    assert_eq!(object["incomplete_details"], json!({"reason": "max_output_tokens"}));
}
