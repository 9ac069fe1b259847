//! The endpoints beside chat: each answers in its own shape, is metered and paid like a chat, and tells no by the
//! parameter's own name.

use lumbung_openapi::money::NanoUsd;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, MODEL, Network, Setup};

const VECTORS: &str = "lumbung/vectors";
const PATHS: [&str; 5] = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"];

async fn post(client: &Client, path: &str, body: &Value) -> (u16, String) {
    let request = client.http.post(format!("{}{path}", client.base)).bearer_auth(&client.key);
    let response = request.body(body.to_string()).send().await.expect("the gateway answers");
    let status = response.status().as_u16();
    (status, response.text().await.expect("a body"))
}

async fn document(client: &Client, path: &str, body: &Value) -> Value {
    let (status, text) = post(client, path, body).await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The data of every event, `[DONE]` left out.
async fn events(client: &Client, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    let (status, text) = post(client, path, &body).await;
    assert_eq!(status, 200, "{path}: {text}");
    assert!(text.ends_with("\n\n"), "the stream ended within an event");
    let data = |event: &str| event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
    let events = text.split_terminator("\n\n").map(|event| data(event).expect("data"));
    events.filter(|data| data != "[DONE]").map(|data| serde_json::from_str(&data).expect("JSON")).collect()
}

async fn network() -> (Network, crate::support::provider::Provider) {
    let network = Setup::new(Books::Sqlite).with_model(VECTORS, 100).start().await;
    let provider = network
        .scripted(json!([
            {"match": "break", "reply": "one two three", "fail_after": 2},
            {"match": "refuse", "error": "invalid"},
            {"match": "long", "tokens": 50, "prompt_tokens": 7},
            {"match": "*", "reply": "one two three END four", "prompt_tokens": 7, "cached_tokens": 2},
        ]))
        .await;
    (network, provider)
}

/// What the account pays for so many tokens at the test providers' asks.
fn cost(prompt: i64, completion: i64) -> NanoUsd {
    NanoUsd::from_nanos(prompt * 500 + completion * 2_000)
}

#[tokio::test]
async fn completions_go_on_from_prompts() {
    let (network, _provider) = network().await;
    let client = network.client("1").await;
    let before = network.balance(&client.account).await;
    let body = json!({"model": MODEL, "prompt": ["alpha", "beta"], "n": 2, "echo": true});
    let whole = document(&client, "/v1/completions", &body).await;
    assert_eq!((&whole["object"], &whole["model"]), (&json!("text_completion"), &json!(MODEL)));
    let texts: Vec<(u64, &str)> = whole["choices"]
        .as_array()
        .expect("choices")
        .iter()
        .map(|choice| (choice["index"].as_u64().expect("an index"), choice["text"].as_str().expect("text")))
        .collect();
    let said = [
        "alphaone two three END four",
        "alphaone two three END four",
        "betaone two three END four",
        "betaone two three END four",
    ];
    assert_eq!(texts, (0..).zip(said).collect::<Vec<_>>());
    assert_eq!((&whole["usage"]["prompt_tokens"], &whole["usage"]["completion_tokens"]), (&json!(7), &json!(20)));
    assert_eq!(whole["usage"]["cost"], 0.0000435);
    network.balance_becomes(&client.account, before.checked_sub(cost(7, 20)).expect("money")).await;

    let body = json!({"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 2, "stream_options": {"include_usage": true}, "stream": true});
    let chunks = events(&client, "/v1/completions", &body).await;
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "one two");
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks.last().expect("a chunk")["usage"]["completion_tokens"], 2);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "text_completion"));
    network.finish().await;
}

