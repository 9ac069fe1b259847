//! Several gateways, one fleet: requests at one, providers at another, and what happens when either dies.

use std::time::Duration;

use futures_util::StreamExt;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::{Value, json};

use crate::support::client::{Client, read};
use crate::support::process::wait_until;
use crate::support::provider::ProviderSetup;
use crate::support::redis::OwnRedis;
use crate::support::{ASK, Books, MODEL, Network, Setup, usd};

const PROMPT: u32 = 7;

fn cost(completion: u32) -> NanoUsd {
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    price.cost(PROMPT, completion).expect("a small cost")
}

fn steady(tokens: u32, delay_ms: u64) -> Value {
    json!([{"match": "*", "tokens": tokens, "prompt_tokens": PROMPT, "delay_ms_per_token": delay_ms}])
}

/// A client's balance after jobs of so many completion tokens.
fn left(dollars: &str, jobs: &[u32]) -> NanoUsd {
    let spent = jobs.iter().map(|tokens| cost(*tokens));
    spent.fold(usd(dollars), |left, cost| left.checked_sub(cost).expect("enough"))
}

/// The same client at another gateway.
fn at(client: &Client, base: &str) -> Client {
    Client::new(base.to_owned(), client.key.clone(), client.account)
}

async fn serves(base: &str, within: Duration) {
    let url = format!("{base}/v1/models");
    wait_until(&format!("{base} knows the provider"), within, async || is_served(&url).await).await;
}

async fn is_served(url: &str) -> bool {
    let Ok(response) = reqwest::get(url).await else { return false };
    let Ok(list) = response.json::<Value>().await else { return false };
    list["data"].as_array().is_some_and(|models| models.iter().any(|model| model["id"] == MODEL))
}

/// Waits until a gateway knows nobody any more.
async fn serves_nobody(base: &str, within: Duration) {
    let url = format!("{base}/v1/models");
    wait_until(&format!("{base} lets go of the provider"), within, async || !is_served(&url).await).await;
}

async fn shared() -> Network {
    Setup::new(Books::Postgres).shared().start().await
}

