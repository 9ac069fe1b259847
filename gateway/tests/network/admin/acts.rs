//! What operators do: once each, written down, and nothing without the role for it.

use std::sync::Arc;
use std::time::Duration;

use lumbung_gateway::domain::role::Role;
use reqwest::Method;
use serde_json::json;

use super::{Operator, now};
use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::{Books, MODEL, Setup, usd};

#[tokio::test]
async fn an_operator_opens_accounts_makes_keys_and_moves_credit() {
    let network = Setup::new(Books::Postgres).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let account = operator.post("/accounts", json!({"name": "Ana"})).await.expect(201);
    let path = format!("/accounts/{}", account["id"].as_str().expect("an id"));
    assert_eq!(account["balance"]["spendable_usd"], "0");

    let credit = json!({"amount_usd": "25.00", "kind": "paid", "reference": "invoice 1"});
    let moved = operator.post(&format!("{path}/credit"), credit.clone()).await.expect(201);
    assert_eq!(moved["balance"]["credit_usd"], "25");
    operator.post(&format!("{path}/credit"), credit).await.expect(409);
    let moved = operator.post(&format!("{path}/refunds"), json!({"amount_usd": "5.000000001"})).await.expect(201);
    assert_eq!(moved["balance"]["credit_usd"], "19.999999999");
    operator.post(&format!("{path}/refunds"), json!({"amount_usd": "20"})).await.expect(409);
    network.check_books().await;

    let made = operator.post(&format!("{path}/keys"), json!({"label": "laptop"})).await.expect(201);
    let (key, id) = (made["key"].as_str().expect("the key"), made["record"]["id"].as_str().expect("an id"));
    let models = reqwest::Client::new().get(format!("{}/v1/receipts/none", network.base)).bearer_auth(key).send().await;
    assert_eq!(models.expect("an answer").status(), 404, "the key is good");
    let listed = operator.get(&format!("/keys?account={}", account["id"].as_str().expect("an id"))).await.expect(200);
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    let revoked = operator.post(&format!("/keys/{id}/revoke"), json!({})).await.expect(200);
    assert!(revoked["revoked_at_us"].is_i64());
    let closed = operator.call(Method::POST, &format!("{path}/close"), None, None).await.expect(200);
    assert!(closed["closed_at_us"].is_i64());
    operator.post(&format!("{path}/keys"), json!({})).await.expect(404);

    let entries = operator.get("/ledger/entries?kind=refund&limit=1").await.expect(200);
    let amounts: Vec<&str> =
        entries["data"].as_array().expect("a list").iter().filter_map(|entry| entry["amount_usd"].as_str()).collect();
    assert_eq!(amounts.len(), 2, "a posting is never on a page in part");
    assert!(amounts.contains(&"-5.000000001") && amounts.contains(&"5.000000001"), "{amounts:?}");
    assert_eq!(operator.get("/ledger/check").await.expect(200)["right"], true);
    network.finish().await;
}