#[tokio::test]
async fn responses_are_items_and_numbered_events() {
    let (network, _provider) = network().await;
    let client = network.client("1").await;
    let before = network.balance(&client.account).await;
    let body = json!({"model": MODEL, "input": "hello", "instructions": "Be brief", "metadata": {"k": "v"}});
    let whole = document(&client, "/v1/responses", &body).await;
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["store"]),
        (&json!("response"), &json!("completed"), &json!(false))
    );
    assert_eq!(whole["output"][0]["content"][0]["text"], "one two three END four");
    assert_eq!((&whole["instructions"], &whole["metadata"]), (&json!("Be brief"), &json!({"k": "v"})));
    let usage = json!({"input_tokens": 7, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 12, "cost": 0.0000135});
    assert_eq!(whole["usage"], usage);
    network.balance_becomes(&client.account, before.checked_sub(cost(7, 5)).expect("money")).await;

    let events = events(&client, "/v1/responses", &body).await;
    let numbers: Vec<u64> = events.iter().map(|event| event["sequence_number"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let last = &events.last().expect("an event")["response"];
    assert_eq!(
        (&last["status"], &last["usage"], &last["output"][0]["content"]),
        (&json!("completed"), &usage, &whole["output"][0]["content"])
    );
    let receipt = client.receipt(last["id"].as_str().expect("an id")).await;
    assert_eq!(receipt["id"], last["id"]);

    let broken = self::events(&client, "/v1/responses", &json!({"model": MODEL, "input": "break"})).await;
    let last = broken.last().expect("an event");
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["sequence_number"], broken.len() - 1);
    let cut =
        document(&client, "/v1/responses", &json!({"model": MODEL, "input": "long", "max_output_tokens": 3})).await;
    assert_eq!(
        (&cut["status"], &cut["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    network.finish().await;
}

#[tokio::test]
async fn messages_are_blocks_in_anthropics_shape() {
    let (network, _provider) = network().await;
    let client = network.client("1").await;
    let before = network.balance(&client.account).await;
    let ask = |text: &str| json!({"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": text}]});
    let whole = document(&client, "/v1/messages", &ask("hello")).await;
    assert_eq!(whole["content"], json!([{"type": "text", "text": "one two three END four"}]));
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("end_turn"))
    );
    let usage =
        json!({"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 5});
    assert_eq!(whole["usage"], usage);
    network.balance_becomes(&client.account, before.checked_sub(cost(7, 5)).expect("money")).await;

    let mut stopped = ask("hello");
    stopped["stop_sequences"] = json!(["nothing", "END"]);
    let events = events(&client, "/v1/messages", &stopped).await;
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, "one two three ");
    assert_eq!(events[events.len() - 2]["delta"], json!({"stop_reason": "stop_sequence", "stop_sequence": "END"}));

    let broken = self::events(&client, "/v1/messages", &ask("break")).await;
    assert_eq!(broken.last().expect("an event")["error"]["type"], "api_error");
    let (status, text) = post(&client, "/v1/messages", &json!({"model": MODEL, "messages": []})).await;
    let error: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (status, &error["type"], &error["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    assert!(error["error"]["message"].as_str().expect("a message").contains("max_tokens"), "{error}");
    // Anthropic's clients send the key in a header of its own.
    let asked = client.http.post(format!("{}/v1/messages", client.base)).body(ask("hello").to_string());
    let without = asked.try_clone().expect("a request").send().await.expect("an answer");
    assert_eq!(without.status(), 401);
    assert_eq!(without.json::<Value>().await.expect("JSON")["error"]["type"], "authentication_error");
    assert_eq!(asked.header("x-api-key", &client.key).send().await.expect("an answer").status(), 200);
    let counted = post(&client, "/v1/messages/count_tokens", &ask("hello")).await;
    assert_eq!(counted.0, 400, "no tokenizer is known: {}", counted.1);
    assert!(counted.1.contains("tokenizer_not_known"), "{}", counted.1);
    network.finish().await;
}

#[tokio::test]
async fn an_answer_goes_on_at_another_provider_in_its_own_shape() {
    let network = Setup::new(Books::Sqlite).start().await;
    let script = |more: Value| {
        let mut rule = json!({"match": "*", "reply": "one two three four five", "delay_ms_per_token": 5});
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"weights_digest": "sha256:same", "quantization": "f32", "rules": [rule]})
    };
    let failing = ProviderSetup::scripted(script(json!({"fail_after": 2}))).ask("0.10", "1");
    let _failing = network.provider(failing).await;
    let client = network.client("1").await;
    let ask = |path: &str| match path {
        "/v1/completions" => json!({"model": MODEL, "prompt": "x"}),
        "/v1/responses" => json!({"model": MODEL, "input": "x"}),
        _ => json!({"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": "x"}]}),
    };
    let _whole = network.provider(ProviderSetup::scripted(script(json!({})))).await;
    crate::support::process::wait_until("both serve", std::time::Duration::from_secs(10), async || {
        let listed: Value = client.get(&format!("/v1/models/{MODEL}")).await.json().await.expect("JSON");
        listed["providers"] == 2
    })
    .await;
    for path in ["/v1/completions", "/v1/responses", "/v1/messages"] {
        let events = events(&client, path, &ask(path)).await;
        let text: String = events
            .iter()
            .filter_map(|event| match path {
                "/v1/completions" => event["choices"][0]["text"].as_str(),
                "/v1/responses" => event["delta"].as_str(),
                _ => event["delta"]["text"].as_str(),
            })
            .collect();
        assert_eq!(text, "one two three four five", "{path}: {events:?}");
        if path == "/v1/responses" {
            let numbers: Vec<u64> = events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect();
            assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
            let last = &events.last().expect("an event")["response"];
            assert_eq!((&last["status"], &last["usage"]["output_tokens"]), (&json!("completed"), &json!(5)));
            assert_eq!(last["output"][0]["content"][0]["text"], "one two three four five");
        }
    }
    network.finish().await;
}

