//! What a provider reads of its money: `lumbung-provider earnings` against a real gateway.

use std::time::Duration;

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::store::PayoutTerms;
use lumbung_openapi::earnings::{
    EARNINGS_PATH, EarningState, EarningsStatement, PAYOUT_DETAILS_PATH, PayoutDetailsClaims, SIGNED_SCHEME,
    StatementClaims,
};
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::provider::{CHALLENGE_PATH, Challenge, ChallengeAnswer, JOIN_TYP, JoinClaims};
use serde_json::json;

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::Provider;
use crate::support::{Books, Network, Setup, programs, usd};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// What `lumbung-provider COMMAND` prints, run beside this provider.
async fn ask(network: &Network, provider: &Provider, command: &[&str]) -> String {
    let folder = provider.folder.as_ref().expect("a folder").path();
    let mut program = tokio::process::Command::new(programs().join("lumbung-provider"));
    program.arg("--data-dir").arg(folder).args(command).args(["--gateway", &network.base]);
    let output = program.output().await.expect("the program runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {errors}");
    text.into_owned()
}

async fn challenge(network: &Network) -> String {
    let url = format!("{}{CHALLENGE_PATH}", network.base);
    reqwest::get(url).await.expect("a challenge").json::<Challenge>().await.expect("JSON").challenge
}

async fn get(network: &Network, authorization: &str, query: &str) -> reqwest::Response {
    let request = reqwest::Client::new().get(format!("{}{EARNINGS_PATH}{query}", network.base));
    request.header("authorization", authorization).send().await.expect("an answer")
}

async fn statement_of(books: Books) {
    let network = Setup::new(books).start().await;
    let provider = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 5}])).await;
    let client = network.client("1").await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(client.ask("x", json!({"max_tokens": 50})).await.id);
    }
    let id = ProviderId::from(SigningKey::from_seed(&provider.seed()).public());
    proven(&client, &answers).await;
    network.balance_becomes(&client.account, usd("0.9999325")).await;

    let text = ask(&network, &provider, &["earnings", "--json"]).await;
    let shown: EarningsStatement = serde_json::from_str(&text).expect("a statement");
    assert_eq!((shown.provider.as_str(), shown.data.len()), (id.as_str(), 3));
    // 5 and 10 tokens at 0.50 and 2 dollars per million; a tenth is the operator's.
    for line in &shown.data {
        assert_eq!((line.gross, line.fee, line.share), (usd("0.0000225"), usd("0.00000225"), usd("0.00002025")));
        assert_eq!((line.prompt_tokens, line.completion_tokens), (5, 10));
        assert_eq!(line.state, EarningState::Pending);
    }
    assert_eq!(shown.totals.earned, usd("0.00006075"));
    assert_eq!(shown.totals.pending, shown.totals.earned);

    let said = ask(&network, &provider, &["payout-details", "set", "DE02 1203 0000 0000 2020 51"]).await;
    assert!(said.contains("version 1"), "{said}");
    // A week later.
    network.store.shift_clock(WEEK + Duration::from_secs(1));
    network.store.mature(WEEK).await.expect("answer");
    let terms = PayoutTerms { minimum: usd("0.00001"), cooldown: WEEK, reference: "one".into() };
    let run = network.store.create_payouts(&terms).await.expect("a run");
    assert_eq!((run.payouts, run.total), (1, usd("0.00006075")));
    let payout = network.store.payouts_of(&run.id).await.expect("payouts").remove(0);
    assert_eq!(payout.details, "DE02 1203 0000 0000 2020 51");
    network.store.confirm_payout(&payout.id, "transfer 7").await.expect("confirmed");
    let text = ask(&network, &provider, &["earnings"]).await;
    assert!(text.contains(&format!("paid in {}", payout.id)) && text.contains("transfer 7"), "{text}");
    assert!(text.contains("$0.00006075"), "{text}");
    network.finish().await;
}

/// Waits until the signed receipts of these answers are in the books.
async fn proven(client: &Client, answers: &[String]) {
    for answer in answers {
        wait_until("the provider has signed", Duration::from_secs(10), async || {
            !client.receipt(answer).await["attempts"][0]["proof"].is_null()
        })
        .await;
    }
}

