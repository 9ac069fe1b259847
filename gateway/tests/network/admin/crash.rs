//! A gateway that is killed in the middle of an act: the repeated call does it, once.

use std::time::Duration;

use lumbung_gateway::domain::role::Role;
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection, Row};

use super::Operator;
use crate::support::process::wait_until;
use crate::support::{Books, Setup, usd};

#[tokio::test]
async fn an_act_that_a_kill_cut_off_is_done_once_by_the_repeated_call() {
    let mut network = Setup::new(Books::Postgres).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let client = network.client("1").await;
    let path = format!("/accounts/{}/credit", client.account);
    let credit = json!({"amount_usd": "5", "kind": "paid", "reference": "invoice 7"});

    // The account's credit is held here, so that the act stops after the claim on its key and before its commit.
    let mut holder = PgConnection::connect(network.database_url()).await.expect("the database");
    let mut held = holder.begin().await.expect("a transaction");
    let hold = sqlx::query("SELECT balance FROM ledger_accounts WHERE id = $1 FOR UPDATE");
    hold.bind(format!("credit:{}", client.account)).fetch_one(&mut *held).await.expect("the account's credit");
    let call = reqwest::Client::new()
        .post(format!("{}/admin/v1{path}", network.base))
        .bearer_auth(&operator.token)
        .header("idempotency-key", "once")
        .json(&credit);
    let call = tokio::spawn(call.send());
    let mut watcher = PgConnection::connect(network.database_url()).await.expect("the database");
    wait_until("the act waits for the account's credit", Duration::from_secs(10), async || {
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND wait_event_type = 'Lock' AND query LIKE 'UPDATE ledger_accounts%'";
        let row = sqlx::query(waiting).fetch_one(&mut watcher).await.expect("an answer");
        row.get::<i64, _>(0) == 1
    })
    .await;
    network.kill_gateway();
    call.await.expect("no panic").expect_err("nobody answers");
    let claims = sqlx::query("SELECT COUNT(*) FROM idempotency_keys").fetch_one(&mut watcher).await.expect("a count");
    assert_eq!(claims.get::<i64, _>(0), 0, "the claim was never committed");
    held.rollback().await.expect("let go");

    network.restart_gateway().await;
    assert_eq!(network.balance(&client.account).await, usd("1"), "nothing of it has happened");
    let again = operator.call(Method::POST, &path, Some("once"), Some(credit.clone())).await;
    assert!(!again.replayed, "done now, and not before");
    let done = again.expect(201);
    let third = operator.call(Method::POST, &path, Some("once"), Some(credit)).await;
    assert!(third.replayed && third.body == done);
    assert_eq!(network.balance(&client.account).await, usd("6"));
    let audit = operator.get(&format!("/audit?resource={}", client.account)).await.expect(200);
    let lines = audit["data"].as_array().expect("a list");
    assert_eq!(lines.iter().filter(|line| line["detail"].is_null()).count(), 1, "one line: {audit}");
    assert_eq!(
        lines.iter().filter(|line| line["detail"]["replayed"] == true).count(),
        1,
        "and the repeated call's: {audit}"
    );
    let entries = operator.get("/ledger/entries?kind=credit_paid").await.expect(200);
    let invoices = entries["data"].as_array().expect("a list").iter().filter(|entry| entry["reference"] == "invoice 7");
    assert_eq!(invoices.count(), 2, "one posting, and its two sides");
    network.finish().await;
}

/// The account's credit is held for longer than Postgres lets a transaction wait.
#[tokio::test]
async fn an_act_that_meets_a_busy_database_is_tried_again() {
    let network = Setup::new(Books::Postgres).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let client = network.client("1").await;
    let mut holder = PgConnection::connect(network.database_url()).await.expect("the database");
    let patience = "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET lock_timeout = 100'; END $$";
    sqlx::raw_sql(patience).execute(&mut holder).await.expect("set");
    // Connections made before know nothing of it.
    let backends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(backends).execute(&mut holder).await.expect("ended");
    wait_until("the gateway has new connections", Duration::from_secs(20), async || {
        operator.get("/accounts").await.status == 200
    })
    .await;

    let path = format!("/accounts/{}/credit", client.account);
    let credit = json!({"amount_usd": "5", "kind": "paid"});
    let hold = "SELECT balance FROM ledger_accounts WHERE id = $1 FOR UPDATE";
    let id = format!("credit:{}", client.account);
    let mut held = holder.begin().await.expect("a transaction");
    sqlx::query(hold).bind(&id).fetch_one(&mut *held).await.expect("the account's credit");
    let call = {
        let (operator, path, credit) = (operator.clone(), path.clone(), credit.clone());
        tokio::spawn(async move { operator.call(Method::POST, &path, Some("busy"), Some(credit)).await })
    };
    tokio::time::sleep(Duration::from_millis(250)).await;
    held.rollback().await.expect("let go");
    call.await.expect("no panic").expect(201);
    assert!(network.gateway.log().contains("another transaction was in an operator's way"));
    assert_eq!(network.balance(&client.account).await, usd("6"), "once");

    // Not for ever.
    let mut held = holder.begin().await.expect("a transaction");
    sqlx::query(hold).bind(&id).fetch_one(&mut *held).await.expect("the account's credit");
    let refused = operator.call(Method::POST, &path, Some("later"), Some(credit.clone())).await;
    assert_eq!(refused.expect(503)["error"]["code"], "books_unavailable");
    held.rollback().await.expect("let go");
    operator.call(Method::POST, &path, Some("later"), Some(credit)).await.expect(201);
    assert_eq!(network.balance(&client.account).await, usd("11"));
    network.finish().await;
}
