//! Gateways and databases that are killed at random moments while many answers run. Afterwards every job whose receipt
//! exists has been charged once, within what its receipt says, all the money is accounted for, and nothing stays set aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lumbung_openapi::money::NanoUsd;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sqlx::Connection;

use crate::support::client::Client;
use crate::support::postgres::OwnPostgres;
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::reckoning::{charged, number};
use crate::support::{Books, Network, Setup, usd};

/// Accounts that ask at the same time, each one request after the other.
const CLIENTS: usize = 24;
const CREDIT: &str = "1";
/// How long receipts may be offered: long enough for a restart, short enough to wait for.
const CLAIM_WINDOW_SECS: &str = "20";

fn kills() -> usize {
    match std::env::var_os("LUMBUNG_TEST_FULL") {
        Some(_) => 50,
        None => 5,
    }
}

fn setup(setup: Setup) -> Setup {
    setup.with_gateway_flag("--claim-window-secs", CLAIM_WINDOW_SECS).with_gateway_flag("--lease-secs", "2")
}

fn provider() -> ProviderSetup {
    let script = json!([
        {"match": "long", "tokens": 300, "prompt_tokens": 9, "delay_ms_per_token": 4},
        {"match": "*", "tokens": 30, "prompt_tokens": 5, "delay_ms_per_token": 2}
    ]);
    ProviderSetup::scripted(script)
}

/// Customers who never stop asking.
struct Crowd {
    clients: Vec<Client>,
    asking: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// Answers that came whole.
    whole: Arc<AtomicU64>,
}

impl Crowd {
    async fn gather(network: &Network, bases: &[String]) -> Self {
        let (stop, whole) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (mut clients, mut asking) = (Vec::new(), Vec::new());
        for number in 0..CLIENTS {
            let client = network.client(CREDIT).await;
            let asker = Client::new(bases[number % bases.len()].clone(), client.key.clone(), client.account);
            asking.push(tokio::spawn(ask_on(asker, number as u64, stop.clone(), whole.clone())));
            clients.push(client);
        }
        Self { clients, asking, stop, whole }
    }

    async fn disperse(self) -> Vec<Client> {
        self.stop.store(true, Ordering::Relaxed);
        for asking in self.asking {
            asking.await.expect("a client does not panic");
        }
        self.clients
    }
}

/// Streams and whole answers, long and short ones; some clients leave in the middle.
async fn ask_on(client: Client, seed: u64, stop: Arc<AtomicBool>, whole: Arc<AtomicU64>) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let question = if random.random_bool(0.3) { "long" } else { "short" };
        let mut body = Client::body(question, json!({"max_tokens": 400, "stream": random.random_bool(0.6)}));
        if random.random_bool(0.2) {
            body["max_tokens"] = serde_json::Value::Null; // no limit: the hold is the gateway's choice
        }
        let request = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(&client.key);
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await;
        let Ok(answer) = answer else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let served = answer.status() == 200;
        let leaves_after = if random.random_bool(0.15) { random.random_range(0..20) } else { usize::MAX };
        let (mut pieces, mut read, mut cut) = (answer.bytes_stream(), 0, false);
        while read < leaves_after
            && let Some(piece) = pieces.next().await
        {
            read += 1;
            cut |= piece.is_err();
        }
        match served && !cut && read < leaves_after {
            true => drop(whole.fetch_add(1, Ordering::Relaxed)),
            false => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// What must hold when everyone is back and has handed in what they have.
async fn reckon(network: &Network, clients: &[Client], providers: &[&Provider]) {
    for provider in providers {
        provider.receipts_acknowledged().await;
    }
    assert!(!network.gateway.log().contains("receipts refused"), "no receipt came too late, or without its money");
    // The dead replicas' leases and claim windows end, and the living one gives back what they had set aside.
    let mut books = sqlx::PgConnection::connect(network.database_url()).await.expect("the books answer");
    wait_until("only the living hold allowances", Duration::from_secs(60), async || {
        let left = "SELECT COUNT(*) FROM ledger_accounts a JOIN replicas r ON r.id = a.replica
                    WHERE a.kind = 'allowance' AND a.balance > 0 AND r.ends_at < EXTRACT(EPOCH FROM clock_timestamp()) * 1000000";
        number(&mut books, left).await == 0
    })
    .await;
    network.check_books().await;
    let unproven = "SELECT COUNT(*) FROM attempts WHERE receipt_batch IS NULL AND state = 'settled' AND charge > 0";
    assert_eq!(number(&mut books, unproven).await, 0, "every charge has its receipt");
    let beyond = "SELECT COUNT(*) FROM attempts WHERE receipt IS NOT NULL
                  AND completion_tokens > CAST(receipt::json ->> 'completion_tokens' AS BIGINT)";
    assert_eq!(number(&mut books, beyond).await, 0, "nobody was charged for more than the receipt says");
    assert!(charged(network, &mut books, clients, usd(CREDIT)).await > NanoUsd::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_at_random_moments_loses_and_doubles_nothing() {
    let mut network = setup(Setup::new(Books::Postgres)).start().await;
    let one = network.provider(provider()).await;
    let other = network.provider(provider()).await;
    let crowd = Crowd::gather(&network, std::slice::from_ref(&network.base)).await;
    let mut random = StdRng::seed_from_u64(1);
    for kill in 0..kills() {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2000))).await;
        let before = crowd.whole.load(Ordering::Relaxed);
        network.kill_gateway();
        network.restart_gateway().await;
        wait_until(&format!("answers come again after kill {kill}"), Duration::from_secs(30), async || {
            crowd.whole.load(Ordering::Relaxed) > before + 10
        })
        .await;
    }
    let clients = crowd.disperse().await;
    reckon(&network, &clients, &[&one, &other]).await;
    network.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_gateways_killed_at_random_moments_loses_and_doubles_nothing() {
    let mut network = setup(Setup::new(Books::Postgres).shared()).start().await;
    let second = network.another_gateway().await;
    let one = network.provider(provider()).await;
    let other = network.provider_at(&second.base, provider()).await;
    let crowd = Crowd::gather(&network, &[network.base.clone(), second.base.clone()]).await;
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..kills() {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2000))).await;
        network.kill_gateway();
        network.restart_gateway().await;
    }
    wait_until("the killed one serves again", Duration::from_secs(30), async || {
        reqwest::get(format!("{}/v1/models", network.base)).await.is_ok()
    })
    .await;
    let clients = crowd.disperse().await;
    reckon(&network, &clients, &[&one, &other]).await;
    second.stop().await;
    network.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_killed_at_random_moments_loses_and_doubles_nothing() {
    let server = OwnPostgres::start().await;
    let network = setup(Setup::on(server.url())).with_gateway_flag("--lease-secs", "30").start().await;
    let one = network.provider(provider()).await;
    let crowd = Crowd::gather(&network, std::slice::from_ref(&network.base)).await;
    let mut random = StdRng::seed_from_u64(3);
    for kill in 0..kills() {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2000))).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
        server.restart().await;
        let before = crowd.whole.load(Ordering::Relaxed);
        wait_until(&format!("answers come after kill {kill}"), Duration::from_secs(30), async || {
            crowd.whole.load(Ordering::Relaxed) > before + 10
        })
        .await;
    }
    let clients = crowd.disperse().await;
    reckon(&network, &clients, &[&one]).await;
    network.finish().await;
}
