use serde_json::{Value, json};

use super::*;
use crate::error::InvalidRequest;

fn chat(more: Value) -> Result<Value, InvalidRequest> {
    let mut body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let chat = to_chat(body.to_string().as_bytes())?;
    crate::chat::ChatRequest::parse(&chat)?;
    Ok(serde_json::from_slice(&chat).expect("JSON"))
}

fn messages(messages: Value) -> Value {
    chat(json!({"messages": messages})).expect("chat")["messages"].take()
}

#[test]
fn text_comes_as_a_string_or_as_blocks() {
    let got = chat(
        json!({"system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}], "stop_sequences": ["."],
        "metadata": {"user_id": "u"}, "temperature": 0.5, "stream": true}),
    )
    .expect("chat");
    let written = json!([{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]);
    assert_eq!(
        got,
        json!({"model": "m", "max_tokens": 9, "messages": written, "stop": ["."], "user": "u", "temperature": 0.5, "stream": true})
    );
    assert_eq!(
        messages(
            json!([{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}])
        ),
        json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}])
    );
}

#[test]
fn calls_and_results_are_messages() {
    let got = messages(json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "so", "signature": "x"},
            {"type": "text", "text": "Let me see"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "1"}]},
            {"type": "text", "text": "Go on"},
        ]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c2", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c2", "content": "no", "is_error": true}]},
    ]));
    let call = |id: &str, arguments: &str| json!([{"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}}]);
    assert_eq!(
        got,
        json!([
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Let me see", "reasoning_content": "so", "tool_calls": call("c1", "{\"a\":1}")},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "user", "content": [{"type": "text", "text": "Go on"}]},
            {"role": "assistant", "content": null, "tool_calls": call("c2", "{}")},
            {"role": "tool", "tool_call_id": "c2", "content": "Error: no"},
        ])
    );
}

#[test]
fn tools_are_functions() {
    let tool = json!({"name": "f", "description": "d", "input_schema": {"type": "object"}});
    for (choice, expected) in [
        (json!({"type": "auto"}), json!("auto")),
        (json!({"type": "any"}), json!("required")),
        (json!({"type": "none"}), json!("none")),
        (json!({"type": "tool", "name": "f"}), json!({"type": "function", "function": {"name": "f"}})),
    ] {
        let got = chat(json!({"tools": [tool], "tool_choice": choice})).expect("chat");
        let function = json!({"name": "f", "description": "d", "parameters": {"type": "object"}});
        assert_eq!(got["tools"], json!([{"type": "function", "function": function}]));
        assert_eq!(got["tool_choice"], expected);
    }
    let single = json!({"tools": [tool], "tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
    assert_eq!(chat(single).expect("chat")["parallel_tool_calls"], json!(false));
}

#[test]
fn images_thinking_and_forms_are_translated() {
    let source = json!({"type": "base64", "media_type": "image/png", "data": "AAAA"});
    let got = messages(json!([{"role": "user", "content": [{"type": "image", "source": source}]}]));
    assert_eq!(got[0]["content"][0], json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}));
    for (thinking, effort) in [
        (json!({"type": "enabled", "budget_tokens": 1024}), json!("low")),
        (json!({"type": "enabled", "budget_tokens": 10000}), json!("medium")),
        (json!({"type": "enabled", "budget_tokens": 50000}), json!("high")),
        (json!({"type": "disabled"}), json!("none")),
    ] {
        assert_eq!(chat(json!({"thinking": thinking})).expect("chat")["reasoning_effort"], effort);
    }
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    let got = chat(json!({"output_config": {"format": format}})).expect("chat");
    assert_eq!(got["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
}

#[test]
fn what_is_not_offered_is_refused_by_its_own_name() {
    let image = |source| json!({"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]});
    for (more, param) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": [{"type": "document"}]}]}), "messages[0].content[0].type"),
        (image(json!({"type": "url", "url": "file:///etc/passwd"})), "messages[0].content[0].source.url"),
        (image(json!({"type": "file", "file_id": "file_1"})), "messages[0].content[0].source.type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}),
            "messages[0].content[0].tool_use_id",
        ),
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"top_k": 4}), "top_k"),
        (json!({"mcp_servers": []}), "mcp_servers"),
        (json!({"n": 2}), "n"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0].type"),
        (json!({"tools": [{"name": "f"}]}), "tools[0].input_schema"),
        (json!({"tool_choice": {"type": "all"}}), "tool_choice.type"),
        (json!({"stop_sequences": ["a", ""]}), "stop_sequences[1]"),
        (json!({"stop_sequences": ["a", "b", "c", "d", "e"]}), "stop_sequences"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
    ] {
        assert_eq!(chat(more.clone()).expect_err("an error").param.as_deref(), Some(param), "{more}");
    }
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}).to_string();
    assert!(to_chat(body.as_bytes()).is_err() && count_to_chat(body.as_bytes()).is_ok());
}