#[tokio::test]
async fn embeddings_cost_their_prompt_alone() {
    let (network, _provider) = network().await;
    let vectors = ProviderSetup::scripted(json!({"embedding_dimensions": 8, "context_length": 100})).model(VECTORS);
    let _vectors = network.provider(vectors).await;
    let client = network.client("1").await;
    let before = network.balance(&client.account).await;
    let body = json!({"model": VECTORS, "input": ["one two", "three"]});
    let list = document(&client, "/v1/embeddings", &body).await;
    assert_eq!((&list["object"], &list["model"]), (&json!("list"), &json!(VECTORS)));
    assert_eq!(list["data"][1]["embedding"].as_array().expect("a vector").len(), 8);
    assert_eq!(list["usage"], json!({"prompt_tokens": 3, "total_tokens": 3, "cost": 0.0000015}));
    network.balance_becomes(&client.account, before.checked_sub(cost(3, 0)).expect("money")).await;
    let packed = json!({"model": VECTORS, "input": "one two", "encoding_format": "base64", "dimensions": 2});
    let packed = document(&client, "/v1/embeddings", &packed).await;
    assert_eq!(packed["data"][0]["embedding"].as_str().map(str::len), Some(12), "two floats in base64");
    let listed: Value = client.get(&format!("/v1/models/{VECTORS}")).await.json().await.expect("JSON");
    assert_eq!(listed["pricing"], json!({"prompt": "0.0000005", "completion": "0.000002"}));
    assert_eq!(listed["supported_parameters"], json!(["input", "dimensions"]));
    assert_eq!((&listed["context_length"], &listed["providers"]), (&json!(100), &json!(1)));
    assert_eq!(listed["quantizations"], json!(["unknown"]));
    for (body, param) in [
        (json!({"model": VECTORS, "input": "x", "dimensions": 9}), "dimensions"),
        (json!({"model": VECTORS, "input": "x ".repeat(101)}), "input"),
        (json!({"model": MODEL, "input": "x"}), "model"),
    ] {
        let (status, text) = post(&client, "/v1/embeddings", &body).await;
        let error: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some(param)), "{text}");
    }
    let (status, text) = post(
        &client,
        "/v1/chat/completions",
        &json!({"model": VECTORS, "messages": [{"role": "user", "content": "x"}]}),
    )
    .await;
    assert_eq!(status, 400, "{text}");
    network.finish().await;
}

