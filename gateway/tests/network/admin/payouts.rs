//! What providers earn and how they are paid, over HTTP, after real answers.

use std::time::Duration;

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::role::Role;
use lumbung_openapi::jws::SigningKey;
use reqwest::Method;
use serde_json::{Value, json};

use super::Operator;
use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::Provider;
use crate::support::{Books, Network, Setup, usd};

/// Longer than earnings are held back, and than new payout details wait.
const WEEK: Duration = Duration::from_secs(7 * 86_400 + 1);
/// The share of one answer: 5 and 10 tokens at 0.50 and 2 dollars per million, less the operator's tenth.
const SHARE: &str = "0.00002025";

async fn provider(network: &Network) -> (Provider, ProviderId) {
    let provider = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 5}])).await;
    let id = ProviderId::from(SigningKey::from_seed(&provider.seed()).public());
    (provider, id)
}

/// Lets a client ask, waits for the signed receipts, and says which jobs these were.
async fn earn(client: &Client, answers: usize) -> Vec<String> {
    let mut jobs = Vec::new();
    for _ in 0..answers {
        let answer = client.ask("x", json!({"max_tokens": 50})).await.id;
        wait_until("the provider has signed", Duration::from_secs(10), async || {
            !client.receipt(&answer).await["attempts"][0]["proof"].is_null()
        })
        .await;
        jobs.push(answer);
    }
    jobs
}

async fn mature(network: &Network) {
    network.store.shift_clock(WEEK);
    network.store.mature(WEEK - Duration::from_secs(1)).await.expect("answer");
}

async fn csv(network: &Network, operator: &Operator, path: &str) -> String {
    let url = format!("{}/admin/v1{path}", network.base);
    let request = reqwest::Client::new().get(url).bearer_auth(&operator.token).header("accept", "text/csv");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
    response.text().await.expect("text")
}

async fn pays(books: Books) {
    let network = Setup::new(books).start().await;
    let (_provider, id) = provider(&network).await;
    let client = network.client("1").await;
    let (admin, billing) = (Operator::new(&network, Role::Admin).await, Operator::new(&network, Role::Billing).await);
    network.store.set_payout_details(&id, "=DE02 1203").await.expect("set");
    earn(&client, 2).await;
    let earnings = format!("/providers/{id}/earnings");
    let page = billing.get(&format!("{earnings}?limit=1")).await.expect(200);
    assert_eq!((&page["totals"]["pending_usd"], &page["has_more"]), (&json!("0.0000405"), &json!(true)));
    let next = page["next_cursor"].as_str().expect("a cursor");
    let page = billing.get(&format!("{earnings}?limit=1&after={next}")).await.expect(200);
    assert_eq!((&page["data"][0]["share_usd"], &page["has_more"]), (&json!(SHARE), &json!(false)));
    let text = csv(&network, &billing, &earnings).await;
    assert!(text.starts_with("job,attempt,model,") && text.lines().count() == 3, "{text}");
    assert!(text.contains(",pending,"), "{text}");

    // A run is made once.
    mature(&network).await;
    let terms = json!({"minimum_usd": "0.00001", "reference": "november"});
    let make = async |key: &str| billing.call(Method::POST, "/payout-runs", Some(key), Some(terms.clone())).await;
    let (first, second) = (make("k1").await, make("k1").await);
    assert!(second.replayed && !first.replayed);
    assert_eq!((first.status, &first.body), (201, &second.body));
    assert_eq!((&first.body["payouts"], &first.body["total_usd"]), (&json!(1), &json!("0.0000405")));
    assert_eq!(make("k2").await.expect(201), first.body, "the same reference does not run twice");
    earn(&client, 1).await;
    mature(&network).await;
    let other = billing.post("/payout-runs", json!({"minimum_usd": "0.00001"})).await.expect(201);
    let list = billing.get("/payout-runs?limit=1").await.expect(200);
    assert_eq!((&list["data"][0], &list["has_more"]), (&first.body, &json!(true)));
    let next = list["next_cursor"].as_str().expect("a cursor");
    let list = billing.get(&format!("/payout-runs?after={next}")).await.expect(200);
    assert_eq!(list["data"], json!([other]));

    let payout_of = async |run: &Value| {
        let path = format!("/payout-runs/{}", run["id"].as_str().expect("an id"));
        let detail = billing.get(&path).await.expect(200);
        assert_eq!(&detail["run"], run);
        let text = csv(&network, &billing, &path).await;
        assert!(text.contains(",\"'=DE02 1203\",1,in_transit,,"), "no formula: {text}");
        detail["payouts"][0].clone()
    };
    let (arrives, returns) = (payout_of(&first.body).await, payout_of(&other).await);
    let path = |payout: &Value, act: &str| format!("/payouts/{}/{act}", payout["id"].as_str().expect("an id"));
    let confirm = path(&arrives, "confirm");
    let confirmed = billing.post(&confirm, json!({"reference": "transfer 7"})).await.expect(200);
    assert_eq!((&confirmed["state"], &confirmed["reference"]), (&json!("confirmed"), &json!("transfer 7")));
    assert_eq!(billing.post(&confirm, json!({"reference": "transfer 7"})).await.expect(200), confirmed);
    billing.post(&confirm, json!({"reference": "transfer 8"})).await.expect(409);
    admin.post(&path(&arrives, "reverse"), json!({})).await.expect(409);
    billing.post(&path(&returns, "reverse"), json!({})).await.expect(403);
    let reversed = admin.post(&path(&returns, "reverse"), json!({})).await.expect(200);
    assert_eq!((&reversed["state"], &reversed["amount_usd"]), (&json!("reversed"), &json!(SHARE)));
    let totals = &billing.get(&earnings).await.expect(200)["totals"];
    assert_eq!((&totals["paid_usd"], &totals["payable_usd"]), (&json!("0.0000405"), &json!(SHARE)));
    assert_eq!(totals["in_transit_usd"], "0");
    network.check_books().await;

    let audit = admin.get("/audit?limit=1000").await.expect(200);
    let of = |resource: &Value| {
        let lines = audit["data"].as_array().expect("a list");
        lines.iter().filter(|line| line["resource"] == *resource && line["status"].as_i64() < Some(400)).count()
    };
    assert_eq!((of(&first.body["id"]), of(&arrives["id"]), of(&returns["id"])), (2, 2, 1));
    network.finish().await;
}

