//! Calls, reasoning and log-probabilities, from an engine's events to the client's bytes.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, Setup};

fn script() -> Value {
    json!({
        "supported_parameters": ["max_tokens", "temperature", "tools", "tool_choice", "parallel_tool_calls", "logprobs", "top_logprobs", "reasoning_effort", "n"],
        "rules": [{
            "match": "*", "reasoning": "let me see", "reply": "I ask.", "prompt_tokens": 9,
            "calls": [{"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}, {"name": "now", "arguments": "{}"}]
        }]
    })
}

fn tools() -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    json!({"tools": [tool("get_weather"), tool("now")], "logprobs": true, "top_logprobs": 1, "reasoning_effort": "low"})
}

#[tokio::test]
async fn calls_and_reasoning_reach_the_client_and_are_counted() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.provider(ProviderSetup::scripted(script())).await;
    let client = network.client("1").await;

    let answer = client.ask("weather", tools()).await;
    let message = &answer.choices[0].message;
    assert_eq!((message.content.as_deref(), message.reasoning.as_deref()), (Some("I ask."), Some("let me see")));
    assert_eq!(message.reasoning_content, message.reasoning);
    let calls = message.tool_calls.as_ref().expect("calls");
    let calls: Vec<_> = calls.iter().map(|call| (&*call.function.name, &*call.function.arguments)).collect();
    assert_eq!(calls, [("get_weather", "{\"city\": \"Paris\"}"), ("now", "{}")]);
    assert_eq!(answer.choices[0].finish_reason, "tool_calls");
    assert_eq!(answer.choices[0].logprobs.as_ref().map(|logprobs| logprobs.content.len()), Some(8));
    let usage = answer.usage.expect("usage");
    assert_eq!((usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens), (8, 3));

    let streamed = client.stream("weather", tools()).await;
    assert!(streamed.done && streamed.error.is_none());
    assert_eq!((streamed.text.as_str(), streamed.usage), ("I ask.", Some(usage)));

    let many = client.ask("weather", json!({"n": 4})).await;
    let usage = many.usage.expect("usage");
    assert_eq!(
        (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens),
        (32, 12),
        "n = 4 is the sum"
    );
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn what_no_provider_can_do_is_refused_by_name() {
    let network = Setup::new(Books::Sqlite).start().await;
    let plain = json!([{"match": "*", "reply": "Hello"}]);
    let _provider = network.provider(ProviderSetup::scripted(plain)).await;
    let client = network.client("1").await;
    for (more, param) in [
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools"),
        (json!({"reasoning_effort": "high"}), "reasoning_effort"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
    ] {
        let response = client.post(Client::body("hi", more).to_string()).await;
        assert_eq!(response.status(), 400, "{param}");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["param"], param);
    }
    network.finish().await;
}
