//! Webhooks: a gateway tells a real endpoint, signed, and again until it is taken.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lumbung_gateway::domain::role::Role;
use lumbung_gateway::domain::webhook::signature;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Operator;
use crate::support::process::wait_until;
use crate::support::{Books, Setup};

/// An endpoint that gives the answers it was told to, the last one for ever, and keeps what it got.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = Vec::new();
                while !is_whole(&text) {
                    if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let before = {
                    let mut kept = kept.lock().expect("a lock");
                    kept.push(String::from_utf8_lossy(&text).into_owned());
                    kept.len() - 1
                };
                let answer = answers[before.min(answers.len() - 1)];
                let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n").as_bytes()).await;
            }
        });
        Self { port, got }
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().expect("a lock").clone()
    }
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let line = request.lines().find_map(|line| line.split_once(": ").filter(|(found, _)| *found == name));
    line.unwrap_or_else(|| panic!("no {name} in {request}")).1
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").expect("a body").1
}

fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        body.len() >= length.unwrap_or(0)
    })
}

/// An account with ten dollars whose balance is low below five. Its path.
async fn watched(operator: &Operator) -> String {
    let account = operator.post("/accounts", json!({"name": "Ana"})).await.expect(201);
    let path = format!("/accounts/{}", account["id"].as_str().expect("an id"));
    operator.post(&format!("{path}/credit"), json!({"amount_usd": "10", "kind": "paid"})).await.expect(201);
    let low = Some(json!({"threshold_usd": "5.00"}));
    let set = operator.call(Method::PUT, &format!("{path}/low-balance"), None, low).await.expect(200);
    assert_eq!(set["threshold_usd"], "5");
    path
}