#[tokio::test]
async fn faults_are_named() {
    let network = Setup::new(Books::Sqlite).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let account = operator.post("/accounts", json!({"name": "Ana"})).await.expect(201);
    let credit = format!("/accounts/{}/credit", account["id"].as_str().expect("an id"));
    for (path, body, param) in [
        ("/accounts", json!({"name": ""}), "name"),
        ("/accounts", json!({"name": "a\u{7}"}), "name"),
        ("/accounts", json!({"name": 7}), "name"),
        ("/accounts", json!({"name": "a", "more": 1}), "more"),
        (&credit, json!({"amount_usd": 1.5, "kind": "paid"}), "amount_usd"),
        (&credit, json!({"amount_usd": "1e3", "kind": "paid"}), "amount_usd"),
        (&credit, json!({"amount_usd": "1", "kind": "gift"}), "kind"),
    ] {
        let refused = operator.post(path, body.clone()).await.expect(400);
        assert_eq!(refused["error"]["param"], param, "{body}: {refused}");
    }
    operator.post(&credit, json!({"amount_usd": "-1", "kind": "paid"})).await.expect(400);
    operator.post(&credit, json!({"amount_usd": "0", "kind": "paid"})).await.expect(400);
    for (query, param) in
        [("limit=0", "limit"), ("limit=x", "limit"), ("colour=red", "colour"), ("limit=1&limit=2", "limit")]
    {
        let refused = operator.get(&format!("/accounts?{query}")).await.expect(400);
        assert_eq!(refused["error"]["param"], param, "{refused}");
    }
    for path in ["/accounts/nobody", "/accounts/acct_01K00000000000000000000000", "/providers/x", "/accounts/%FF"] {
        let status = operator.get(path).await.status;
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    network.finish().await;
}

#[tokio::test]
async fn lists_come_in_pages_and_as_csv() {
    let network = Setup::new(Books::Sqlite).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    for n in 0..5 {
        operator.post("/accounts", json!({"name": format!("=account {n}")})).await.expect(201);
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/accounts?limit=2&after={after}")).await.expect(200);
        names.extend(page["data"].as_array().expect("a list").iter().map(|account| account["name"].to_string()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert_eq!(page["has_more"], true);
        after = next.to_owned();
    }
    assert_eq!(names.len(), 5);
    let url = format!("{}/admin/v1/audit?limit=2", network.base);
    let csv = reqwest::Client::new().get(url).bearer_auth(&operator.token).header("accept", "text/csv").send().await;
    let csv = csv.expect("an answer");
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8");
    assert!(csv.headers().contains_key("x-next-cursor"));
    let text = csv.text().await.expect("text");
    assert!(text.starts_with("id,at_us,subject,") && text.lines().count() == 3, "{text}");
    network.finish().await;
}

#[tokio::test]
async fn a_read_only_token_changes_nothing() {
    let network = Setup::new(Books::Sqlite).start().await;
    let (admin, reader) = (Operator::new(&network, Role::Admin).await, Operator::new(&network, Role::ReadOnly).await);
    let billing = Operator::new(&network, Role::Billing).await;
    let account = admin.post("/accounts", json!({"name": "Ana"})).await.expect(201);
    let id = account["id"].as_str().expect("an id");
    // Every route of the document that changes something.
    let document = serde_json::to_value(lumbung_openapi::spec::document()).expect("JSON");
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/admin/v1") else { continue };
        for method in item.as_object().expect("methods").keys().filter(|method| *method != "get") {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            reader.call(method, &path.replace("{id}", id), Some("k"), Some(json!({"name": "x"}))).await.expect(403);
            tried += 1;
        }
    }
    assert!(tried >= 7, "{tried}");
    let audit = admin.get("/audit?limit=1000").await.expect(200);
    let lines = audit["data"].as_array().expect("a list");
    assert_eq!(lines.iter().filter(|line| line["status"] == 403 && line["role"] == "read-only").count(), tried);
    assert_eq!(reader.get("/accounts").await.expect(200)["data"].as_array().map(Vec::len), Some(1));
    // Billing moves money, and nothing else.
    let credit = json!({"amount_usd": "1", "kind": "paid"});
    billing.post(&format!("/accounts/{id}/credit"), credit).await.expect(201);
    billing.post(&format!("/accounts/{id}/keys"), json!({})).await.expect(403);
    network.finish().await;
}

async fn acts_once(books: Books) {
    let network = Setup::new(books).start().await;
    let operator = Arc::new(Operator::new(&network, Role::Admin).await);
    let account = operator.post("/accounts", json!({"name": "Ana"})).await.expect(201);
    let id = account["id"].as_str().expect("an id").to_owned();
    let path = Arc::new(format!("/accounts/{id}/credit"));
    let credit = json!({"amount_usd": "1", "kind": "paid"});
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (operator, path, credit) = (operator.clone(), path.clone(), credit.clone());
        calls.spawn(async move { operator.call(Method::POST, &path, Some("once"), Some(credit)).await });
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let spendable = network.balance(&id.parse().expect("an id")).await;
    assert_eq!(spendable, usd("1"), "twenty calls with one key act once");

    let other =
        operator.call(Method::POST, &path, Some("once"), Some(json!({"amount_usd": "2", "kind": "paid"}))).await;
    assert_eq!(other.expect(422)["error"]["code"], "idempotency_key_reused");
    let elsewhere = operator.call(Method::POST, "/accounts", Some("once"), Some(json!({"name": "Ana"}))).await;
    assert_eq!(elsewhere.expect(422)["error"]["param"], "Idempotency-Key");
    let too_long = operator.call(Method::POST, &path, Some(&"k".repeat(256)), Some(credit.clone())).await;
    assert_eq!(too_long.expect(400)["error"]["param"], "Idempotency-Key");
    // What was refused has not used its key up.
    let refused = operator.call(Method::POST, &format!("{path}x"), Some("again"), Some(credit.clone())).await;
    assert_eq!(refused.status, 404);
    operator.call(Method::POST, &path, Some("again"), Some(credit)).await.expect(201);

    // A key is shown once, and kept nowhere.
    let keys = format!("/accounts/{id}/keys");
    let first = operator.call(Method::POST, &keys, Some("a-key"), Some(json!({}))).await;
    let second = operator.call(Method::POST, &keys, Some("a-key"), Some(json!({}))).await;
    assert!(second.replayed && !first.replayed);
    assert_eq!(first.body["record"], second.body["record"]);
    assert!(first.body["key"].is_string() && second.body["key"].is_null());
    assert_eq!(network.store.keys(None).await.expect("keys").len(), 1);
    network.finish().await;
}

#[tokio::test]
async fn a_repeated_call_acts_once_on_sqlite() {
    acts_once(Books::Sqlite).await;
}

#[tokio::test]
async fn a_repeated_call_acts_once_on_postgres() {
    acts_once(Books::Postgres).await;
}

#[tokio::test]
async fn a_price_begins_when_it_was_set_to() {
    let network = Setup::new(Books::Postgres).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;
    let client = network.client("1").await;
    let operator = Operator::new(&network, Role::Admin).await;
    let path = format!("/models/{}/prices", MODEL.replace('/', "%2F"));
    let past = json!({"prompt_usd_per_mtok": "1", "completion_usd_per_mtok": "1", "valid_from_us": 1});
    operator.post(&path, past).await.expect(400);
    let from_us = i64::try_from(now()).expect("a time") * 1_000_000 + 3_000_000;
    let lower = json!({"prompt_usd_per_mtok": "0.10", "completion_usd_per_mtok": "0.10", "valid_from_us": from_us});
    let set = operator.post(&path, lower.clone()).await.expect(201);
    assert_eq!(set["valid_from_us"], from_us);
    operator.post(&path, lower).await.expect(409);
    // The provider asks more than the price to come, and serves until it begins.
    let answer = client.ask("before", json!({})).await;
    assert_eq!(answer.choices[0].message.content.as_deref(), Some("ok"));
    let in_force = operator.get(&format!("/models/{}", MODEL.replace('/', "%2F"))).await.expect(200);
    assert_eq!(in_force["reference"]["completion_usd_per_mtok"], crate::support::ASK.1);
    wait_until("the lower cap begins", Duration::from_secs(10), async || {
        client.post(Client::body("after", json!({})).to_string()).await.status() == 503
    })
    .await;
    let prices = operator.get(&path).await.expect(200);
    let listed: Vec<&serde_json::Value> =
        prices["data"].as_array().expect("a list").iter().map(|price| &price["completion_usd_per_mtok"]).collect();
    assert_eq!(listed, [crate::support::ASK.1, "0.1"], "the history is kept");
    let raised = json!({"prompt_usd_per_mtok": "9", "completion_usd_per_mtok": "9"});
    operator.post(&path, raised).await.expect(201);
    network.serves(MODEL).await;
    network.finish().await;
}
