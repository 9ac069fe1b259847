//! A gateway that is told to stop: it says so, sends its providers away, finishes what runs, and ends.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{Client, read};
use crate::support::process::wait_until;
use crate::support::{Books, Setup};

const SLOW: &str = "slow";

fn script() -> serde_json::Value {
    json!([
        {"match": SLOW, "tokens": 100, "prompt_tokens": 1, "delay_ms_per_token": 40},
        {"match": "endless", "tokens": 5000, "prompt_tokens": 1, "delay_ms_per_token": 40},
        {"match": "*", "tokens": 3, "prompt_tokens": 1}
    ])
}

async fn get(base: &str, path: &str) -> Option<reqwest::Response> {
    // A new connection each time.
    reqwest::get(format!("{base}{path}")).await.ok()
}

async fn status(base: &str, path: &str) -> Option<u16> {
    get(base, path).await.map(|response| response.status().as_u16())
}

#[tokio::test]
async fn a_gateway_told_to_stop_says_so_then_finishes_what_runs_and_takes_nothing_new() {
    let mut network = Setup::new(Books::Sqlite).with_gateway_flag("--drain-notice-secs", "2").start().await;
    let provider = network.scripted(script()).await;
    let client = network.client("1").await;
    assert_eq!(
        (status(&network.base, "/health/ready").await, status(&network.base, "/health/balance").await),
        (Some(200), Some(200))
    );
    let stream = client.open(SLOW, json!({"max_tokens": 100})).await; // four seconds

    let told = Instant::now();
    network.gateway.signal("TERM");
    wait_until("health says so", Duration::from_secs(1), async || {
        status(&network.base, "/health/ready").await == Some(503)
    })
    .await;
    assert_eq!(
        status(&network.base, "/health/balance").await,
        Some(404),
        "for haproxy: finishes, and gets nothing new"
    );
    assert_eq!(status(&network.base, "/health/live").await, Some(200));
    // Proxies have not looked yet, say: their requests are answered, and they keep no connection.
    let late = Client::new(client.base.clone(), client.key.clone(), client.account);
    let answer = late.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["connection"]), (200, &"close".parse().expect("text")));
    // A provider is told to go elsewhere, and dials at once; this gateway is no choice any more.
    wait_until("the provider looks for another gateway", Duration::from_secs(3), async || {
        let log = provider.process.log();
        log.contains("about to stop: dialling another") && log.contains("no tunnel")
    })
    .await;
    wait_until("nobody new gets in", Duration::from_secs(3), async || {
        status(&network.base, "/v1/models").await.is_none()
    })
    .await;
    assert!(told.elapsed() >= Duration::from_secs(2), "not before the notice is over");
    // A proxy that got no answer any more would take it for dead, and cut the stream that runs.
    assert_eq!(
        (status(&network.base, "/health/live").await, status(&network.base, "/health/balance").await),
        (Some(200), Some(404))
    );

    let streamed = read(stream).await;
    assert_eq!(
        (streamed.done, streamed.error, streamed.usage.map(|usage| usage.completion_tokens)),
        (true, None, Some(100))
    );
    network.gateway.stops(Duration::from_secs(5)).await;
    // The provider has kept at it, and finds the gateway when there is one again.
    network.restart_gateway().await;
    wait_until("the provider is back", Duration::from_secs(20), async || {
        let answer = client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await;
        answer.status() == 200
    })
    .await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn while_it_finishes_it_refuses_requests_on_connections_that_are_open() {
    let network = Setup::new(Books::Sqlite).start().await;
    let provider = network.scripted(script()).await;
    let client = network.client("1").await;
    let stream = client.open(SLOW, json!({"max_tokens": 100})).await;
    // HTTP/2: one connection for the stream and what comes after it.
    let http = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let second = Client { http, ..Client::new(client.base.clone(), client.key.clone(), client.account) };
    let kept = second.open(SLOW, json!({"max_tokens": 60})).await;
    network.gateway.signal("TERM");
    let mut refused = None;
    wait_until("it refuses", Duration::from_secs(2), async || {
        let request = second.http.post(format!("{}/v1/chat/completions", second.base)).bearer_auth(&second.key);
        let answer = request.header("content-type", "application/json").body(Client::body("x", json!({})).to_string());
        match answer.send().await {
            Ok(answer) if answer.status() == 200 => false,
            answer => {
                refused = Some(answer);
                true
            }
        }
    })
    .await;
    // Either the answer, or the connection's own word that it takes no more (GOAWAY): both are safe to ask again after.
    match refused.expect("an end") {
        Ok(answer) => {
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()["retry-after"], "1");
            let error: serde_json::Value = answer.json().await.expect("JSON");
            assert_eq!(error["error"]["code"], "draining");
        }
        Err(error) => assert!(error.is_request() || error.is_connect(), "{error:?}"),
    }
    assert!(read(stream).await.done && read(kept).await.done);
    let mut network = network;
    network.gateway.stops(Duration::from_secs(5)).await;
    network.restart_gateway().await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn a_second_signal_or_the_end_of_its_time_ends_it_at_once() {
    let mut network = Setup::new(Books::Sqlite).with_gateway_flag("--drain-secs", "2").start().await;
    let provider = network.scripted(script()).await;
    let client = network.client("1").await;
    for second_signal in [true, false] {
        let stream = client.open("endless", json!({"max_tokens": 5000})).await;
        let told = Instant::now();
        network.gateway.signal("TERM");
        if second_signal {
            tokio::time::sleep(Duration::from_millis(300)).await;
            network.gateway.signal("TERM");
        }
        wait_until("it ends", Duration::from_secs(10), async || network.gateway.has_ended()).await;
        let took = told.elapsed();
        assert_eq!(took < Duration::from_secs(2), second_signal, "{took:?}");
        drop(stream);
        network.restart_gateway().await;
        wait_until("the provider is back", Duration::from_secs(20), async || {
            client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await.status() == 200
        })
        .await;
    }
    provider.receipts_acknowledged().await;
    network.finish().await;
}
