//! What is personal of an account, or of a provider, goes when it is erased; the books stay right. Strings that occur nowhere
//! else are put wherever one can be put, and looked for in every column of every table, and in all that Redis was ever told.

use std::collections::BTreeSet;
use std::time::Duration;

use lumbung_gateway::domain::calendar::Day;
use lumbung_gateway::domain::role::Role;
use lumbung_openapi::money::NanoUsd;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Operator, now};
use crate::support::client::Client;
use crate::support::everything::{Monitor, places_of};
use crate::support::process::wait_until;
use crate::support::provider::Provider;
use crate::support::redis::OwnRedis;
use crate::support::{Books, MODEL, Network, Setup, usd};

/// Is in everything that is to go.
const CANARY: &str = "Kenariabu5521";
/// Longer than earnings are held back, and than new payout details wait.
const WEEK: Duration = Duration::from_secs(7 * 86_400 + 1);

/// Text of a person's.
fn text(what: &str) -> String {
    format!("{CANARY}-{what}")
}

async fn call(operator: &Operator, method: Method, path: &str, key: &str, body: Value, status: u16) -> Value {
    operator.call(method, path, Some(&text(key)), Some(body)).await.expect(status)
}

fn id_of(value: &Value) -> &str {
    value["id"].as_str().expect("an id")
}

fn amount(value: &Value) -> NanoUsd {
    value.as_str().expect("an amount").parse().expect("an amount")
}

async fn provider(network: &Network) -> Provider {
    let reply = format!("{CANARY} is what you asked about.");
    let slow = json!({"match": "slow", "tokens": 6000, "prompt_tokens": 5, "delay_ms_per_token": 10});
    network.scripted(json!([slow, {"match": "*", "reply": reply, "prompt_tokens": 5}])).await
}

/// Waits until a provider has signed for an answer.
async fn is_signed(client: &Client, answer: &str) {
    wait_until("the provider has signed", Duration::from_secs(20), async || {
        !client.receipt(answer).await["attempts"][0]["proof"].is_null()
    })
    .await;
}

/// Somebody who has left text everywhere.
struct Person {
    account: String,
    client: Client,
    management: String,
}

impl Person {
    fn path(&self) -> String {
        format!("/accounts/{}", self.account)
    }

    async fn arrives(network: &Network, admin: &Operator) -> Self {
        let post =
            async |path: &str, key: &str, body: Value, status| call(admin, Method::POST, path, key, body, status).await;
        let account = post("/accounts", "open", json!({"name": text("name")}), 201).await;
        let account = id_of(&account).to_owned();
        let path = format!("/accounts/{account}");
        let credit = format!("{path}/credit");
        let paid = json!({"amount_usd": "5", "kind": "paid", "reference": text("payment")});
        post(&credit, "pay", paid, 201).await;
        let given = json!({"amount_usd": "0.0003", "kind": "promotional", "reference": text("gift")});
        post(&credit, "give", given, 201).await;
        let refund = json!({"amount_usd": "1", "reference": text("refund")});
        post(&format!("{path}/refunds"), "refund", refund, 201).await;
        post(&format!("{path}/refunds"), "too-much", json!({"amount_usd": "50"}), 409).await;
        let made = post(&format!("{path}/keys"), "key", json!({"label": text("label")}), 201).await;
        let key = made["key"].as_str().expect("the key").to_owned();
        let change = json!({"label": text("new-label")});
        call(admin, Method::PATCH, &format!("/keys/{}", id_of(&made["record"])), "rename", change, 200).await;
        let limits = json!({"budget_month_usd": "100", "models": [MODEL]});
        call(admin, Method::PUT, &format!("{path}/limits"), "limits", limits, 200).await;
        call(admin, Method::PUT, &format!("{path}/low-balance"), "low", json!({"threshold_usd": "1"}), 200).await;
        let manages = json!({"label": text("management"), "management": true});
        let manages = post(&format!("{path}/keys"), "manages", manages, 201).await;
        let management = manages["key"].as_str().expect("the key").to_owned();
        let client = Client::new(network.base.clone(), key, account.parse().expect("an id"));
        let own = client.http.post(format!("{}/v1/keys", network.base)).bearer_auth(&management);
        let own = own.json(&json!({"name": text("own-key"), "limit": 3})).send().await.expect("an answer");
        assert!(own.status().is_success(), "{}", own.status());
        Self { account, client, management }
    }