#[tokio::test]
async fn a_provider_reads_what_it_earned_and_is_paid_on_sqlite() {
    statement_of(Books::Sqlite).await;
}

#[tokio::test]
async fn a_provider_reads_what_it_earned_and_is_paid_on_postgres() {
    statement_of(Books::Postgres).await;
}

#[tokio::test]
async fn a_withheld_receipt_is_explained() {
    let network = Setup::new(Books::Sqlite).start().await;
    let mut provider = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 5}])).await;
    let client = network.client("1").await;
    let answer = client.ask("x", json!({"max_tokens": 50})).await.id;
    proven(&client, &[answer]).await;
    // Its receipt is taken away from the books, as if it had never come; then its time is over.
    provider.process.kill();
    let url = format!("sqlite:{}", network.folder.path().join("books.db").display());
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&url).await.expect("a connection");
    let forget = "UPDATE attempts SET receipt_batch = NULL, receipt_index = NULL";
    sqlx::query(forget).execute(&pool).await.expect("forgotten");
    pool.close().await;
    network.store.shift_clock(WEEK);
    assert_eq!(network.store.reclaim_withheld().await.expect("answer"), 1);
    let text = ask(&network, &provider, &["earnings"]).await;
    assert!(text.contains("withheld: no signed receipt came by 20"), "{text}");
    assert!(text.contains("withheld: no signed receipt  $0.00002025"), "{text}");
    network.finish().await;
}

#[tokio::test]
async fn nobody_reads_anothers_statement_nor_uses_a_signature_twice() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 5}])).await;
    let client = network.client("1").await;
    client.ask("x", json!({"max_tokens": 50})).await;
    network.charged(&client.account, usd("1")).await;
    let (mine, foreign) = (SigningKey::from_seed(&provider.seed()), SigningKey::from_seed(&[66; 32]));
    let sign = async |key: &SigningKey, aud: &str| {
        let claims = StatementClaims { aud: aud.into(), challenge: challenge(&network).await };
        format!("{SIGNED_SCHEME} {}", key.sign_with_jwk(StatementClaims::TYP, &claims))
    };
    let good = sign(&mine, &network.base).await;
    let shown: EarningsStatement = get(&network, &good, "?limit=1").await.json().await.expect("a statement");
    assert_eq!((shown.data.len(), shown.has_more), (1, false));
    assert_eq!(get(&network, &good, "").await.status(), 401, "replayed");
    assert_eq!(get(&network, &sign(&mine, "https://other.example").await, "").await.status(), 403);
    let other: EarningsStatement =
        get(&network, &sign(&foreign, &network.base).await, "").await.json().await.expect("a statement");
    assert_eq!(
        (other.data.len(), other.totals.earned),
        (0, NanoUsd::ZERO),
        "a foreign key reads its own, which is empty"
    );
    assert_eq!(get(&network, "Bearer x", "").await.status(), 401);
    let join = JoinClaims { aud: network.base.clone(), challenge: challenge(&network).await, agent: "x/1".into() };
    let join = format!("{SIGNED_SCHEME} {}", mine.sign_with_jwk(JOIN_TYP, &join));
    assert_eq!(get(&network, &join, "").await.status(), 401, "signed for another purpose");
    for (query, parameter) in [("?limit=0", "limit"), ("?since=x", "since"), ("?after=x", "after")] {
        let response = get(&network, &sign(&mine, &network.base).await, query).await;
        assert_eq!(response.status(), 400);
        let error: serde_json::Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["param"], parameter);
    }

    let set = async |key: &SigningKey, details: &str| {
        let claims = PayoutDetailsClaims {
            aud: network.base.clone(),
            challenge: challenge(&network).await,
            details: details.into(),
        };
        let signed = format!("{SIGNED_SCHEME} {}", key.sign_with_jwk(PayoutDetailsClaims::TYP, &claims));
        let request = reqwest::Client::new().put(format!("{}{PAYOUT_DETAILS_PATH}", network.base));
        request.header("authorization", signed).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(set(&mine, "").await, 400);
    assert_eq!(set(&foreign, "DE02").await, 404, "never joined");
    assert_eq!(set(&mine, "DE02").await, 200);
    assert_eq!(set(&mine, "DE03").await, 409, "changed just now");
    network.finish().await;
}
