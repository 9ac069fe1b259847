//! A gateway that dies: what its clients pay and its providers get rests on vouchers, and what nobody claims goes back.

use std::time::Duration;

use futures_util::StreamExt;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::json;

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::{ASK, Books, MODEL, Network, Setup, usd};

/// Tokens that may pass unvouched (`chat/vouching.rs`).
const INTERVAL: u32 = 64;
/// Tokens that may lie between gateway and client when the gateway is killed, on a machine that is busy.
const UNDER_WAY: u32 = 32;
const PROMPT: u32 = 7;

fn cost(completion: u32) -> NanoUsd {
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    price.cost(PROMPT, completion).expect("a small cost")
}

/// How many completion tokens a charge is for.
fn tokens_of(charge: NanoUsd) -> u32 {
    (0..=10_000).find(|tokens| cost(*tokens) == charge).expect("a charge for the prompt and a whole number of tokens")
}

fn steady() -> serde_json::Value {
    json!([{"match": "*", "tokens": 5000, "prompt_tokens": PROMPT, "delay_ms_per_token": 5}])
}

/// Kills the gateway when the client has seen so many events; what it saw in all.
async fn cut_off_after(network: &mut Network, client: &Client, events: usize) -> u32 {
    let mut bytes = client.open("x", json!({"max_tokens": 2000})).await.bytes_stream();
    let mut seen = 0;
    while seen < events {
        let chunk = bytes.next().await.expect("more").expect("bytes");
        seen += String::from_utf8_lossy(&chunk).matches("data: ").count();
    }
    network.kill_gateway();
    let cut = async {
        while let Some(Ok(chunk)) = bytes.next().await {
            seen += String::from_utf8_lossy(&chunk).matches("data: ").count();
        }
    };
    tokio::time::timeout(Duration::from_secs(5), cut).await.expect("the client's stream ends");
    seen as u32 - 1 // the first event has no text
}

async fn a_stream_is_charged_up_to_the_last_voucher(books: Books) {
    let mut network = Setup::new(books).start().await;
    let provider = network.scripted(steady()).await;
    let client = network.client("1").await;
    let mut balance = usd("1");
    // Before any voucher was due, after the first ones, and after many.
    for events in [20, 150, 500] {
        let seen = cut_off_after(&mut network, &client, events).await;
        network.restart_gateway().await;
        network.serves(MODEL).await;
        let left = network.charged(&client.account, balance).await;
        provider.receipts_acknowledged().await;
        let charged = tokens_of(balance.checked_sub(left).expect("no more than there was"));
        assert!(charged + INTERVAL + UNDER_WAY >= seen, "{charged} tokens charged, {seen} seen: the provider loses");
        assert!(charged <= seen + INTERVAL + UNDER_WAY, "{charged} tokens charged, {seen} seen: the client loses");
        network.check_books().await;
        assert_eq!(network.balance(&client.account).await, left, "once");
        balance = left;
    }
    assert!(balance <= usd("1").checked_sub(cost(400)).expect("a dollar is enough"), "vouchers were paid by");
    let answer = client.ask("x", json!({"max_tokens": 5})).await;
    assert_eq!(answer.usage.map(|u| u.completion_tokens), Some(5), "and the account still works");
    network.finish().await;
}

#[tokio::test]
async fn a_stream_is_charged_up_to_the_last_voucher_on_sqlite() {
    a_stream_is_charged_up_to_the_last_voucher(Books::Sqlite).await;
}

#[tokio::test]
async fn a_stream_is_charged_up_to_the_last_voucher_on_postgres() {
    a_stream_is_charged_up_to_the_last_voucher(Books::Postgres).await;
}

#[tokio::test]
async fn a_slow_stream_is_vouched_for_every_second() {
    let mut network = Setup::new(Books::Sqlite).start().await;
    let slow = json!([{"match": "*", "tokens": 500, "prompt_tokens": PROMPT, "delay_ms_per_token": 50}]);
    let _provider = network.scripted(slow).await;
    let client = network.client("1").await;
    let seen = cut_off_after(&mut network, &client, 32).await; // a second and a half, and half an interval of tokens
    network.restart_gateway().await;
    network.serves(MODEL).await;
    let left = network.charged(&client.account, usd("1")).await;
    let charged = tokens_of(usd("1").checked_sub(left).expect("no more than there was"));
    assert!((10..=seen).contains(&charged), "{charged} tokens charged, {seen} seen");
    network.finish().await;
}

