//! Requests that name no limit: little is held at first, more as the answer grows, and the credit's end is the answer's.

use std::time::Duration;

use futures_util::future::join_all;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::json;

use crate::support::client::Client;
use crate::support::{ASK, Books, Setup, usd};

const PROMPT: u32 = 7;

fn cost(completion: u32) -> NanoUsd {
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    price.cost(PROMPT, completion).expect("a small cost")
}

fn less(amount: NanoUsd, by: NanoUsd) -> NanoUsd {
    amount.checked_sub(by).expect("enough")
}

fn steady(tokens: u32) -> serde_json::Value {
    json!([{"match": "*", "tokens": tokens, "prompt_tokens": PROMPT, "delay_ms_per_token": 3}])
}

async fn a_stream_ends_where_the_credit_does(books: Books) {
    let network = Setup::new(books).with_gateway_flag("--default-hold-tokens", "50").start().await;
    let provider = network.scripted(steady(5000)).await;
    let (affordable, credit) = (300, cost(300));
    let client = network.client(&credit.to_string()).await;
    let streamed = client.stream("x", json!({})).await;
    let error = streamed.error.expect("the client is told");
    assert_eq!((&error["code"], &error["type"]), (&json!("insufficient_quota"), &json!("insufficient_quota")));
    assert!(streamed.done, "the stream ends as streams do");
    let delivered = streamed.text.split_whitespace().count() as u32;
    // Less than what one frame holds may be left over.
    assert!((affordable - 30..=affordable).contains(&delivered), "{delivered} of {affordable} tokens arrived");
    network.balance_becomes(&client.account, less(credit, cost(delivered))).await;
    provider.receipts_acknowledged().await;
    assert_eq!(network.balance(&client.account).await, less(credit, cost(delivered)), "exactly what was delivered");

    tokio::time::sleep(Duration::from_secs(1)).await;
    let generated = provider.generated();
    assert!(generated <= u64::from(affordable) + 100, "{generated} tokens were made for {affordable}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(provider.generated(), generated, "the provider has stopped");
    let refused = client.post(Client::body("x", json!({})).to_string()).await;
    assert_eq!(refused.status(), 429, "there is no credit to begin with");
    network.finish().await;
}

#[tokio::test]
async fn a_stream_ends_where_the_credit_does_on_sqlite() {
    a_stream_ends_where_the_credit_does(Books::Sqlite).await;
}

#[tokio::test]
async fn a_stream_ends_where_the_credit_does_on_postgres() {
    a_stream_ends_where_the_credit_does(Books::Postgres).await;
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_and_runs_out_of_credit_costs_nothing() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--default-hold-tokens", "50").start().await;
    let provider = network.scripted(steady(5000)).await;
    let client = network.client(&cost(300).to_string()).await;
    let refused = client.post(Client::body("x", json!({})).to_string()).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["x-should-retry"]),
        (429, &"false".parse().expect("text"))
    );
    let error: serde_json::Value = refused.json().await.expect("JSON");
    assert_eq!(error["error"]["code"], "insufficient_quota");
    assert!(error["error"]["message"].as_str().is_some_and(|message| message.contains("ran out")), "{error}");
    provider.receipts_acknowledged().await;
    assert_eq!(network.balance(&client.account).await, cost(300));
    network.finish().await;
}

async fn a_long_answer_is_topped_up_and_charged_to_the_token(books: Books) {
    let network = Setup::new(books).with_gateway_flag("--default-hold-tokens", "16").start().await;
    let provider = network.scripted(json!([{"match": "*", "tokens": 3000, "prompt_tokens": PROMPT}])).await;
    // As fast as it can, in events of many tokens, with just enough credit for both answers' tokens and a hold's prompt.
    let credit = usd("0.0125");
    let client = network.client(&credit.to_string()).await;
    let streamed = client.stream("x", json!({})).await;
    assert_eq!((streamed.done, &streamed.error), (true, &None));
    assert_eq!(streamed.usage.map(|u| u.completion_tokens), Some(3000));
    let answer = client.ask("x", json!({})).await;
    assert_eq!(answer.usage.map(|u| u.completion_tokens), Some(3000));
    let left = less(less(credit, cost(3000)), cost(3000));
    network.balance_becomes(&client.account, left).await;
    provider.receipts_acknowledged().await;
    assert_eq!(network.balance(&client.account).await, left, "the receipts change nothing");
    network.finish().await;
}

#[tokio::test]
async fn a_long_answer_is_topped_up_and_charged_to_the_token_on_sqlite() {
    a_long_answer_is_topped_up_and_charged_to_the_token(Books::Sqlite).await;
}

#[tokio::test]
async fn a_long_answer_is_topped_up_and_charged_to_the_token_on_postgres() {
    a_long_answer_is_topped_up_and_charged_to_the_token(Books::Postgres).await;
}

/// The full context of the scripted model would cost twenty cents; an agent with one cent asks without a limit, often.
#[tokio::test]
async fn a_small_balance_is_enough_to_ask_a_large_context_without_a_limit() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(steady(20)).await;
    let client = network.client("0.01").await;
    for _ in 0..3 {
        for answer in join_all((0..3).map(|_| client.ask("x", json!({})))).await {
            assert_eq!(answer.usage.map(|u| u.completion_tokens), Some(20));
        }
    }
    let named = client.post(Client::body("x", json!({"max_tokens": 90_000})).to_string()).await;
    assert_eq!(named.status(), 429, "whoever names a limit is held to it");
    let spent = NanoUsd::from_nanos(cost(20).nanos() * 9);
    network.balance_becomes(&client.account, less(usd("0.01"), spent)).await;
    network.finish().await;
}
