//! An answer that its provider leaves unfinished is continued at the endpoints beside chat, too: byte for byte.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::{Books, Network, Setup};

const BUNDLED: &str = "lumbung/padi";
const QUESTION: &str = "Tell me about rice.";
/// What a provider asks that is to be chosen first.
const LESS: (&str, &str) = ("0.01", "0.02");
const TOKENS: u32 = 32;

/// After which of its tokens a provider dies.
fn cuts() -> Vec<u32> {
    match std::env::var_os("LUMBUNG_TEST_FULL") {
        Some(_) => (1..TOKENS).collect(),
        None => vec![1, 17],
    }
}

/// Further providers of the bundled model, one that dies after so many tokens.
async fn dying(network: &Network, tokens: u32) -> Provider {
    let setup = ProviderSetup::bundled(BUNDLED).ask(LESS.0, LESS.1);
    let provider = network.provider(setup.flag("--test-die-after-tokens", &tokens.to_string())).await;
    let id = provider.status()["provider"].as_str().expect("an id").to_owned();
    wait_until("its offer is known", Duration::from_secs(10), async || {
        network.gateway.log().lines().any(|line| line.contains("offer") && line.contains(&id))
    })
    .await;
    provider
}

/// The answer's bytes, without what differs from one answer to the next: its id, its times, and its cost, for providers' asks differ.
async fn bytes(client: &Client, path: &str, body: &Value) -> String {
    let request = reqwest::Client::new().post(format!("{}{path}", client.base)).bearer_auth(&client.key);
    let response = request.json(body).send().await.expect("an answer");
    let status = response.status();
    let id = response.headers().get("x-generation-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let text = response.text().await.expect("a body that is not cut");
    assert_eq!(status, 200, "{text}");
    let own = id.trim_start_matches(|c: char| c.is_ascii_lowercase() || matches!(c, '_' | '-'));
    assert_eq!(own.len(), 26, "{id}");
    let text = text.replace(own, "ID");
    ["created", "created_at", "completed_at", "cost"].iter().fold(text, |text, name| without_number(&text, name))
}

/// The text with every number that is this member's value left out.
fn without_number(text: &str, name: &str) -> String {
    let member = format!("\"{name}\":");
    let mut pieces = text.split(&member);
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, rest| text + &member + rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'))
}

async fn dies_at(path: &str, body: Value) {
    let network = Setup::new(Books::Sqlite).with_model(BUNDLED, 2048).start().await;
    let _stays = network.provider(ProviderSetup::bundled(BUNDLED)).await;
    let client = network.client("10").await;
    for stream in [true, false] {
        let mut body = body.clone();
        body["stream"] = stream.into();
        let undisturbed = bytes(&client, path, &body).await;
        for cut in cuts() {
            let mut dying = dying(&network, cut).await;
            let continued = bytes(&client, path, &body).await;
            assert!(dying.process.has_failed(), "it died: {}", dying.process.log());
            assert_eq!(continued, undisturbed, "{path}: cut after token {cut}, stream: {stream}");
        }
    }
    network.finish().await;
}

/// Keeps the bundled model from ending by itself.
fn endless() -> Value {
    json!({"0": -100, "2": -100})
}

#[tokio::test]
async fn responses_are_continued_byte_for_byte() {
    let include = ["message.output_text.logprobs"];
    let body = json!({"model": BUNDLED, "input": QUESTION, "max_output_tokens": TOKENS, "temperature": 0, "include": include,
        "top_logprobs": 2, "logit_bias": endless()});
    dies_at("/v1/responses", body).await;
}

#[tokio::test]
async fn messages_are_continued_byte_for_byte() {
    let messages = json!([{"role": "user", "content": QUESTION}]);
    dies_at("/v1/messages", json!({"model": BUNDLED, "messages": messages, "max_tokens": TOKENS, "temperature": 0}))
        .await;
}
#[tokio::test]
async fn completions_are_continued_byte_for_byte() {
    let more = json!({"temperature": 1, "seed": 5, "logprobs": 2, "n": 2, "logit_bias": endless()});
    let mut body = json!({"model": BUNDLED, "prompt": QUESTION, "max_tokens": TOKENS});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    dies_at("/v1/completions", body).await;
}