#[tokio::test]
async fn a_payout_run_is_made_once_confirmed_and_reversed_on_sqlite() {
    pays(Books::Sqlite).await;
}

#[tokio::test]
async fn a_payout_run_is_made_once_confirmed_and_reversed_on_postgres() {
    pays(Books::Postgres).await;
}

async fn takes_back_and_decides(books: Books) {
    let network = Setup::new(books).start().await;
    let (_provider, id) = provider(&network).await;
    let client = network.client("1").await;
    let admin = Operator::new(&network, Role::Admin).await;
    let jobs = earn(&client, 2).await;
    network.balance_becomes(&client.account, usd("0.999955")).await;
    let job = client.receipt(&jobs[0]).await["job"].clone();
    let of_job = json!({"provider": id, "jobs": [job], "reason": "audit 7", "evidence": "{\"audit\": 7}"});
    let back = |key| admin.call(Method::POST, "/clawbacks", Some(key), Some(of_job.clone()));
    let (first, again) = (back("c1").await, back("c1").await);
    assert!(again.replayed && again.body == first.body);
    let first = first.expect(201);
    assert_eq!((&first["amount_usd"], &first["refunded_usd"]), (&json!(SHARE), &json!(SHARE)));
    back("c2").await.expect(409);
    let amount = json!({"provider": id, "amount_usd": "0.00000025", "reason": "a fee"});
    let second = admin.post("/clawbacks", amount).await.expect(201);
    assert_eq!(second["refunded_usd"], "0");
    let list = admin.get(&format!("/clawbacks?provider={id}")).await.expect(200);
    let mut listed = list["data"].as_array().expect("a list").clone();
    listed.sort_by_key(|clawback| clawback["at_us"].as_i64());
    assert_eq!(listed, [first, second]);
    let totals = &admin.get(&format!("/providers/{id}/earnings")).await.expect(200)["totals"];
    assert_eq!((&totals["pending_usd"], &totals["clawed_back_usd"]), (&json!("0.00002"), &json!("0.0000205")));

    // What is given away is spent first, and its shares wait for a decision.
    let account = client.account.to_string();
    let gift = json!({"amount_usd": "0.0000225", "kind": "promotional"});
    let moved = admin.post(&format!("/accounts/{account}/credit"), gift).await.expect(201);
    assert_eq!(moved["balance"]["promotional_usd"], "0.0000225");
    earn(&client, 1).await;
    let held = admin.get("/promotional").await.expect(200);
    assert_eq!(
        held["data"],
        json!([{"provider": id, "account": account, "attempts": 1, "amount_usd": SHARE, "proven_usd": SHARE}])
    );
    let after = admin.get(&format!("/promotional?after={id}.{account}")).await.expect(200);
    assert_eq!(after["data"], json!([]));
    let decision = json!({"provider": id, "account": account, "verdict": "approve", "reason": "a known tester"});
    let decide = |key| admin.call(Method::POST, "/promotional/decisions", Some(key), Some(decision.clone()));
    let (first, again) = (decide("d1").await, decide("d1").await);
    assert!(again.replayed && again.body == first.body);
    let decided = first.expect(201);
    assert_eq!((&decided["verdict"], &decided["amount_usd"]), (&json!("approve"), &json!(SHARE)));
    decide("d2").await.expect(409);
    let totals = &admin.get(&format!("/providers/{id}/earnings")).await.expect(200)["totals"];
    assert_eq!((&totals["promotional_usd"], &totals["payable_usd"]), (&json!("0"), &json!(SHARE)));
    network.check_books().await;
    network.finish().await;
}

