//! Keys and limits over HTTP: what an operator sets is what gateways enforce, once however often the call is repeated.

use std::time::Duration;

use lumbung_gateway::domain::role::Role;
use reqwest::Method;
use serde_json::{Value, json};

use super::Operator;
use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::{Books, MODEL, Network, Setup};

/// An account of ten dollars with a key: the account's path, the key's path, and a client with it.
async fn customer(network: &Network, operator: &Operator) -> (String, String, Client) {
    let client = network.client("10").await;
    let keys = operator.get(&format!("/keys?account={}", client.account)).await.expect(200);
    let key = keys["data"][0]["id"].as_str().expect("an id");
    (format!("/accounts/{}", client.account), format!("/keys/{key}"), client)
}

async fn status(client: &Client) -> u16 {
    client.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await.status().as_u16()
}

async fn becomes(client: &Client, expected: u16) {
    let what = format!("the key answers {expected}");
    wait_until(&what, Duration::from_secs(2), async || status(client).await == expected).await;
}

async fn limits_are_set_read_and_enforced(books: Books) {
    let network = Setup::new(books).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;
    let operator = Operator::new(&network, Role::Admin).await;
    let (account, key, client) = customer(&network, &operator).await;
    let none = operator.get(&format!("{key}/limits")).await.expect(200);
    assert_eq!((&none["budget_day_usd"], &none["allow_probation"]), (&Value::Null, &json!(true)));

    let all = json!({"budget_day_usd": "1.5", "budget_month_usd": "20", "models": [MODEL], "requests_per_minute": 10_000,
        "tokens_per_minute": 5_000_000, "concurrent_requests": 8, "expires_at_us": 4_000_000_000_000_000_i64});
    let path = format!("{key}/limits");
    let set = operator.call(Method::PUT, &path, Some("limits"), Some(all.clone())).await;
    let again = operator.call(Method::PUT, &path, Some("limits"), Some(all.clone())).await;
    assert!(!set.replayed && again.replayed && set.body == again.body);
    for (name, value) in all.as_object().expect("an object") {
        assert_eq!(set.body[name], *value, "{name}");
    }
    assert_eq!(operator.get(&path).await.expect(200), set.body);
    wait_until("the gateway follows", Duration::from_secs(2), async || {
        let response = client.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await;
        response.headers().get("x-ratelimit-limit-requests").is_some_and(|limit| limit == "10000")
    })
    .await;

    let tighter = json!({"requests_per_minute": 1});
    operator.call(Method::PUT, &format!("{account}/limits"), None, Some(tighter)).await.expect(200);
    becomes(&client, 429).await;
    let cleared = operator.call(Method::PUT, &format!("{account}/limits"), None, Some(json!({}))).await.expect(200);
    assert_eq!(cleared["requests_per_minute"], Value::Null, "what is not named is not limited");
    becomes(&client, 200).await;
    operator.call(Method::PUT, &path, None, Some(json!({"models": []}))).await.expect(200);
    becomes(&client, 403).await;
    network.finish().await;
}

#[tokio::test]
async fn limits_are_set_read_and_enforced_on_sqlite() {
    limits_are_set_read_and_enforced(Books::Sqlite).await;
}

#[tokio::test]
async fn limits_are_set_read_and_enforced_on_postgres() {
    limits_are_set_read_and_enforced(Books::Postgres).await;
}

