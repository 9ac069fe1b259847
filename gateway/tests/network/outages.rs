//! The database is away for a while: requests go on within what is already set aside, up to a limit, and nothing is lost.

use std::time::Duration;

use lumbung_openapi::money::TokenPrice;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::postgres::OwnPostgres;
use crate::support::process::wait_until;
use crate::support::{ASK, Setup, usd};

const MAX_JOBS: usize = 20;

#[tokio::test]
async fn without_its_database_a_gateway_serves_up_to_a_limit_then_refuses_and_settles_all_of_it_later() {
    let server = OwnPostgres::start().await;
    let setup = Setup::on(server.url()).with_gateway_flag("--max-jobs", &MAX_JOBS.to_string());
    let network = setup.with_gateway_flag("--lease-secs", "60").start().await;
    let provider = network.scripted(json!([{"match": "*", "reply": "one two three", "prompt_tokens": 7}])).await;
    let client = network.client("10").await;
    assert_eq!(client.ask("x", json!({"max_tokens": 3})).await.usage.map(|u| u.completion_tokens), Some(3));
    let cost = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }.cost(7, 3).expect("a small cost");
    network.balance_becomes(&client.account, usd("10").checked_sub(cost).expect("enough")).await;

    server.kill();
    let mut served = 1;
    let refused = loop {
        let answer = client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await;
        if answer.status() != 200 {
            break answer;
        }
        served += 1;
        assert!(served <= 2 * MAX_JOBS, "there is no limit");
    };
    assert!(served > MAX_JOBS / 2, "{served} were served, which is less than fits");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().await.expect("JSON");
    assert_eq!(error["error"]["code"], "overloaded");

    server.restart().await;
    wait_until("requests are served again", Duration::from_secs(20), async || {
        client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await.status() == 200
    })
    .await;
    served += 1;
    let charged = (0..served).try_fold(usd("0"), |sum, _| sum.checked_add(cost)).expect("a small sum");
    network.balance_becomes(&client.account, usd("10").checked_sub(charged).expect("enough")).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}
