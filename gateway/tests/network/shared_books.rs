//! Several gateways on one set of books: what an account has is one sum, wherever it is spent.

use std::time::Duration;

use futures_util::future::join_all;
use lumbung_gateway::store::CreditKind;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::{Value, json};

use crate::support::client::{Client, read};
use crate::support::process::wait_until;
use crate::support::provider::ProviderSetup;
use crate::support::{ASK, Books, MODEL, Network, Setup, usd};

const SERVED: i64 = 40;
const ASKED: usize = 500;
const TOKENS: u32 = 20;
/// What the gateway allows for the chat template beside the body's bytes.
const TEMPLATE_TOKENS: usize = 256;

fn body() -> String {
    Client::body("fixed", json!({"max_tokens": TOKENS})).to_string()
}

/// An answer that costs exactly what it may cost at most.
fn script() -> Value {
    json!([{"match": "*", "tokens": TOKENS, "prompt_tokens": body().len() + TEMPLATE_TOKENS, "delay_ms_first": 30}])
}

fn cost() -> NanoUsd {
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    price.cost((body().len() + TEMPLATE_TOKENS) as u32, TOKENS).expect("a small cost")
}

/// Asks all at once, at every gateway in turn: how many were served; all others must be out of credit.
async fn served(client: &Client, bases: &[&str]) -> i64 {
    let clients: Vec<Client> =
        bases.iter().map(|base| Client::new((*base).to_owned(), client.key.clone(), client.account)).collect();
    let asked = (0..ASKED).map(|number| {
        let client = &clients[number % clients.len()];
        async {
            let response = client.post(body()).await;
            let status = response.status().as_u16();
            let should_retry = response.headers().get("x-should-retry").cloned();
            let answer: Value = response.json().await.expect("JSON");
            match status {
                200 => assert_eq!(answer["usage"]["completion_tokens"], TOKENS),
                _ => {
                    assert_eq!(
                        (status, answer["error"]["code"].as_str()),
                        (429, Some("insufficient_quota")),
                        "{answer}"
                    );
                    assert_eq!(should_retry.expect("x-should-retry"), "false");
                }
            }
            i64::from(status == 200)
        }
    });
    join_all(asked).await.into_iter().sum()
}

async fn customer(network: &Network) -> Client {
    let client = network.client("0").await;
    let credit = NanoUsd::from_nanos(cost().nanos() * SERVED);
    network.store.add_credit(&client.account, credit, CreditKind::Paid, "").await.expect("credit");
    client
}

