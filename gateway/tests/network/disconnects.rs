//! A client that leaves: the provider stops, and the account pays for exactly what had arrived.

use std::time::Duration;

use futures_util::StreamExt;
use lumbung_openapi::money::TokenPrice;
use serde_json::json;

use crate::support::client::Client;
use crate::support::provider::Provider;
use crate::support::{ASK, Books, Setup, usd};

/// A long answer, a token every 20 ms.
fn slow() -> serde_json::Value {
    json!([{"match": "*", "tokens": 5000, "prompt_tokens": 7, "delay_ms_per_token": 20}])
}

/// Generation must have stopped within a second, by the provider's own counter.
async fn stops(provider: &Provider) -> u64 {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after_a_second = provider.generated();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(provider.generated(), after_a_second, "the provider goes on for a client that has gone");
    after_a_second
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_pays_for_what_had_arrived() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.scripted(slow()).await;
    let client = network.client("1").await;
    let mut events = client.open("x", json!({})).await.bytes_stream();
    let mut seen = 0;
    while seen < 25 {
        let chunk = events.next().await.expect("more").expect("bytes");
        seen += String::from_utf8_lossy(&chunk).matches("data: ").count();
    }
    drop(events);
    let generated = stops(&provider).await;
    check_charge(&network, &client, &provider, generated, 20).await;
    network.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_without_streaming_pays_for_what_had_arrived() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.scripted(slow()).await;
    let client = network.client("1").await;
    let asking = client.post(Client::body("x", json!({})).to_string());
    assert!(tokio::time::timeout(Duration::from_millis(900), asking).await.is_err(), "a long answer takes long");
    let generated = stops(&provider).await;
    check_charge(&network, &client, &provider, generated, 15).await;
    network.finish().await;
}

/// The charge is the price of a number of tokens between what was surely delivered and what was generated,
/// and the provider's receipt, once acknowledged, does not change it.
async fn check_charge(
    network: &crate::support::Network,
    client: &Client,
    provider: &Provider,
    generated: u64,
    at_least: u32,
) {
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    let balance = network.charged(&client.account, usd("1")).await;
    let charge = usd("1").checked_sub(balance).expect("less than a dollar");
    let tokens = (0..=5000)
        .find(|tokens| price.cost(7, *tokens) == Some(charge))
        .expect("a charge for a whole number of tokens");
    assert!(u64::from(tokens) <= generated && tokens >= at_least, "{tokens} charged, {generated} generated");
    let log = network.gateway.log();
    assert!(
        log.contains("client_gone") && log.contains(&format!("completion_tokens={tokens}")),
        "the access log says the same"
    );
    provider.receipts_acknowledged().await;
    assert_eq!(network.balance(&client.account).await, balance);
}