    /// Asks, with text in everything that a request can hold.
    async fn asks(&self) {
        let more = json!({"user": text("user"), "metadata": {"who": text("metadata")}, "max_tokens": 20});
        let body = Client::body(&text("prompt"), more).to_string();
        let request = self.client.http.post(format!("{}/v1/chat/completions", self.client.base));
        let request = request.bearer_auth(&self.client.key).header("content-type", "application/json").body(body);
        let request = request.header("x-request-id", text("request")).header("x-title", text("title"));
        let answer = request.header("user-agent", text("agent")).send().await.expect("an answer");
        let answer = answer.json::<Value>().await.expect("JSON");
        is_signed(&self.client, id_of(&answer)).await;
        let mut previous = Value::Null;
        for turn in ["first", "second"] {
            let body = json!({"model": MODEL, "input": text(turn), "previous_response_id": previous,
                "metadata": {"who": text("metadata")}, "instructions": text("instructions"), "max_output_tokens": 20});
            let request = self.client.http.post(format!("{}/v1/responses", self.client.base));
            let answer = request.bearer_auth(&self.client.key).json(&body).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
            previous = answer.json::<Value>().await.expect("JSON")["id"].clone();
        }
    }
}

/// Where text of a person's is expected before it is erased: so that looking for it is known to find it.
const PLACES: [&str; 8] = [
    "accounts.name",
    "api_keys.label",
    "audit_log.idempotency_key",
    "idempotency_keys.idempotency_key",
    "postings.reference",
    "promotional_decisions.reason",
    "responses.input",
    "responses.output",
];