async fn one_gateway_serves_exactly_what_is_paid_for(books: Books) {
    let network = Setup::new(books).with_gateway_flag("--queue-length", "1000").start().await;
    let _provider = network.scripted(script()).await;
    let client = customer(&network).await;
    assert_eq!(served(&client, &[&network.base]).await, SERVED);
    network.balance_becomes(&client.account, NanoUsd::ZERO).await;
    network.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_serves_exactly_what_is_paid_for_on_sqlite() {
    one_gateway_serves_exactly_what_is_paid_for(Books::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_serves_exactly_what_is_paid_for_on_postgres() {
    one_gateway_serves_exactly_what_is_paid_for(Books::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_together_serve_exactly_what_is_paid_for() {
    let network = Setup::new(Books::Postgres).shared().with_gateway_flag("--queue-length", "1000").start().await;
    let second = network.another_gateway().await;
    let _provider = network.scripted(script()).await;
    let _other = network.provider_at(&second.base, ProviderSetup::scripted(script())).await;
    let client = customer(&network).await;
    assert_eq!(served(&client, &[&network.base, &second.base]).await, SERVED);
    network.balance_becomes(&client.account, NanoUsd::ZERO).await;
    second.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_gateway_short_of_an_accounts_money_gets_what_another_holds_unused() {
    let network = Setup::new(Books::Postgres).shared().start().await;
    let second = network.another_gateway().await;
    let _provider = network.scripted(script()).await;
    let _other = network.provider_at(&second.base, ProviderSetup::scripted(script())).await;
    let client = network.client("0").await;
    // Twelve answers' worth: the first gateway sets a tenth of it aside beyond what it needs, more than one answer.
    let credit = NanoUsd::from_nanos(cost().nanos() * 12);
    network.store.add_credit(&client.account, credit, CreditKind::Paid, "").await.expect("credit");
    assert_eq!(client.post(body()).await.status(), 200);
    let at_second = Client::new(second.base.clone(), client.key.clone(), client.account);
    for number in 1..12 {
        assert_eq!(at_second.post(body()).await.status(), 200, "answer {number} of 11");
    }
    assert_eq!(at_second.post(body()).await.status(), 429);
    network.balance_becomes(&client.account, NanoUsd::ZERO).await;
    second.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_key_revoked_anywhere_stops_working_everywhere_within_a_second() {
    let network = Setup::new(Books::Postgres).shared().start().await;
    let second = network.another_gateway().await;
    let _provider = network.scripted(script()).await;
    let _other = network.provider_at(&second.base, ProviderSetup::scripted(script())).await;
    let client = network.client("1").await;
    let at_second = Client::new(second.base.clone(), client.key.clone(), client.account);
    assert_eq!(
        (client.post(body()).await.status(), at_second.post(body()).await.status()),
        (200.try_into().expect("a status"), 200.try_into().expect("a status"))
    );
    let key = network.store.keys(Some(&client.account)).await.expect("keys")[0].id;
    network.store.revoke_key(&key).await.expect("revoked");
    wait_until("both refuse the key", Duration::from_secs(1), async || {
        client.post(body()).await.status() == 401 && at_second.post(body()).await.status() == 401
    })
    .await;
    second.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_gateway_frozen_beyond_its_lease_spends_nothing_more_and_stops() {
    let network = Setup::new(Books::Postgres).shared().start().await;
    let mut second = network.another_gateway().await;
    let _provider = network.scripted(script()).await;
    let slow = json!([{"match": "*", "tokens": 200, "prompt_tokens": 7, "delay_ms_per_token": 20}]);
    let _other = network.provider_at(&second.base, ProviderSetup::scripted(slow)).await;
    let client = network.client("1").await;
    let at_second = Client::new(second.base.clone(), client.key.clone(), client.account);
    let stream = at_second.open("x", json!({"max_tokens": 200})).await;
    second.process.signal("STOP");
    tokio::time::sleep(Duration::from_secs(6)).await; // the lease is five seconds
    assert_eq!(client.post(body()).await.status(), 200, "the other one goes on");
    second.process.signal("CONT");
    let late = at_second.http.post(format!("{}/v1/chat/completions", at_second.base)).bearer_auth(&at_second.key);
    let late = late.header("content-type", "application/json").body(body()).send().await;
    assert!(late.is_err() || late.is_ok_and(|answer| answer.status() == 503), "nothing more is admitted");
    let streamed = read(stream).await;
    assert!(streamed.done, "what had begun is finished");
    wait_until("it stops by itself", Duration::from_secs(40), async || second.process.has_failed()).await;
    network.finish().await;
}

#[tokio::test]
async fn sharing_needs_postgres() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut gateway = std::process::Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
    gateway.args(["serve", "--listen", "127.0.0.1:0"]).env_remove("DATABASE_URL");
    gateway.env("LUMBUNG_DATA_DIR", folder.path()).env("REDIS_URL", "redis://127.0.0.1:1/");
    let output = tokio::task::spawn_blocking(move || gateway.output()).await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("(DATABASE_URL) must name a Postgres database"), "{said}");
}

#[tokio::test]
async fn without_redis_an_account_is_served_from_each_gateways_own_part() {
    // Nobody answers at this address: recalls fail, requests within the allowance do not.
    let network = Setup::new(Books::Postgres).with_gateway_flag("--redis", "redis://127.0.0.1:1/").start().await;
    let _provider = network.scripted(script()).await;
    let client = network.client("1").await;
    assert_eq!(client.post(body()).await.status(), 200);
    let poor = network.client("0").await;
    assert_eq!(poor.post(body()).await.status(), 429);
    network.serves(MODEL).await;
    network.finish().await;
}
