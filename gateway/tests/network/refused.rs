//! What a gateway must not accept from a provider.

use std::time::Duration;

use lumbung_openapi::jws::{HmacKey, SigningKey};
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, JOIN_SCHEME, JOIN_TYP, JoinClaims, RECEIPTS_PATH, TUNNEL_PATH, TUNNEL_PROTOCOL,
};
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptClaims, ReceiptVerdict, ReceiptVerdicts};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};
use serde_json::json;

use crate::support::process::wait_until;
use crate::support::{Books, Network, Setup, usd};

async fn join(network: &Network, key: &SigningKey, aud: &str) -> String {
    let url = format!("{}{CHALLENGE_PATH}", network.base);
    let challenge: Challenge = reqwest::get(url).await.expect("a challenge").json().await.expect("JSON");
    key.sign_with_jwk(JOIN_TYP, &JoinClaims { aud: aud.into(), challenge: challenge.challenge, agent: "test/1".into() })
}

async fn dial(network: &Network, join: &str) -> u16 {
    let request = reqwest::Client::new().get(format!("{}{TUNNEL_PATH}", network.base));
    let request = request.header("connection", "upgrade").header("upgrade", TUNNEL_PROTOCOL);
    request.header("authorization", format!("{JOIN_SCHEME} {join}")).send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn joins_that_are_replayed_or_meant_for_another_gateway() {
    let network = Setup::new(Books::Sqlite).start().await;
    let key = SigningKey::from_seed(&[9; 32]);
    let good = join(&network, &key, &network.base).await;
    assert_eq!(dial(&network, &good).await, 101);
    assert_eq!(dial(&network, &good).await, 401, "a replayed join");
    let elsewhere = join(&network, &key, "https://gateway.example").await;
    assert_eq!(dial(&network, &elsewhere).await, 403, "signed for another gateway");
    let mut forged = join(&network, &key, &network.base).await;
    let last = forged.pop().expect("a signature");
    forged.push(if last == 'A' { 'Q' } else { 'A' });
    assert_eq!(dial(&network, &forged).await, 401);
    assert_eq!(dial(&network, "nonsense").await, 401);

    let banned = lumbung_gateway::domain::ids::ProviderId::from(key.public());
    network.store.set_standing(&banned, lumbung_gateway::domain::provider::Standing::Banned).await.expect("banned");
    let again = join(&network, &key, &network.base).await;
    assert_eq!(dial(&network, &again).await, 403, "a banned provider");
    network.finish().await;
}

/// Offers receipts as `key`'s owner; the verdicts, or the status where the batch as a whole is refused.
async fn offer(network: &Network, batch: &ReceiptBatch) -> Result<Vec<ReceiptVerdict>, u16> {
    let request = reqwest::Client::new().post(format!("{}{RECEIPTS_PATH}", network.base)).json(batch);
    let response = request.send().await.expect("an answer");
    match response.status().as_u16() {
        200 => Ok(response.json::<ReceiptVerdicts>().await.expect("verdicts").verdicts),
        status => Err(status),
    }
}

fn is_refused(verdicts: Result<Vec<ReceiptVerdict>, u16>) -> bool {
    matches!(verdicts.as_deref(), Ok([ReceiptVerdict::Refused { .. }]))
}

#[tokio::test]
async fn receipts_that_are_not_in_order() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 5}])).await;
    let client = network.client("1").await;
    let answer = client.ask("x", json!({"max_tokens": 50})).await;
    let balance = network.charged(&client.account, usd("1")).await;
    wait_until("the provider has signed", Duration::from_secs(10), async || {
        !client.receipt(&answer.id).await["attempts"][0]["proof"].is_null()
    })
    .await;
    let shown = client.receipt(&answer.id).await;
    let genuine: Receipt = serde_json::from_value(shown["attempts"][0]["receipt"].clone()).expect("a receipt");
    let key = SigningKey::from_seed(&provider.seed());
    let sign = |receipt: &Receipt| ReceiptBatch::sign(&key, vec![receipt.clone()], 1);

    for _ in 0..2 {
        assert_eq!(
            offer(&network, &sign(&genuine)).await,
            Ok(vec![ReceiptVerdict::Committed]),
            "offered again, acknowledged again"
        );
    }
    let mut changed = sign(&genuine);
    changed.receipts[0].claims =
        changed.receipts[0].claims.replace("\"completion_tokens\":10", "\"completion_tokens\":11");
    assert_ne!(changed.receipts[0], genuine);
    assert_eq!(offer(&network, &changed).await, Err(401), "one bit changed after signing");

    let mut flipped = genuine.clone();
    let at = flipped.ticket.rfind('.').expect("a JWS") - 3;
    let other = if flipped.ticket.as_bytes()[at] == b'A' { "B" } else { "A" };
    flipped.ticket.replace_range(at..=at, other);
    assert!(is_refused(offer(&network, &sign(&flipped)).await), "a ticket with one character changed");

    let ticketless = Receipt { ticket: "none".into(), ..genuine.clone() };
    assert!(is_refused(offer(&network, &sign(&ticketless)).await), "without a ticket");

    let stranger = SigningKey::from_seed(&[77; 32]);
    let theirs = |key: &SigningKey| ReceiptBatch::sign(key, vec![genuine.clone()], 1);
    assert_eq!(offer(&network, &theirs(&stranger)).await, Err(401), "of somebody who has never joined");
    let other = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 5}])).await;
    let other = SigningKey::from_seed(&other.seed());
    assert!(is_refused(offer(&network, &theirs(&other)).await), "of another provider");

    let claims: ReceiptClaims = serde_json::from_str(&genuine.claims).expect("claims");
    let greedy = ReceiptClaims { completion_tokens: 51, ..claims.clone() };
    let greedy = Receipt { claims: serde_json::to_string(&greedy).expect("JSON"), ..genuine.clone() };
    assert!(is_refused(offer(&network, &sign(&greedy)).await), "above its ceiling");

    let second = ReceiptClaims { completion_tokens: 9, ..claims };
    let second = Receipt { claims: serde_json::to_string(&second).expect("JSON"), ..genuine.clone() };
    assert!(is_refused(offer(&network, &sign(&second)).await), "another receipt for the same attempt");

    // Signed with a key of the forger's own, for a job that never was.
    let ticket: Ticket = lumbung_openapi::jws::peek(&genuine.ticket).expect("a ticket");
    let invented = Ticket { job: lumbung_gateway::domain::ids::JobId::fresh().to_string(), ..ticket };
    let kid = lumbung_openapi::jws::key_id(&genuine.ticket).expect("a key id");
    let invented = HmacKey::from_secret(&[1; 32]).sign(TICKET_TYP, &kid, &invented);
    let invented = Receipt { ticket: invented, ..genuine.clone() };
    assert!(is_refused(offer(&network, &sign(&invented)).await), "a ticket that this network did not issue");

    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(network.balance(&client.account).await, balance, "none of it moved money");
    let record: serde_json::Value =
        serde_json::from_str(shown["attempts"][0]["record"].as_str().expect("text")).expect("JSON");
    assert_eq!(record["completion_tokens"], 10);
    network.finish().await;
}