#[tokio::test]
async fn earnings_are_taken_back_and_promotional_shares_decided_on_sqlite() {
    takes_back_and_decides(Books::Sqlite).await;
}

#[tokio::test]
async fn earnings_are_taken_back_and_promotional_shares_decided_on_postgres() {
    takes_back_and_decides(Books::Postgres).await;
}

#[tokio::test]
async fn faults_about_money_for_providers_are_named() {
    let network = Setup::new(Books::Sqlite).start().await;
    let admin = Operator::new(&network, Role::Admin).await;
    let (reader, billing) =
        (Operator::new(&network, Role::ReadOnly).await, Operator::new(&network, Role::Billing).await);
    let stranger = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    let claw = |more: Value| {
        let mut body = json!({"provider": stranger, "reason": "why"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let confirm = "/payouts/pay_01K00000000000000000000000/confirm";
    for (path, body, param) in [
        ("/payout-runs", json!({"minimum_usd": "0"}), "minimum_usd"),
        ("/payout-runs", json!({"minimum_usd": "-1"}), "minimum_usd"),
        ("/payout-runs", json!({"minimum_usd": 10}), "minimum_usd"),
        ("/payout-runs", json!({"minimum_usd": "1", "reference": "a\nb"}), "reference"),
        ("/payout-runs", json!({"minimum_usd": "1", "reference": "é".repeat(101)}), "reference"),
        ("/clawbacks", claw(json!({"amount_usd": "0"})), "amount_usd"),
        ("/clawbacks", claw(json!({"amount_usd": "1e3"})), "amount_usd"),
        ("/clawbacks", claw(json!({"jobs": []})), "jobs"),
        ("/clawbacks", claw(json!({"jobs": ["x"]})), "jobs"),
        ("/clawbacks", claw(json!({})), "jobs"),
        ("/clawbacks", claw(json!({"jobs": ["x"], "amount_usd": "1"})), "jobs"),
        ("/clawbacks", claw(json!({"amount_usd": "1", "provider": "x"})), "provider"),
        ("/clawbacks", claw(json!({"amount_usd": "1", "reason": " "})), "reason"),
        ("/clawbacks", claw(json!({"amount_usd": "1", "evidence": "\u{0}"})), "evidence"),
        ("/promotional/decisions", claw(json!({"verdict": "maybe"})), "verdict"),
        ("/promotional/decisions", claw(json!({"verdict": "refuse", "account": "x"})), "account"),
        (confirm, json!({"reference": ""}), "reference"),
    ] {
        let refused = admin.post(path, body.clone()).await.expect(400);
        assert_eq!(refused["error"]["param"], param, "{body}: {refused}");
    }
    for (path, body) in [
        ("/clawbacks", claw(json!({"amount_usd": "1"}))),
        ("/promotional/decisions", claw(json!({"verdict": "refuse"}))),
        (confirm, json!({"reference": "x"})),
        ("/payouts/pay_01K00000000000000000000000/reverse", json!({})),
        ("/payouts/nothing/reverse", json!({})),
    ] {
        reader.post(path, body.clone()).await.expect(403);
        admin.post(path, body).await.expect(404);
    }
    billing.post("/clawbacks", claw(json!({"amount_usd": "1"}))).await.expect(403);
    billing.post("/promotional/decisions", claw(json!({"verdict": "refuse"}))).await.expect(403);
    for path in ["/payout-runs/run_01K00000000000000000000000", &format!("/providers/{stranger}/earnings")] {
        reader.get(path).await.expect(404);
    }
    let earnings = format!("/providers/{stranger}/earnings");
    for (path, param) in [
        (format!("{earnings}?limit=501"), "limit"),
        (format!("{earnings}?after=x"), "after"),
        (format!("{earnings}?from_us=-1"), "from_us"),
        (format!("{earnings}?format=xml"), "format"),
        ("/clawbacks?provider=x".into(), "provider"),
        ("/promotional?after=x".into(), "after"),
    ] {
        assert_eq!(reader.get(&path).await.expect(400)["error"]["param"], param, "{path}");
    }
    assert_eq!(reader.get("/payout-runs").await.expect(200)["data"], json!([]));
    network.finish().await;
}
