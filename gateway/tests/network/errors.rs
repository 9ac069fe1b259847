//! Bad input and bad luck: the right status, OpenAI's shape, the parameter named; never a panic, a hang or a silent default.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, MODEL, Setup};

async fn refused(client: &Client, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let response = client.post(body).await;
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = response.json().await.expect("JSON");
    let error = body["error"].clone();
    assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
    assert!(error["code"].is_string() || error["code"].is_null(), "{body}");
    (status, error)
}

#[tokio::test]
async fn hostile_bodies_are_refused_by_name() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--max-body", "1000000").start().await;
    let provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;
    let client = network.client("1").await;
    let say = |more: Value| Client::body("x", more).to_string();
    let many = vec![json!({"role": "user", "content": "x"}); 10_000];
    for (body, status, param) in [
        ("".to_owned(), 400, None),
        ("{".to_owned(), 400, None),
        ("[1,2]".to_owned(), 400, None),
        ("nonsense".to_owned(), 400, None),
        (format!("{}garbage", say(json!({}))), 400, None),
        ("\u{0}".repeat(1000), 400, None),
        (say(json!({"messages": many})), 400, Some("messages")),
        (say(json!({"messages": [{"role": "wizard", "content": "x"}]})), 400, Some("messages[0].role")),
        (say(json!({"messages": [{"role": "user", "content": {"a": 1}}]})), 400, Some("messages[0].content")),
        (say(json!({"messages": 7})), 400, Some("messages")),
        (say(json!({"messages": []})), 400, Some("messages")),
        (say(json!({"model": 7})), 400, Some("model")),
        (say(json!({"temperature": 1e308})), 400, Some("temperature")),
        (say(json!({"temperature": "warm"})), 400, Some("temperature")),
        (say(json!({"max_tokens": -1})), 400, Some("max_tokens")),
        (say(json!({"max_tokens": 1.0e30})), 400, Some("max_tokens")),
        (say(json!({"n": 1_000_000})), 400, Some("n")),
        (say(json!({"stream": "yes"})), 400, Some("stream")),
        (say(json!({"tools": [{"type": "function", "function": {"name": "f"}}]})), 400, Some("tools")),
        (say(json!({"response_format": {"type": "json_object"}})), 400, Some("response_format")),
        (say(json!({"model": "no/such"})), 404, Some("model")),
        (say(json!({"user": "u".repeat(1_100_000)})), 413, None),
    ] {
        let shown: String = body.chars().take(80).collect();
        let (got, error) = refused(&client, body).await;
        assert_eq!((got, error["param"].as_str()), (status, param), "{shown}: {error}");
    }
    for path in ["/v1/receipts/", "/v1/models/", "/v1/responses/"] {
        for id in ["%ff", "a%00"] {
            let response = client.get(&format!("{path}{id}")).await;
            let status = response.status().as_u16();
            let body: Value = response.json().await.expect("JSON");
            assert_eq!((status, body["error"]["param"].as_str()), (400, Some("id")), "{path}{id}: {body}");
        }
    }
    let (status, _) = refused(&client, b"{\"model\":\"\xff\xfe\"}".to_vec()).await;
    assert_eq!(status, 400);
    let answer = client.ask("still there?", json!({})).await;
    assert_eq!(answer.choices[0].message.content.as_deref(), Some("ok"));
    assert!(!network.gateway.log().contains("panicked"));
    drop(provider);
    network.finish().await;
}

#[tokio::test]
async fn who_may_not_is_told_why() {
    let network = Setup::new(Books::Sqlite).with_model("lumbung/idle", 1000).start().await;
    let _provider = network
        .scripted(json!([
            {"match": "too long", "error": "invalid"},
            {"match": "*", "reply": "ok"}
        ]))
        .await;
    let client = network.client("1").await;
    let hello = || Client::body("hello", json!({})).to_string();

    let mut wrong = network.client("0").await;
    wrong.key = format!("{}x", client.key);
    let (status, error) = refused(&wrong, hello()).await;
    assert_eq!((status, error["code"].as_str()), (401, Some("invalid_api_key")));

    let poor = network.client("0").await;
    let response = poor.post(hello()).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-should-retry"]),
        (429, &"false".parse().expect("a value"))
    );
    assert_eq!(response.json::<Value>().await.expect("JSON")["error"]["code"], "insufficient_quota");

    let idle = client.post(Client::body("x", json!({"model": "lumbung/idle"})).to_string()).await;
    assert_eq!(idle.status(), 503);
    assert!(idle.headers().contains_key("retry-after"));

    for (path, status) in [("/v1/images/generations", 404), ("/v1/chat/completions", 405), ("/nonsense", 404)] {
        let response = client.get(path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        let body: Value = response.json().await.expect("JSON");
        assert!(body["error"]["message"].as_str().is_some_and(|message| message.contains(path)), "{body}");
        assert_eq!((&body["error"]["type"], &body["error"]["param"]), (&json!("invalid_request_error"), &Value::Null));
    }

    let keys = network.store.keys(Some(&client.account)).await.expect("keys");
    network.store.revoke_key(&keys[0].id).await.expect("revoked");
    let started = Instant::now();
    while client.post(hello()).await.status() != 401 {
        assert!(started.elapsed() < Duration::from_secs(2), "a revoked key still works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    network.finish().await;
}

#[tokio::test]
async fn when_every_slot_is_taken_requests_wait_in_line() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--queue-length", "3").start().await;
    let script = json!([{"match": "*", "tokens": 10, "delay_ms_per_token": 50}]);
    let _provider = network.provider(ProviderSetup::scripted(script).slots(1)).await;
    let client = std::sync::Arc::new(network.client("100").await);
    let mut asking = Vec::new();
    for _ in 0..4 {
        let client = client.clone();
        asking.push(tokio::spawn(async move {
            client.post(Client::body("x", json!({})).to_string()).await.status().as_u16()
        }));
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let (status, error) = refused(&client, Client::body("one too many", json!({})).to_string()).await;
    assert_eq!((status, error["code"].as_str()), (503, Some("all_busy")));
    for asked in asking {
        assert_eq!(asked.await.expect("no panic"), 200, "whoever waits in line is served");
    }
    network.finish().await;
}

#[tokio::test]
async fn secrets_and_prompts_are_in_no_log() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.scripted(json!([{"match": "*", "reply": "canary-answer"}])).await;
    let client = network.client("1").await;
    client.ask("canary-prompt", json!({})).await;
    client.stream("canary-prompt", json!({})).await;
    refused(&client, Client::body("canary-prompt", json!({"n": 99})).to_string()).await;
    refused(&client, "canary-prompt").await;
    provider.receipts_acknowledged().await;
    let logs = network.gateway.log() + &provider.process.log();
    assert!(logs.contains(MODEL), "the logs are there");
    for secret in ["canary-prompt", "canary-answer", client.key.as_str(), &client.key[8..30]] {
        assert!(!logs.contains(secret), "{secret} is in a log");
    }
    for entry in std::fs::read_dir(network.folder.path()).expect("the data folder").flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        for secret in ["canary-prompt", "canary-answer", client.key.as_str()] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", entry.path().display());
        }
    }
    network.finish().await;
}