#[tokio::test]
async fn limits_that_cannot_be_are_refused_by_name() {
    let network = Setup::new(Books::Sqlite).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let (account, key, _) = customer(&network, &operator).await;
    for (body, param) in [
        (json!({"budget_week_usd": "-1"}), "budget_week_usd"),
        (json!({"budget_total_usd": 1.5}), "budget_total_usd"),
        (json!({"models": ["no/such"]}), "models"),
        (json!({"models": [""]}), "models"),
        (json!({"requests_per_minute": -1}), "requests_per_minute"),
        (json!({"expires_at_us": -1}), "expires_at_us"),
        (json!({"allow_probation": "yes"}), "allow_probation"),
        (json!({"budget_year_usd": "1"}), "budget_year_usd"),
    ] {
        for owner in [&account, &key] {
            let refused = operator.call(Method::PUT, &format!("{owner}/limits"), None, Some(body.clone())).await;
            assert_eq!(refused.expect(400)["error"]["param"], param, "{body}");
        }
    }
    for owner in ["/accounts/acct_01K00000000000000000000000", "/keys/key_01K00000000000000000000000"] {
        operator.get(&format!("{owner}/limits")).await.expect(404);
        operator.call(Method::PUT, &format!("{owner}/limits"), None, Some(json!({}))).await.expect(404);
    }
    let billing = Operator::new(&network, Role::Billing).await;
    billing.call(Method::PUT, &format!("{key}/limits"), None, Some(json!({}))).await.expect(403);
    billing.get(&format!("{key}/limits")).await.expect(200);
    network.finish().await;
}

#[tokio::test]
async fn management_keys_are_made_listed_and_revoked() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;
    let operator = Operator::new(&network, Role::Admin).await;
    let (account, key, client) = customer(&network, &operator).await;
    let new = json!({"label": "terraform", "management": true});
    let made = operator.call(Method::POST, &format!("{account}/keys"), Some("manager"), Some(new.clone())).await;
    let again = operator.call(Method::POST, &format!("{account}/keys"), Some("manager"), Some(new)).await;
    assert!(again.replayed && again.body["key"].is_null() && again.body["record"] == made.body["record"]);
    assert_eq!(made.body["record"]["management"], true);
    let secret = made.body["key"].as_str().expect("shown once").to_owned();
    let manager = Client::new(client.base.clone(), secret, client.account);
    assert_eq!(manager.get("/v1/keys").await.status(), 200);
    assert_eq!(status(&manager).await, 403, "it asks for nothing else");
    let listed = operator.get("/keys?management=true").await.expect(200);
    assert_eq!((listed["data"].as_array().map(Vec::len), &listed["data"][0]), (Some(1), &made.body["record"]));
    let others = operator.get("/keys?management=false").await.expect(200);
    assert_eq!((others["data"].as_array().map(Vec::len), &others["data"][0]["management"]), (Some(1), &json!(false)));
    assert_eq!(operator.get("/keys?management=x").await.expect(400)["error"]["param"], "management");

    let id = made.body["record"]["id"].as_str().expect("an id");
    operator.post(&format!("/keys/{id}/revoke"), json!({})).await.expect(200);
    wait_until("it is refused", Duration::from_secs(2), async || manager.get("/v1/keys").await.status() == 401).await;
    assert!(operator.get(&format!("/keys/{id}")).await.expect(200)["revoked_at_us"].is_i64());
    operator.call(Method::PATCH, &format!("/keys/{id}"), None, Some(json!({"label": "x"}))).await.expect(404);

    becomes(&client, 200).await;
    let off = json!({"disabled": true, "label": "lost laptop"});
    let changed = operator.call(Method::PATCH, &key, Some("off"), Some(off.clone())).await;
    assert_eq!((&changed.body["disabled"], &changed.body["label"]), (&json!(true), &json!("lost laptop")));
    assert!(operator.call(Method::PATCH, &key, Some("off"), Some(off)).await.replayed);
    becomes(&client, 401).await;
    let on = operator.call(Method::PATCH, &key, None, Some(json!({"disabled": false}))).await.expect(200);
    assert_eq!((&on["disabled"], &on["label"]), (&json!(false), &json!("lost laptop")));
    becomes(&client, 200).await;
    let wrong = operator.call(Method::PATCH, &key, None, Some(json!({"label": "a\u{7}"}))).await;
    assert_eq!(wrong.expect(400)["error"]["param"], "label");
    network.finish().await;
}