#[tokio::test]
async fn what_is_asked_too_much_is_named_at_every_endpoint() {
    let (network, _provider) = network().await;
    let client = network.client("1").await;
    for (path, body, param) in [
        ("/v1/completions", json!({"prompt": "x", "suffix": "y"}), "suffix"),
        ("/v1/completions", json!({"prompt": "x", "best_of": 3}), "best_of"),
        ("/v1/completions", json!({"prompt": "x", "logprobs": 1}), "logprobs"),
        ("/v1/completions", json!({"messages": []}), "prompt"),
        ("/v1/responses", json!({"input": "x", "store": true}), "store"),
        ("/v1/responses", json!({"input": "x", "previous_response_id": "resp_1"}), "previous_response_id"),
        ("/v1/responses", json!({"input": "x", "max_output_tokens": 0}), "max_output_tokens"),
        ("/v1/responses", json!({"input": "x", "text": {"format": {"type": "json_object"}}}), "text.format"),
        ("/v1/responses", json!({"input": "x", "reasoning": {"effort": "low"}}), "reasoning.effort"),
        ("/v1/responses", json!({"input": "refuse"}), "input"),
        ("/v1/messages", json!({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "top_k": 3}), "top_k"),
        ("/v1/messages", json!({"max_tokens": 1, "messages": [{"role": "user", "content": "refuse"}]}), "messages"),
        (
            "/v1/messages",
            json!({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}],
            "thinking": {"type": "enabled", "budget_tokens": 2000}}),
            "thinking",
        ),
    ] {
        let mut body = body;
        body["model"] = MODEL.into();
        let (status, text) = post(&client, path, &body).await;
        let error: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some(param)), "{path} {body}: {text}");
    }
    network.finish().await;
}

/// A small generator of bodies that are almost right: of each member's value now and then another kind of value.
struct Hostile(u64);

impl Hostile {
    fn next(&mut self, below: usize) -> usize {
        // xorshift64*: any bits will do, and the same on every run
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.next(if depth == 0 { 9 } else { 13 }) {
            0 => Value::Null,
            1 => true.into(),
            2 => json!(-1),
            3 => json!(1e308),
            4 => json!("x"),
            5 => json!("\u{0}\u{FFFF}é"),
            6 => json!([]),
            7 => json!({}),
            8 => json!(u64::MAX),
            9 => json!([self.value(depth - 1), self.value(depth - 1)]),
            10 => json!({"type": self.value(depth - 1), "content": self.value(depth - 1), "role": "user"}),
            11 => json!({"name": self.value(depth - 1), "text": self.value(depth - 1)}),
            _ => json!({"type": "text", "text": self.value(depth - 1), "function": self.value(depth - 1)}),
        }
    }
}

const MEMBERS: [&str; 44] = [
    "messages",
    "prompt",
    "input",
    "max_tokens",
    "max_output_tokens",
    "max_completion_tokens",
    "n",
    "stop",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "text",
    "reasoning",
    "reasoning_effort",
    "thinking",
    "system",
    "instructions",
    "metadata",
    "include",
    "truncation",
    "store",
    "echo",
    "suffix",
    "best_of",
    "encoding_format",
    "dimensions",
    "stream_options",
    "user",
    "service_tier",
    "provider",
    "output_config",
    "chat_template_kwargs",
    "previous_response_id",
    "background",
    "modalities",
];

#[tokio::test]
async fn no_body_makes_the_gateway_fail() {
    let (network, _provider) = network().await;
    let client = network.client("5").await;
    let rounds = if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { 5_000 } else { 400 };
    let mut hostile = Hostile(0x1DEA_5EED);
    for round in 0..rounds {
        let path = PATHS[round % PATHS.len()];
        let mut body = json!({"model": MODEL, "max_tokens": 2, "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]});
        match path {
            "/v1/chat/completions" | "/v1/completions" => {
                drop(body.as_object_mut().expect("an object").remove("input"))
            }
            "/v1/responses" => {
                let body = body.as_object_mut().expect("an object");
                ["messages", "prompt", "max_tokens"].iter().for_each(|name| drop(body.remove(*name)));
            }
            _ => {}
        }
        for _ in 0..=hostile.next(3) {
            let member = MEMBERS[hostile.next(MEMBERS.len())];
            body[member] = hostile.value(3);
        }
        let asked = tokio::time::timeout(std::time::Duration::from_secs(20), post(&client, path, &body)).await;
        let (status, text) = asked.unwrap_or_else(|_| panic!("{path} hangs: {body}"));
        assert!(status < 500, "{path} {body}: {status} {text}");
        if status != 200 {
            let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path} {body}: {text}"));
            let param = &error["error"]["param"];
            assert!(status != 400 || param.is_string(), "{path} {body}: no parameter is named: {text}");
        }
    }
    assert!(!network.gateway.log().contains("panicked"));
    network.finish().await;
}