async fn whoever_has_the_whole_answer_pays_for_it(books: Books) {
    let mut network = Setup::new(books).start().await;
    let provider =
        network.scripted(json!([{"match": "*", "tokens": 40, "prompt_tokens": PROMPT, "delay_ms_per_token": 1}])).await;
    let client = network.client("1").await;
    for (stream, balance) in [(true, usd("1")), (false, usd("1").checked_sub(cost(40)).expect("enough"))] {
        match stream {
            true => assert!(client.stream("x", json!({})).await.done),
            false => assert_eq!(client.ask("x", json!({})).await.usage.map(|u| u.completion_tokens), Some(40)),
        }
        network.kill_gateway(); // most likely before the settlement is in the books
        network.restart_gateway().await;
        network.serves(MODEL).await;
        network.balance_becomes(&client.account, balance.checked_sub(cost(40)).expect("enough")).await;
        provider.receipts_acknowledged().await;
    }
    network.finish().await;
}

#[tokio::test]
async fn whoever_has_the_whole_answer_pays_for_it_on_sqlite() {
    whoever_has_the_whole_answer_pays_for_it(Books::Sqlite).await;
}

#[tokio::test]
async fn whoever_has_the_whole_answer_pays_for_it_on_postgres() {
    whoever_has_the_whole_answer_pays_for_it(Books::Postgres).await;
}

async fn an_answer_that_was_not_streamed_and_never_came_costs_nothing(books: Books) {
    let mut network = Setup::new(books).start().await;
    let provider = network.scripted(steady()).await;
    let client = network.client("1").await;
    let asking = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(&client.key);
    let asking = asking.header("content-type", "application/json").body(Client::body("x", json!({})).to_string());
    let asking = tokio::spawn(asking.send());
    wait_until("it is being made", Duration::from_secs(10), async || provider.generated() > 200).await;
    network.kill_gateway();
    assert!(asking.await.expect("no panic").is_err(), "the client is told by a broken connection");
    network.restart_gateway().await;
    network.serves(MODEL).await;
    wait_until("the receipt is kept", Duration::from_secs(10), async || {
        provider.status()["jobs"]["cancelled"].as_u64() == Some(1)
    })
    .await;
    provider.receipts_acknowledged().await;
    assert_eq!(network.balance(&client.account).await, usd("1"));
    network.finish().await;
}

#[tokio::test]
async fn an_answer_that_was_not_streamed_and_never_came_costs_nothing_on_sqlite() {
    an_answer_that_was_not_streamed_and_never_came_costs_nothing(Books::Sqlite).await;
}

#[tokio::test]
async fn an_answer_that_was_not_streamed_and_never_came_costs_nothing_on_postgres() {
    an_answer_that_was_not_streamed_and_never_came_costs_nothing(Books::Postgres).await;
}

async fn a_receipt_that_nobody_hands_in_locks_nothing(books: Books) {
    let mut network = Setup::new(books).with_gateway_flag("--claim-window-secs", "6").start().await;
    let mut provider = network.scripted(steady()).await;
    let client = network.client("1").await;
    cut_off_after(&mut network, &client, 100).await;
    wait_until("the receipt is kept", Duration::from_secs(10), async || {
        provider.status()["receipts_unacknowledged"].as_u64() == Some(1)
    })
    .await;
    provider.process.kill();
    network.restart_gateway().await;
    let set_aside = async || network.store.account_balance(&client.account).await.expect("a balance").allowances;
    assert!(set_aside().await > NanoUsd::ZERO, "the dead gateway's money waits for the claim");
    wait_until("it goes back", Duration::from_secs(40), async || set_aside().await == NanoUsd::ZERO).await;
    assert_eq!(network.balance(&client.account).await, usd("1"));
    network.check_books().await;

    // The provider is found again, too late: it is told so, and nothing changes.
    provider.restart();
    provider.connected().await;
    provider.receipts_acknowledged().await;
    assert!(provider.process.log().contains("too late"), "the reason is in its log");
    assert_eq!(network.balance(&client.account).await, usd("1"));
    network.finish().await;
}

#[tokio::test]
async fn a_receipt_that_nobody_hands_in_locks_nothing_on_sqlite() {
    a_receipt_that_nobody_hands_in_locks_nothing(Books::Sqlite).await;
}

#[tokio::test]
async fn a_receipt_that_nobody_hands_in_locks_nothing_on_postgres() {
    a_receipt_that_nobody_hands_in_locks_nothing(Books::Postgres).await;
}