fn places(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn account_is_erased(books: Books) {
    let redis = OwnRedis::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let monitor = Monitor::start(&redis.url(), folder.path());
    let mut setup = Setup::new(books).with_gateway_flag("--store-responses-days", "1");
    if books == Books::Postgres {
        setup = setup.shared_over(redis.url());
    }
    let network = setup.start().await;
    let other = if books == Books::Postgres { Some(network.another_gateway().await) } else { None };
    let (admin, billing) = (Operator::new(&network, Role::Admin).await, Operator::new(&network, Role::Billing).await);
    let provider = provider(&network).await;
    let person = Person::arrives(&network, &admin).await;
    person.asks().await;
    let decision =
        json!({"provider": provider.id(), "account": person.account, "verdict": "refuse", "reason": text("why")});
    call(&admin, Method::POST, "/promotional/decisions", "decide", decision, 201).await;
    if let Some(other) = &other {
        // It has something set aside at both.
        let elsewhere = Client::new(other.base.clone(), person.client.key.clone(), person.client.account);
        elsewhere.ask("x", json!({"max_tokens": 20})).await;
    }
    let before = places_of(CANARY, &network.books_url()).await;
    assert!(before.is_superset(&places(&PLACES)), "{before:?}");

    // Not by anybody, nor while it asks, nor without a word about its credit.
    let erase = format!("{}/erase", person.path());
    billing.post(&erase, json!({"balance": "refund"})).await.expect(403);
    let asked = admin.post(&erase, json!({"balance": "keep"})).await.expect(400);
    assert_eq!(asked["error"]["param"], "balance");
    admin.post("/accounts/acct_01K00000000000000000000000/erase", json!({})).await.expect(404);
    let stream = person.client.open("slow", json!({"max_tokens": 6000})).await;
    let refused = admin.post(&erase, json!({"balance": "refund"})).await.expect(409);
    assert!(
        refused["error"]["message"].as_str().is_some_and(|why| why.contains("requests may be running")),
        "{refused}"
    );
    drop(stream); // a minute before its end
    let mut refused = Value::Null;
    wait_until("what was set aside is back", Duration::from_secs(30), async || {
        refused = admin.post(&erase, json!({})).await.expect(409);
        refused["error"]["message"].as_str().is_some_and(|why| why.contains("of credit is left"))
    })
    .await;
    assert_eq!(admin.get(&person.path()).await.expect(200)["closed_at_us"], Value::Null, "nothing is done in part");
    assert_eq!(places_of(CANARY, &network.books_url()).await, before);

    let had = admin.get(&person.path()).await.expect(200)["balance"].clone();
    let erased = admin.post(&erase, json!({"balance": "refund"})).await.expect(200);
    let rows = |erased: &Value, kind: &str| {
        let rows = erased["rows"].as_array().expect("rows").iter().find(|rows| rows["kind"] == kind);
        rows.unwrap_or_else(|| panic!("no {kind} in {erased}"))["rows"].as_i64().expect("a number")
    };
    let counts = ["name", "api_keys", "responses", "low_balance", "payment_references", "decision_reasons"];
    assert_eq!(counts.map(|kind| rows(&erased, kind)), [1, 3, 2, 1, 3, 1], "{erased}");
    assert!(rows(&erased, "stored_answers") >= 9 && rows(&erased, "audit_keys") >= 10, "{erased}");
    assert_eq!(erased["lapsed_usd"], had["promotional_usd"]);
    let left = amount(&erased["refunded_usd"]).checked_add(amount(&erased["lapsed_usd"]));
    assert_eq!(left, Some(amount(&had["credit_usd"])));

    // Its keys are good nowhere.
    let gateways = other.iter().map(|other| other.base.clone()).chain([network.base.clone()]);
    for base in gateways {
        for key in [&person.client.key, &person.management] {
            let is_refused = async || {
                let asked = person.client.http.get(format!("{base}/v1/credits")).bearer_auth(key).send().await;
                asked.expect("an answer").status() == 401
            };
            wait_until("the key is refused", Duration::from_secs(10), is_refused).await;
        }
    }
    // Nothing of it is left, and nothing new is taken.
    let credit = json!({"amount_usd": "1", "kind": "paid", "reference": text("late")});
    admin.post(&format!("{}/credit", person.path()), credit).await.expect(409);
    admin.post(&format!("{}/keys", person.path()), json!({"label": text("late")})).await.expect(404);
    for what in ["limits", "low-balance"] {
        let path = format!("{}/{what}", person.path());
        let body = if what == "limits" { json!({}) } else { json!({"threshold_usd": "1"}) };
        admin.call(Method::PUT, &path, None, Some(body)).await.expect(404);
    }
    let after = places_of(CANARY, &network.books_url()).await;
    assert_eq!(after, BTreeSet::new());
    let account = admin.get(&person.path()).await.expect(200);
    assert_eq!((&account["name"], &account["balance"]["spendable_usd"]), (&json!(""), &json!("0")));
    assert!(account["erased_at_us"].is_i64() && account["closed_at_us"].is_i64());
    let keys = admin.get(&format!("/keys?account={}", person.account)).await.expect(200);
    for key in keys["data"].as_array().expect("a list") {
        assert_eq!((&key["label"], &key["shown_prefix"]), (&json!(""), &json!("")));
        assert!(key["revoked_at_us"].is_i64());
    }
    if books == Books::Postgres {
        let told = monitor.told();
        assert!(told.contains(&person.account), "Redis was told of the account: {told}");
        assert!(!told.contains(CANARY), "Redis was told what it need not know");
        assert_eq!(monitor.kept_for_ever(), "", "nothing in Redis stays");
    }
    assert!(!network.gateway.log().contains(CANARY), "nor is it in the log");

    // The books are as they were, under the account's id.
    network.check_books().await;
    let month = Day::of_us(now() as i64 * 1_000_000).to_string()[..7].to_owned();
    let invoice = admin.get(&format!("{}/invoices/{month}", person.path())).await.expect(200);
    let [opening, credits, usage] = ["opening_usd", "credits_usd", "usage_usd"].map(|name| amount(&invoice[name]));
    assert_eq!((&invoice["name"], &invoice["closing_usd"]), (&json!(""), &json!("0")), "{invoice}");
    assert_eq!(opening.checked_add(credits).and_then(|sum| sum.checked_sub(usage)), Some(NanoUsd::ZERO));
    assert!(usage > NanoUsd::ZERO && !invoice.to_string().contains(CANARY));
    // A payment is not credited twice, though only its reference's hash is left.
    let stranger = admin.post("/accounts", json!({"name": "Budi"})).await.expect(201);
    let again = json!({"amount_usd": "5", "kind": "paid", "reference": text("payment")});
    admin.post(&format!("/accounts/{}/credit", id_of(&stranger)), again).await.expect(409);

    // Who did it and how much it was is in the audit log; doing it again takes nothing.
    let log = admin.get(&format!("/audit?resource={}&limit=1000", person.account)).await.expect(200);
    let done = log["data"].as_array().expect("a list").iter().filter(|line| line["detail"].is_object());
    let done: Vec<&Value> = done.collect();
    assert_eq!(done.len(), 1, "{log}");
    assert_eq!((&done[0]["subject"], &done[0]["status"]), (&json!("olga"), &json!(200)));
    assert_eq!(done[0]["detail"]["erased_rows"]["api_keys"], 3);
    let second = admin.post(&erase, json!({})).await.expect(200);
    assert!(second["rows"].as_array().expect("rows").iter().all(|rows| rows["rows"] == 0), "{second}");
    assert_eq!(places_of(CANARY, &network.books_url()).await, BTreeSet::new());
    if let Some(other) = other {
        other.stop().await;
    }
    network.finish().await;
}

#[tokio::test]
async fn of_an_account_that_is_erased_nothing_personal_is_left_on_sqlite() {
    account_is_erased(Books::Sqlite).await;
}

#[tokio::test]
async fn of_an_account_that_is_erased_nothing_personal_is_left_on_postgres() {
    account_is_erased(Books::Postgres).await;
}

async fn provider_is_erased(books: Books) {
    let network = Setup::new(books).start().await;
    let admin = Operator::new(&network, Role::Admin).await;
    let provider = provider(&network).await;
    let id = provider.id();
    let known = id.parse().expect("an id");
    network.store.set_payout_details(&known, &text("iban")).await.expect("set");
    let client = network.client("1").await;
    for _ in 0..2 {
        is_signed(&client, &client.ask("x", json!({"max_tokens": 20})).await.id).await;
    }
    let claw =
        json!({"provider": id, "amount_usd": "0.000001", "reason": text("reason"), "evidence": text("evidence")});
    call(&admin, Method::POST, "/clawbacks", "claw", claw, 201).await;
    let erase = format!("/providers/{id}/erase");
    let refused = async |why: &str| {
        let refused = admin.post(&erase, json!({})).await.expect(409);
        assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains(why)), "{why}: {refused}");
    };
    refused("is held back").await;
    network.store.shift_clock(WEEK);
    network.store.mature(WEEK - Duration::from_secs(1)).await.expect("an answer");
    refused("is payable").await;
    let terms = json!({"minimum_usd": "0.000001", "reference": "november"});
    let run = admin.post("/payout-runs", terms).await.expect(201);
    let payouts = admin.get(&format!("/payout-runs/{}", id_of(&run))).await.expect(200);
    let confirm = format!("/payouts/{}/confirm", id_of(&payouts["payouts"][0]));
    refused("is on its way").await;
    call(&admin, Method::POST, &confirm, "confirm", json!({"reference": text("transfer")}), 200).await;
    let expected = places(&[
        "payout_details.details",
        "payouts.details",
        "payouts.reference",
        "clawbacks.reason",
        "clawbacks.evidence",
        "webhook_events.body",
        "audit_log.idempotency_key",
        "idempotency_keys.body",
    ]);
    wait_until("the payout's event is written", Duration::from_secs(20), async || {
        places_of(CANARY, &network.books_url()).await.is_superset(&expected)
    })
    .await;

    let erased = admin.post(&erase, json!({})).await.expect(200);
    let rows = erased["rows"].as_array().expect("rows");
    let gone = |kind: &str| rows.iter().find(|rows| rows["kind"] == kind).map(|rows| rows["rows"].clone());
    for kind in ["payout_details", "payouts", "clawback_reasons", "payout_references", "event_references"] {
        assert_eq!(gone(kind), Some(json!(1)), "{kind}: {erased}");
    }
    assert_eq!(places_of(CANARY, &network.books_url()).await, BTreeSet::new());
    network.check_books().await;
    let statement = admin.get(&format!("/providers/{id}/earnings")).await.expect(200);
    assert!(amount(&statement["totals"]["paid_usd"]) > usd("0"), "{statement}");
    admin.get(&format!("/payout-runs/{}", id_of(&run))).await.expect(200);
    let second = admin.post(&erase, json!({})).await.expect(200);
    assert!(second["rows"].as_array().expect("rows").iter().all(|rows| rows["rows"] == 0), "{second}");
    admin.post("/providers/kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k/erase", json!({})).await.expect(404);
    // The payout is not told again.
    network.store.gather_webhook_events().await.expect("an answer");
    assert_eq!(places_of(CANARY, &network.books_url()).await, BTreeSet::new());
    network.finish().await;
}

#[tokio::test]
async fn of_a_provider_that_is_erased_nothing_personal_is_left_on_sqlite() {
    provider_is_erased(Books::Sqlite).await;
}

#[tokio::test]
async fn of_a_provider_that_is_erased_nothing_personal_is_left_on_postgres() {
    provider_is_erased(Books::Postgres).await;
}
