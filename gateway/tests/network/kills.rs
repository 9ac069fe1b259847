//! Processes that die in the middle of an answer.

use std::time::Duration;

use lumbung_openapi::money::TokenPrice;
use serde_json::json;

use crate::support::client::read;
use crate::support::process::wait_until;
use crate::support::{ASK, Books, Setup, usd};

fn price() -> TokenPrice {
    TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }
}

async fn provider_dies(books: Books) {
    let network = Setup::new(books).start().await;
    let script = json!([
        {"match": "die", "tokens": 100, "prompt_tokens": 7, "delay_ms_per_token": 5, "die_after": 30},
        {"match": "*", "reply": "well again", "prompt_tokens": 1}
    ]);
    let mut provider = network.scripted(script).await;
    let client = network.client("1").await;
    let streamed = read(client.open("die", json!({})).await).await;
    let error = streamed.error.expect("the client is told");
    assert_eq!(error["code"], "provider_failed");
    assert!(streamed.done, "the stream ends as streams do");
    let delivered = streamed.text.split_whitespace().count() as u32;
    assert!((1..=30).contains(&delivered), "{delivered} tokens arrived");
    let charge = price().cost(7, delivered).expect("a small cost");
    network.balance_becomes(&client.account, usd("1").checked_sub(charge).expect("enough")).await;

    provider.restart();
    provider.connected().await;
    network.serves(crate::support::MODEL).await;
    wait_until("the new tunnel is used", Duration::from_secs(10), async || {
        let answer = client.post(crate::support::client::Client::body("hello", json!({})).to_string()).await;
        answer.status() == 200
    })
    .await;
    network.finish().await;
}

#[tokio::test]
async fn a_dying_provider_is_told_of_and_paid_for_what_arrived_on_sqlite() {
    provider_dies(Books::Sqlite).await;
}

#[tokio::test]
async fn a_dying_provider_is_told_of_and_paid_for_what_arrived_on_postgres() {
    provider_dies(Books::Postgres).await;
}

#[tokio::test]
async fn before_the_first_byte_the_next_provider_answers() {
    let network = Setup::new(Books::Sqlite).start().await;
    let mut failing = Vec::new();
    for _ in 0..2 {
        failing.push(network.scripted(json!([{"match": "*", "error": "failed"}])).await);
    }
    let _good = network.scripted(json!([{"match": "*", "reply": "here I am", "prompt_tokens": 2}])).await;
    let client = network.client("1").await;
    wait_until("the good provider is known", Duration::from_secs(10), async || {
        client.post(crate::support::client::Client::body("x", json!({})).to_string()).await.status() == 200
    })
    .await;
    for _ in 0..10 {
        let answer = client.ask("x", json!({})).await;
        assert_eq!(answer.choices[0].message.content.as_deref(), Some("here I am"));
        let streamed = client.stream("x", json!({})).await;
        assert_eq!((streamed.text.as_str(), streamed.done), ("here I am", true));
    }
    network.finish().await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_books_refuses_to_start() {
    let network = Setup::new(Books::Sqlite).start().await;
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
    second.args(["serve", "--listen", "127.0.0.1:0"]).env_remove("DATABASE_URL").env_remove("REDIS_URL");
    second.env("LUMBUNG_DATA_DIR", network.folder.path()).env("LUMBUNG_LEASE_SECS", "2");
    let output = tokio::task::spawn_blocking(move || second.output()).await.expect("no panic").expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another gateway"), "{said}");
    network.finish().await;
}

#[tokio::test]
async fn a_stopping_gateway_finishes_what_it_has_begun() {
    let mut network = Setup::new(Books::Sqlite).start().await;
    let _provider =
        network.scripted(json!([{"match": "*", "tokens": 100, "prompt_tokens": 7, "delay_ms_per_token": 10}])).await;
    let client = network.client("1").await;
    let stream = client.open("x", json!({})).await;
    network.gateway.signal("TERM");
    let streamed = read(stream).await;
    assert_eq!((streamed.done, streamed.usage.map(|u| u.completion_tokens)), (true, Some(100)));
    network.gateway.stops(Duration::from_secs(40)).await;
    let charge = price().cost(7, 100).expect("a small cost");
    assert_eq!(network.balance(&client.account).await, usd("1").checked_sub(charge).expect("enough"));
    let account = network.store.account_balance(&client.account).await.expect("a balance");
    assert_eq!(account.allowances, usd("0"), "what was set aside has gone back");
    network.restart_gateway().await;
    network.finish().await;
}