#[tokio::test]
async fn a_provider_that_joined_another_gateway_answers_streamed_and_not() {
    let network = shared().await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(200, 1))).await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("1").await;

    let streamed = client.stream("x", json!({})).await;
    assert!(streamed.done && streamed.error.is_none(), "{streamed:?}");
    assert_eq!(streamed.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)), Some((PROMPT, 200)));
    let whole = client.ask("x", json!({"max_tokens": 50})).await;
    assert_eq!(whole.usage.map(|usage| usage.completion_tokens), Some(50));
    let large = client.ask(&"long ".repeat(200_000), json!({"max_tokens": 3})).await;
    assert_eq!(large.usage.map(|usage| usage.completion_tokens), Some(3));

    provider.receipts_acknowledged().await;
    network.balance_becomes(&client.account, left("1", &[200, 50, 3])).await;
    let receipt = client.receipt(&streamed.id).await;
    assert_eq!(receipt["completion_tokens"], 200, "{receipt}");
    assert_eq!(client.get("/v1/models").await.status(), 200);
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_at_the_provider_behind_another_gateway() {
    let network = shared().await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(100_000, 5))).await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("10").await;
    let mut bytes = client.open("x", json!({"max_tokens": 50_000})).await.bytes_stream();
    for _ in 0..20 {
        bytes.next().await.expect("more").expect("bytes");
    }
    drop(bytes);
    wait_until("the provider has stopped", Duration::from_secs(2), async || {
        provider.status()["jobs"]["cancelled"].as_u64() == Some(1)
    })
    .await;
    provider.receipts_acknowledged().await;
    assert!(network.charged(&client.account, usd("10")).await > usd("9.9"));
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_gateway_that_dies_is_paid_for_up_to_its_last_voucher_though_another_passed_it_on() {
    let mut network = shared().await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(5000, 5))).await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("1").await;
    let mut bytes = client.open("x", json!({"max_tokens": 2000})).await.bytes_stream();
    let mut seen = 0;
    while seen < 300 {
        let chunk = bytes.next().await.expect("more").expect("bytes");
        seen += String::from_utf8_lossy(&chunk).matches("data: ").count();
    }
    network.kill_gateway();
    wait_until("the provider has stopped", Duration::from_secs(2), async || {
        provider.status()["jobs"]["cancelled"].as_u64() == Some(1)
    })
    .await;
    let left = network.charged(&client.account, usd("1")).await; // by the other gateway, when the lease has ended
    let charge = usd("1").checked_sub(left).expect("no more than there was");
    let tokens = (0..=2000).find(|tokens| cost(*tokens) == charge).expect("a whole number of tokens");
    assert!((200..=400).contains(&tokens), "{tokens} tokens charged, {seen} events seen");
    provider.receipts_acknowledged().await;
    network.restart_gateway().await;
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn the_provider_of_a_gateway_that_is_killed_is_reached_through_another_within_three_seconds() {
    let network = shared().await;
    let (mut first, second) = (network.another_gateway().await, network.another_gateway().await);
    let setup = ProviderSetup::scripted(steady(20, 1)).gateway(&second.base);
    let provider = network.provider_at(&first.base, setup).await;
    wait_until("the provider has two tunnels", Duration::from_secs(10), async || {
        provider.status()["connected"].as_array().map(Vec::len) == Some(2)
    })
    .await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("1").await;
    assert!(client.stream("x", json!({})).await.done);

    first.process.kill();
    let killed = tokio::time::Instant::now();
    let mut asked = 1;
    // Whatever is asked from now on is answered: at once, for the other tunnel is there.
    while killed.elapsed() < Duration::from_secs(6) {
        for base in [&network.base, &second.base] {
            let answer = at(&client, base).ask("x", json!({"max_tokens": 5})).await;
            assert_eq!(answer.usage.map(|usage| usage.completion_tokens), Some(5));
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{asked} requests answered while a gateway was killed");
    let jobs: Vec<u32> = std::iter::once(20).chain(std::iter::repeat_n(5, asked - 1)).collect();
    provider.receipts_acknowledged().await;
    network.balance_becomes(&client.account, left("1", &jobs)).await;
    second.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_provider_that_lost_its_only_gateway_joins_another_within_three_seconds() {
    let network = shared().await;
    let mut other = network.another_gateway().await;
    let setup = ProviderSetup::scripted(steady(20, 1)).gateway(&network.base).tunnels(1);
    let _provider = network.provider_at(&other.base, setup).await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("1").await;
    client.ask("x", json!({"max_tokens": 5})).await;
    other.process.kill();
    let killed = tokio::time::Instant::now();
    while client.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await.status() != 200 {
        assert!(killed.elapsed() < Duration::from_secs(3), "not within three seconds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("reached again after {} ms", killed.elapsed().as_millis());
    network.finish().await;
}

#[tokio::test]
async fn a_ghost_is_out_of_every_snapshot_within_two_polls() {
    const POLL: Duration = Duration::from_secs(3);
    let network = Setup::new(Books::Postgres)
        .shared()
        .with_gateway_flag("--poll-ms", &POLL.as_millis().to_string())
        .start()
        .await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(20, 1))).await;
    serves(&network.base, Duration::from_secs(5)).await;
    provider.process.signal("STOP");
    let frozen = tokio::time::Instant::now();
    for base in [&other.base, &network.base] {
        serves_nobody(base, 2 * POLL).await;
    }
    println!("out after {} ms, polls are {} ms apart", frozen.elapsed().as_millis(), POLL.as_millis());
    assert!(frozen.elapsed() <= 2 * POLL + Duration::from_millis(100), "{:?}", frozen.elapsed());
    provider.process.signal("CONT");
    serves(&network.base, Duration::from_secs(20)).await;
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn the_entries_of_a_gateway_that_is_killed_expire_in_seconds() {
    let network = shared().await;
    let mut other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(20, 1)).tunnels(1)).await;
    serves(&network.base, Duration::from_secs(2)).await;
    other.process.kill();
    let client = network.client("1").await;
    // Its provider cannot be reached, which is known at once, and is no failure of the provider's.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = tokio::time::Instant::now();
    let refused = client.post(Client::body("x", json!({})).to_string()).await;
    assert!(matches!(refused.status().as_u16(), 502 | 503), "{}", refused.status());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    serves_nobody(&network.base, Duration::from_secs(8)).await;
    assert_eq!(network.balance(&client.account).await, usd("1"));
    drop(provider);
    network.finish().await;
}

#[tokio::test]
async fn without_redis_requests_go_on_and_afterwards_everyone_is_known() {
    let redis = OwnRedis::start().await;
    let network = Setup::new(Books::Postgres).shared_over(redis.url()).start().await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(20, 1))).await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("1").await;
    assert!(client.stream("x", json!({})).await.done);
    let mut jobs = vec![20];

    redis.stop();
    let stopped = tokio::time::Instant::now();
    while stopped.elapsed() < Duration::from_secs(8) {
        let answer = client.ask("x", json!({"max_tokens": 5})).await;
        assert_eq!(answer.usage.map(|usage| usage.completion_tokens), Some(5));
        jobs.push(5);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    redis.start_again().await; // empty
    let late =
        network.provider_at(&other.base, ProviderSetup::scripted(json!([{"match": "*", "reply": "late"}]))).await;
    // The new one is wished for: this gateway answers through it as soon as it knows it, and never knows nobody meanwhile.
    let wish = json!({"max_tokens": 5, "provider": {"order": [late.id()]}});
    let mut answers = 0;
    let back = tokio::time::Instant::now();
    loop {
        let answer = client.ask("x", wish.clone()).await;
        let text = answer.choices[0].message.content.clone();
        if text.as_deref() == Some("late") {
            break;
        }
        answers += 1;
        assert!(back.elapsed() < Duration::from_secs(5), "still {text:?} after {answers} answers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{} answers without Redis, {answers} more until the newly joined was known", jobs.len() - 1);
    provider.receipts_acknowledged().await;
    late.receipts_acknowledged().await;
    let providers = network.store.providers().await.expect("providers");
    assert!(
        providers.iter().all(|p| p.standing == lumbung_gateway::domain::provider::Standing::Newcomer),
        "{providers:?}"
    );
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn slots_are_the_providers_whichever_gateway_asks() {
    let network = shared().await;
    let other = network.another_gateway().await;
    let setup = ProviderSetup::scripted(steady(40, 5)).slots(2).gateway(&network.base);
    let provider = network.provider_at(&other.base, setup).await;
    wait_until("the provider has two tunnels", Duration::from_secs(10), async || {
        provider.status()["connected"].as_array().map(Vec::len) == Some(2)
    })
    .await;
    let client = network.client("1").await;
    let elsewhere = at(&client, &other.base);
    // Twelve requests for two slots, from both sides at once: each waits for its turn, and none is refused.
    let asked = (0..12).map(|number| {
        let client = if number % 2 == 0 { &client } else { &elsewhere };
        async move { client.ask("x", json!({})).await.usage.map(|usage| usage.completion_tokens) }
    });
    let answers = futures_util::future::join_all(asked).await;
    assert_eq!(answers, vec![Some(40); 12]);
    network.balance_becomes(&client.account, left("1", &[40; 12])).await;
    provider.receipts_acknowledged().await;
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn a_stranger_at_the_gateways_port_is_refused() {
    let network = shared().await;
    let port = internal_port(&network);
    // No hello, and one that the network's keys did not sign.
    for hello in [None, Some(forged_hello())] {
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        let status = ask_as_stranger(socket, hello).await;
        assert_eq!(status, Some(401));
    }
    network.finish().await;
}

/// The port that the gateway has told in its log.
fn internal_port(network: &Network) -> u16 {
    let log = network.gateway.log();
    let line =
        log.lines().find(|line| line.contains("other gateways pass on jobs here")).expect("a line about the port");
    let digits: String = line.rsplit(':').next().expect("a port").chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a port")
}

fn forged_hello() -> String {
    let key = lumbung_openapi::jws::HmacKey::from_secret(&[7; 32]);
    let (me, to) = (lumbung_gateway::domain::ids::ReplicaId::fresh(), lumbung_gateway::domain::ids::ReplicaId::fresh());
    key.sign("lumbung-peer-hello", "0", &json!({"from": me, "to": to, "nonce": "n", "at": 0}))
}

/// What a job gets that comes without a proper hello, or after a forged one.
async fn ask_as_stranger(socket: tokio::net::TcpStream, hello: Option<String>) -> Option<u16> {
    let io = hyper_util::rt::TokioIo::new(socket);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(connection);
    let path = if hello.is_some() { "/peer/v1/hello" } else { "/v1/chat/completions" };
    let mut request = http::Request::post(format!("http://gateway{path}"));
    request = request.header("x-lumbung-provider", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    if let Some(hello) = hello {
        request = request.header("authorization", hello);
    }
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
    let status = sender.send_request(request).await.ok()?.status().as_u16();
    // And whatever it asks then, on the same connection, is not answered.
    let job = http::Request::post("http://gateway/v1/chat/completions");
    let job = job.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
    let second = tokio::time::timeout(Duration::from_secs(3), sender.send_request(job)).await;
    assert!(!matches!(second, Ok(Ok(response)) if response.status() == 200), "a stranger's job was taken");
    Some(status)
}

#[tokio::test]
async fn a_stream_through_another_gateway_ends_when_that_one_dies() {
    let network = shared().await;
    let mut other = network.another_gateway().await;
    let _provider = network.provider_at(&other.base, ProviderSetup::scripted(steady(5000, 5)).tunnels(1)).await;
    serves(&network.base, Duration::from_secs(2)).await;
    let client = network.client("1").await;
    let response = client.open("x", json!({"max_tokens": 4000})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    other.process.kill();
    let streamed = tokio::time::timeout(Duration::from_secs(5), read(response)).await.expect("the end comes at once");
    assert!(streamed.done && streamed.error.is_some(), "{streamed:?}");
    let left = network.charged(&client.account, usd("1")).await;
    assert!(left < usd("1") && left > usd("0.99"), "what arrived is paid for: {left}");
    network.finish().await;
}
