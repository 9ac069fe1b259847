//! Tokens in `usage`, in the receipt, and charged agree, streaming and not, to the token and the nano-dollar.

use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::receipt::JobReceipt;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::{ASK, Books, Network, Setup, usd};

fn price() -> TokenPrice {
    TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }
}

/// The receipt of an answer, once the provider's signature has come.
async fn signed_receipt(client: &Client, id: &str) -> JobReceipt {
    wait_until("the provider has signed", std::time::Duration::from_secs(10), async || {
        !client.receipt(id).await["attempts"][0]["proof"].is_null()
    })
    .await;
    serde_json::from_value(client.receipt(id).await).expect("a receipt")
}

async fn keys(network: &Network) -> Value {
    reqwest::get(format!("{}/.well-known/jwks.json", network.base)).await.expect("keys").json().await.expect("JSON")
}

async fn tokens_and_dollars_agree(books: Books) {
    let network = Setup::new(books).start().await;
    let provider =
        network.scripted(json!([{"match": "*", "reply": "one two three four five", "prompt_tokens": 11}])).await;
    let client = network.client("1").await;
    let keys = serde_json::from_value(keys(&network).await).expect("a key set");
    let cost = price().cost(11, 5).expect("a small cost");
    let mut left = usd("1");
    for stream in [false, true] {
        let (id, usage, text) = match stream {
            true => {
                let streamed = client.stream("count", json!({})).await;
                assert!(streamed.done && streamed.error.is_none());
                (streamed.id, streamed.usage, streamed.text)
            }
            false => {
                let answer = client.ask("count", json!({})).await;
                let text = answer.choices[0].message.content.clone().unwrap_or_default();
                (answer.id, answer.usage, text)
            }
        };
        assert_eq!(text, "one two three four five");
        let usage = usage.expect("usage is told");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (11, 5, 16));

        // Readable at once, though the provider has not signed yet.
        let at_once: JobReceipt = serde_json::from_value(client.receipt(&id).await).expect("a receipt");
        assert_eq!((at_once.prompt_tokens, at_once.completion_tokens, at_once.charge), (11, 5, cost));
        let receipt = signed_receipt(&client, &id).await;
        assert_eq!(receipt.verify(&keys), Ok(()));
        let claims = receipt.attempts[0].receipt.as_ref().expect("a receipt").parse_claims().expect("claims");
        assert_eq!((claims.prompt_tokens, claims.completion_tokens), (11, 5));

        let mut forged = receipt.clone();
        forged.charge = NanoUsd::from_nanos(cost.nanos() + 1);
        assert!(forged.verify(&keys).is_err(), "a receipt with another sum does not verify");
        left = left.checked_sub(cost).expect("a dollar is enough");
        network.balance_becomes(&client.account, left).await;
    }
    provider.receipts_acknowledged().await;

    let stranger = network.client("1").await;
    let answer = client.ask("count", json!({})).await;
    let theirs = stranger.get(&format!("/v1/receipts/{}", answer.id)).await;
    assert_eq!(theirs.status(), 404, "a receipt is the account's own");
    network.finish().await;
}

#[tokio::test]
async fn tokens_and_dollars_agree_on_sqlite() {
    tokens_and_dollars_agree(Books::Sqlite).await;
}

#[tokio::test]
async fn tokens_and_dollars_agree_on_postgres() {
    tokens_and_dollars_agree(Books::Postgres).await;
}

#[tokio::test]
async fn choices_and_limits_are_charged_as_delivered() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 20, "prompt_tokens": 3}])).await;
    let client = network.client("1").await;
    let three = client.ask("x", json!({"n": 3})).await;
    assert_eq!(three.choices.len(), 3);
    assert_eq!(three.usage.map(|u| u.completion_tokens), Some(60));
    let short = client.ask("x", json!({"max_tokens": 4})).await;
    assert_eq!(
        (short.choices[0].finish_reason.as_str(), short.usage.map(|u| u.completion_tokens)),
        ("length", Some(4))
    );
    let cost = price().cost(3, 60).and_then(|a| a.checked_add(price().cost(3, 4)?)).expect("a small cost");
    network.balance_becomes(&client.account, usd("1").checked_sub(cost).expect("enough")).await;
    network.finish().await;
}

#[tokio::test]
async fn an_account_is_never_overdrawn() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 100, "prompt_tokens": 0}])).await;
    let one = price().cost(0, 100).expect("a small cost");
    let client = std::sync::Arc::new(network.client(&NanoUsd::from_nanos(one.nanos() * 10).to_string()).await);
    let asking: Vec<_> = (0..40)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                client.post(Client::body("x", json!({"max_tokens": 100})).to_string()).await.status().as_u16()
            })
        })
        .collect();
    let mut served = 0;
    for status in asking {
        match status.await.expect("no panic") {
            200 => served += 1,
            429 => {}
            other => panic!("status {other}"),
        }
    }
    assert!((1..=10).contains(&served), "{served} were served from credit for ten");
    let left = usd("0").nanos() + one.nanos() * (10 - served);
    network.balance_becomes(&client.account, NanoUsd::from_nanos(left)).await;
    network.finish().await;
}

/// One job that the books can never take, among others: its charge is neither lost nor in anybody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_that_the_books_refuse_holds_up_no_other() {
    let network = Setup::new(Books::Postgres).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "one two three", "prompt_tokens": 11}])).await;
    let (refused, other) = (network.client("1").await, network.client("1").await);
    let left = usd("1").checked_sub(price().cost(11, 3).expect("a small cost")).expect("less");
    let mut books = sqlx::PgConnection::connect(network.database_url()).await.expect("the books answer");
    let refuse = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'; END $$;
         CREATE TRIGGER refused BEFORE INSERT ON attempts FOR EACH ROW WHEN (NEW.account = '{}')
            EXECUTE FUNCTION refuse()",
        refused.account
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(&mut books).await.expect("a trigger");

    let (first, second) = tokio::join!(refused.ask("count", json!({})), other.ask("count", json!({})));
    assert_eq!(first.usage, second.usage);
    network.balance_becomes(&other.account, left).await;
    assert_eq!(network.balance(&refused.account).await, usd("1"), "nothing of a refused one is in the books");

    sqlx::raw_sql("DROP TRIGGER refused ON attempts").execute(&mut books).await.expect("no trigger");
    network.balance_becomes(&refused.account, left).await;
    network.finish().await;
}
