//! Answers that are longer than a frame, or take longer than a first token may, come whole; those that are longer than any answer may be are refused.

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, Setup};

const VECTORS: &str = "lumbung/vectors";

#[tokio::test]
async fn many_vectors_come_though_they_are_longer_than_a_frame() {
    let network = Setup::new(Books::Sqlite).with_model(VECTORS, 100).start().await;
    let vectors = ProviderSetup::scripted(json!({"embedding_dimensions": 256, "context_length": 100})).model(VECTORS);
    let _vectors = network.provider(vectors).await;
    let client = network.client("1").await;
    let body = json!({"model": VECTORS, "input": vec!["one"; 2048]});
    let request = client.http.post(format!("{}/v1/embeddings", client.base)).bearer_auth(&client.key).json(&body);
    let list: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    let data = list["data"].as_array().expect("vectors");
    assert!(list.to_string().len() > 4 << 20, "or this shows nothing");
    assert_eq!((data.len(), &data[0]["embedding"]), (2048, &data[2047]["embedding"]));
    assert_eq!(list["usage"]["prompt_tokens"], 2048);
    network.finish().await;
}

#[tokio::test]
async fn an_answer_that_would_be_too_long_is_refused_and_nobody_is_blamed() {
    let network = Setup::new(Books::Sqlite).start().await;
    let word = format!(" {}", "x".repeat(64 << 10));
    let rules = json!([{"match": "at length", "tokens": 600, "word": word}, {"match": "*", "reply": "ok"}]);
    let _provider = network.scripted(rules).await;
    let client = network.client("1").await;
    let before = network.balance(&client.account).await;
    let response = client.post(Client::body("at length", json!({"max_tokens": 600})).to_string()).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.expect("JSON");
    assert_eq!((&error["error"]["code"], &error["error"]["param"]), (&json!("invalid_value"), &json!("max_tokens")));
    network.balance_becomes(&client.account, before).await;
    assert!(!network.gateway.log().contains("provider failed"), "{}", network.gateway.log());
    client.ask("hi", json!({})).await;
    network.finish().await;
}

#[tokio::test]
async fn vectors_that_take_longer_than_a_first_token_may_are_waited_for_while_they_are_made() {
    let network = Setup::new(Books::Sqlite)
        .with_model(VECTORS, 100)
        .with_gateway_flag("--first-token-timeout", "3s")
        .with_gateway_flag("--first-token-floor", "1s")
        .start()
        .await;
    let script = |ms: u32| json!({"embedding_dimensions": 8, "context_length": 100, "embedding_delay_ms": ms});
    let provider = network.provider(ProviderSetup::scripted(script(800)).model(VECTORS)).await;
    let client = network.client("1").await;
    let ask = async |inputs: usize| {
        let body = json!({"model": VECTORS, "input": vec!["one"; inputs]});
        let request = client.http.post(format!("{}/v1/embeddings", client.base)).bearer_auth(&client.key).json(&body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let (status, list) = ask(7).await;
    assert_eq!((status, list["data"].as_array().map(Vec::len)), (200, Some(7)), "{list}");
    drop(provider);
    let _stuck = network.provider(ProviderSetup::scripted(script(60_000)).model(VECTORS)).await;
    let (status, error) = ask(1).await;
    assert!(status >= 500, "nothing is made, and nothing is said: {error}");
    network.finish().await;
}