async fn deliveries(operator: &Operator, hook: &str) -> Vec<Value> {
    let page = operator.get(&format!("/webhooks/{hook}/deliveries")).await.expect(200);
    page["data"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn an_endpoint_is_told_until_it_takes_it() {
    let network = Setup::new(Books::Postgres).with_gateway_flag("--webhook-allow-private", "true").start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    // A redirect is no delivery, and is not followed.
    let receiver = Receiver::start(&["500 No", "307 Elsewhere\r\nlocation: /other", "204 Thanks"]).await;
    let url = format!("http://127.0.0.1:{}/hook?of=lumbung", receiver.port);
    let create = json!({"url": url, "events": ["account.low_balance"]});
    let made = operator.call(Method::POST, "/webhooks", Some("hook"), Some(create.clone())).await.expect(201);
    let again = operator.call(Method::POST, "/webhooks", Some("hook"), Some(create)).await;
    assert!(again.replayed && again.body["secret"].is_null() && again.body["webhook"] == made["webhook"]);
    let secret = made["secret"].as_str().expect("a secret");
    let hook = made["webhook"]["id"].as_str().expect("an id");
    let path = watched(&operator).await;
    operator.post(&format!("{path}/refunds"), json!({"amount_usd": "6"})).await.expect(201);

    wait_until("it is delivered", Duration::from_secs(40), async || {
        deliveries(&operator, hook).await.first().is_some_and(|line| line["state"] == "delivered")
    })
    .await;
    let got = receiver.got();
    assert_eq!(got.len(), 3, "{got:?}");
    for request in &got {
        assert!(request.starts_with("POST /hook?of=lumbung HTTP/1.1\r\n"), "{request}");
        let (id, timestamp) = (header(request, "webhook-id"), header(request, "webhook-timestamp"));
        assert_eq!(id, header(&got[0], "webhook-id"), "the same event");
        let signed = signature(secret, id, timestamp.parse().expect("seconds"), body(request));
        assert_eq!(Some(header(request, "webhook-signature")), signed.as_deref());
    }
    let message: Value = serde_json::from_str(body(&got[0])).expect("JSON");
    assert_eq!((&message["type"], &message["data"]["spendable_usd"]), (&"account.low_balance".into(), &"4".into()));
    let lines = deliveries(&operator, hook).await;
    assert_eq!((lines.len(), &lines[0]["tries"], &lines[0]["last_status"]), (1, &3.into(), &204.into()));
    assert_eq!(lines[0]["event"], header(&got[0], "webhook-id"));
    assert!(lines[0]["next_try_at_us"].is_null());

    // It is low already; then it is not, and then again.
    operator.post(&format!("{path}/refunds"), json!({"amount_usd": "1"})).await.expect(201);
    operator.post(&format!("{path}/credit"), json!({"amount_usd": "9", "kind": "paid"})).await.expect(201);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(receiver.got().len(), 3, "nothing to tell");
    operator.post(&format!("{path}/refunds"), json!({"amount_usd": "11"})).await.expect(201);
    wait_until("the next crossing is told", Duration::from_secs(30), async || receiver.got().len() == 4).await;
    assert_ne!(header(&receiver.got()[3], "webhook-id"), header(&got[0], "webhook-id"));

    let listed = operator.get("/webhooks").await.expect(200);
    assert_eq!(listed["data"][0]["id"], hook);
    assert_eq!(operator.get(&format!("/webhooks/{hook}")).await.expect(200), listed["data"][0]);
    assert_eq!(operator.get(&format!("{path}/low-balance")).await.expect(200)["threshold_usd"], "5");
    assert!(!listed.to_string().contains("whsec_") && !network.gateway.log().contains("whsec_"));
    operator.call(Method::DELETE, &format!("/webhooks/{hook}"), None, None).await.expect(200);
    operator.call(Method::DELETE, &format!("/webhooks/{hook}"), None, None).await.expect(404);
    operator.get(&format!("/webhooks/{hook}")).await.expect(404);
    operator.get("/accounts/acct_01K00000000000000000000000/low-balance").await.expect(404);
    assert_eq!(operator.get("/webhooks").await.expect(200)["data"], json!([]));
    let audit = operator.get(&format!("/audit?resource={hook}")).await.expect(200);
    let statuses = audit["data"].as_array().expect("a list").iter().map(|line| line["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), [201, 200, 404], "added, removed, and not once more");
    network.finish().await;
}

#[tokio::test]
async fn a_private_address_is_not_told_unless_it_may_be() {
    let network = Setup::new(Books::Sqlite).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let receiver = Receiver::start(&["204 Thanks"]).await;
    let hook = |url: &str| json!({"url": url, "events": ["account.low_balance"]});
    for url in [&format!("http://127.0.0.1:{}/", receiver.port), "http://[::1]/", "ftp://hooks.example/", "x"] {
        assert_eq!(operator.post("/webhooks", hook(url)).await.expect(400)["error"]["param"], "url", "{url}");
    }
    let none = json!({"url": "https://hooks.example/", "events": []});
    assert_eq!(operator.post("/webhooks", none).await.expect(400)["error"]["param"], "events");
    // What a name stands for is known only when it is called.
    let made = operator.post("/webhooks", hook(&format!("http://localhost:{}/", receiver.port))).await.expect(201);
    let hook = made["webhook"]["id"].as_str().expect("an id");
    let path = watched(&operator).await;
    let low_balance = format!("{path}/low-balance");
    let refused = operator.call(Method::PUT, &low_balance, None, Some(json!({}))).await;
    refused.expect(400);
    operator.call(Method::PUT, &low_balance, None, Some(json!({"threshold_usd": "0"}))).await.expect(400);
    operator.post(&format!("{path}/refunds"), json!({"amount_usd": "6"})).await.expect(201);
    wait_until("it is tried twice", Duration::from_secs(30), async || {
        deliveries(&operator, hook).await.first().is_some_and(|line| line["tries"].as_i64() >= Some(2))
    })
    .await;
    let line = deliveries(&operator, hook).await.remove(0);
    assert!(line["state"] == "pending" && line["last_status"].is_null(), "{line}");
    assert_eq!(receiver.got(), Vec::<String>::new(), "nobody knocked");
    network.finish().await;
}
