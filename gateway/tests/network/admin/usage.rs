//! Usage and invoices, over HTTP, after real answers.

use lumbung_gateway::domain::role::Role;
use serde_json::json;

use super::Operator;
use crate::support::{Books, MODEL, Setup};

#[tokio::test]
async fn what_was_asked_is_on_the_invoice() {
    let network = Setup::new(Books::Postgres).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "one two three", "prompt_tokens": 11}])).await;
    let client = network.client("1").await;
    for _ in 0..3 {
        let answer = client.ask("Hello?", json!({})).await;
        client.receipt(&answer.id).await; // which waits until it is in the books
    }
    let operator = Operator::new(&network, Role::ReadOnly).await;
    let account = client.account.to_string();
    let usage = operator.get(&format!("/usage?by=account,model,day&account={account}")).await.expect(200);
    let line = &usage["data"][0];
    assert_eq!((usage["data"].as_array().map(Vec::len), &usage["has_more"]), (Some(1), &json!(false)));
    assert_eq!((&line["requests"], &line["model"], &line["key"]), (&json!(3), &json!(MODEL), &json!(null)));

    let month = &line["day"].as_str().expect("a day")[..7];
    let path = format!("/accounts/{account}/invoices/{month}");
    let invoice = operator.get(&path).await.expect(200);
    assert_eq!((&invoice["credits_usd"], &invoice["usage_usd"]), (&json!("1"), &line["charge_usd"]));
    let balance = operator.get(&format!("/accounts/{account}")).await.expect(200);
    assert_eq!(invoice["closing_usd"], balance["balance"]["spendable_usd"]);

    let csv = |path: String| {
        let url = format!("{}/admin/v1{path}", network.base);
        let request = reqwest::Client::new().get(url).bearer_auth(&operator.token).header("accept", "text/csv");
        async move { request.send().await.expect("an answer").text().await.expect("text") }
    };
    let closing = invoice["closing_usd"].as_str().expect("an amount");
    assert!(csv(path).await.ends_with(&format!(",{closing}\r\n")));
    assert!(csv("/usage?by=model".into()).await.starts_with("account,key,model,"));

    for (path, status, param) in [
        ("/usage?by=colour".to_owned(), 400, json!("by")),
        ("/usage?by=day,,model".into(), 400, json!("by")),
        ("/usage?by=day,".into(), 400, json!("by")),
        ("/usage?from=2026-02-30".into(), 400, json!("from")),
        ("/usage?after=x".into(), 400, json!("after")),
        ("/usage?key=key_01K00000000000000000000000".into(), 400, json!("key")),
        ("/usage?color=red".into(), 400, json!("color")),
        (format!("/accounts/{account}/invoices/2026-13"), 400, json!("month")),
        ("/accounts/acct_01K00000000000000000000000/invoices/2026-01".into(), 404, json!(null)),
    ] {
        let refused = operator.get(&path).await.expect(status);
        assert_eq!(refused["error"]["param"], param, "{path}");
    }
    network.finish().await;
}
