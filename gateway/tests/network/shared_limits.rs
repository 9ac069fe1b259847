//! Limits that several gateways hold together, whoever of them is asked how much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use lumbung_gateway::domain::limits::{Budgets, LimitOwner, Limits};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::json;

use crate::support::client::Client;
use crate::support::load::{Outcome, offer, tally};
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::redis::OwnRedis;
use crate::support::{ASK, Books, Network, Replica, Setup, usd};

/// Gateways on one set of books, each with a provider.
struct Fleet {
    network: Network,
    others: Vec<Replica>,
    _providers: Vec<Provider>,
}

impl Fleet {
    async fn start(setup: Setup, replicas: usize, provider: impl Fn() -> ProviderSetup) -> Self {
        let network = setup.start().await;
        let mut others = Vec::new();
        for _ in 1..replicas {
            others.push(network.another_gateway().await);
        }
        let mut providers = vec![network.provider(provider()).await];
        for other in &others {
            providers.push(network.provider_at(&other.base, provider()).await);
        }
        // By then each has seen all others.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Self { network, others, _providers: providers }
    }

    fn bases(&self) -> Vec<String> {
        let others = self.others.iter().map(|other| other.base.clone());
        std::iter::once(self.network.base.clone()).chain(others).collect()
    }

    /// A client whose key has these limits, as it asks at each gateway.
    async fn client(&self, limits: Limits) -> Vec<Client> {
        let client = self.network.client("100").await;
        let key = self.network.store.keys(Some(&client.account)).await.expect("keys")[0].id;
        self.network.store.set_limits(LimitOwner::Key(key), &limits).await.expect("limits");
        self.bases().into_iter().map(|base| Client::new(base, client.key.clone(), client.account)).collect()
    }

    async fn finish(self) {
        for other in self.others {
            other.stop().await;
        }
        self.network.finish().await;
    }
}

fn is_full() -> bool {
    std::env::var_os("LUMBUNG_TEST_FULL").is_some()
}

fn short() -> ProviderSetup {
    ProviderSetup::scripted(json!([{"match": "*", "tokens": 1, "prompt_tokens": 1}]))
}

fn body() -> String {
    Client::body("x", json!({"max_tokens": 1})).to_string()
}

/// Seven tenths at the first gateway, two at the second, the rest at all others.
fn unevenly(clients: Vec<Client>) -> Vec<(f64, Client)> {
    let others = clients.len().saturating_sub(2);
    let part = |number| match (number, clients.len()) {
        (_, 1) => 1.0,
        (0, _) => 0.7,
        (1, 2) => 0.3,
        (1, _) => 0.2,
        (_, _) => 0.1 / others as f64,
    };
    (0..clients.len()).map(part).collect::<Vec<_>>().into_iter().zip(clients).collect()
}

async fn load(clients: Vec<Client>, per_second: f64, lasting: Duration) -> Vec<Outcome> {
    let offers =
        unevenly(clients).into_iter().map(|(part, client)| offer(vec![client], body(), per_second * part, lasting));
    join_all(offers).await.into_iter().flatten().collect()
}

/// What a bucket of a minute's worth lets pass, from a rest.
fn expected(limit: u32, lasting: Duration) -> f64 {
    f64::from(limit) * (1.0 + lasting.as_secs_f64() / 60.0)
}

async fn a_rate_holds(replicas: usize, limit: u32, lasting: Duration) {
    let fleet = Fleet::start(Setup::new(Books::Postgres).shared(), replicas, short).await;
    let clients = fleet.client(Limits { requests_per_minute: Some(limit), ..Limits::default() }).await;
    let expected = expected(limit, lasting);
    let outcomes = load(clients, expected * 1.6 / lasting.as_secs_f64(), lasting).await;
    let served = outcomes.iter().filter(|outcome| outcome.is_served()).count();
    println!(
        "{limit} requests a minute at {replicas} gateways for {} s: {served} served of {} asked, {expected:.0} expected; {:?}",
        lasting.as_secs(),
        outcomes.len(),
        tally(&outcomes)
    );
    assert!(outcomes.iter().all(|outcome| matches!(outcome.status, 200 | 429)), "{:?}", tally(&outcomes));
    assert!((served as f64 / expected - 1.0).abs() <= 0.05, "{served} served, {expected:.0} expected");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_at_three_gateways_asked_unevenly() {
    a_rate_holds(3, 600, Duration::from_secs(if is_full() { 60 } else { 10 })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_holds_at_one_gateway_and_at_eight() {
    if is_full() {
        a_rate_holds(1, 600, Duration::from_secs(60)).await;
        a_rate_holds(8, 600, Duration::from_secs(60)).await;
        a_rate_holds(8, 3000, Duration::from_secs(30)).await;
    } else {
        a_rate_holds(1, 600, Duration::from_secs(5)).await;
    }
}

/// Below 60 a minute, no minute has more than the limit, wherever it begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_rate_is_never_exceeded() {
    let fleet = Fleet::start(Setup::new(Books::Postgres).shared(), 3, short).await;
    let clients = fleet.client(Limits { requests_per_minute: Some(30), ..Limits::default() }).await;
    let lasting = Duration::from_secs(if is_full() { 130 } else { 5 });
    let outcomes = load(clients, 40.0, lasting).await;
    let mut served: Vec<Duration> = outcomes.iter().filter(|o| o.is_served()).map(|o| o.sent).collect();
    served.sort();
    let most =
        served.iter().map(|from| served.iter().filter(|at| **at >= *from && **at - *from < MINUTE).count()).max();
    println!("30 requests a minute at 3 gateways: {} served in {lasting:?}; {:?}", served.len(), tally(&outcomes));
    assert_eq!(most, Some(30), "in the fullest minute");
    fleet.finish().await;
}

/// Less what a request may wait between being sent and being counted.
const MINUTE: Duration = Duration::from_secs(59);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_run_at_once_than_may() {
    let script = || ProviderSetup::scripted(json!([{"match": "*", "tokens": 8, "delay_ms_per_token": 25}]));
    let fleet = Fleet::start(Setup::new(Books::Postgres).shared(), 3, script).await;
    let clients = fleet.client(Limits { concurrent_requests: Some(4), ..Limits::default() }).await;
    let clients: Vec<Arc<Client>> = clients.into_iter().map(Arc::new).collect();
    let until = Instant::now() + Duration::from_secs(if is_full() { 30 } else { 4 });
    let asking = (0..24usize).map(|number| {
        let client = clients[number % clients.len()].clone();
        tokio::spawn(async move {
            let mut ran = Vec::new();
            while Instant::now() < until {
                match stream(&client).await {
                    Some(span) => ran.push(span),
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            ran
        })
    });
    let ran: Vec<(Instant, Instant)> =
        join_all(asking).await.into_iter().flat_map(|ran| ran.expect("no panic")).collect();
    let at_once =
        ran.iter().map(|(from, _)| ran.iter().filter(|(begin, end)| begin <= from && from < end).count()).max();
    println!("4 requests at a time at 3 gateways: {} answers, at most {at_once:?} at once", ran.len());
    assert_eq!(at_once, Some(4));

    // A gateway that dies takes its places with it for a few seconds only.
    let (mut network, others) = (fleet.network, fleet.others);
    let slow = json!({"max_tokens": 8, "stream": true});
    let held: Vec<_> = join_all((0..4).map(|_| clients[0].post(Client::body("x", slow.clone()).to_string()))).await;
    let _ = held.iter().filter(|answer| answer.status() == 200).count();
    network.kill_gateway();
    wait_until("its places are free", Duration::from_secs(10), async || {
        let answers = join_all((0..4).map(|_| clients[1].post(Client::body("x", slow.clone()).to_string()))).await;
        answers.iter().all(|answer| answer.status() == 200)
    })
    .await;
    network.restart_gateway().await;
    for other in others {
        other.stop().await;
    }
    network.finish().await;
}

/// Streams one answer: from when to when it certainly ran, or none if it was refused.
async fn stream(client: &Client) -> Option<(Instant, Instant)> {
    let answer = client.post(Client::body("x", json!({"stream": true, "max_tokens": 8})).to_string()).await;
    if answer.status() != 200 {
        assert_eq!(answer.status(), 429);
        return None;
    }
    let (mut pieces, mut seen) = (answer.bytes_stream(), Vec::new());
    while let Some(Ok(_)) = pieces.next().await {
        seen.push(Instant::now());
    }
    // When the last piece comes, its place may be free already.
    Some((*seen.first()?, *seen.get(seen.len().checked_sub(3)?)?))
}

/// A hundred requests at once at two gateways, with a budget for ten answers that each cost their ceiling.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_never_overrun_and_spent_to_its_end() {
    const FLAT: &str = "lumbung/flat";
    let setup = Setup::new(Books::Postgres).shared().with_model(FLAT, 100_000);
    let script = || {
        let script = json!([{"match": "*", "tokens": 100, "prompt_tokens": 7}]);
        ProviderSetup::scripted(script).model(FLAT).ask("0", ASK.1)
    };
    let fleet = Fleet::start(setup, 2, script).await;
    let price = TokenPrice { prompt: usd("0"), completion: usd(ASK.1) };
    let cost = price.cost(0, 100).expect("a small cost").nanos();
    let budgets = Budgets { day: Some(NanoUsd::from_nanos(cost * 10)), ..Budgets::default() };
    let clients = fleet.client(Limits { budgets, ..Limits::default() }).await;
    let body = json!({"model": FLAT, "max_tokens": 100, "provider": {"max_price": {"prompt": 0}}});
    let body = Client::body("x", body).to_string();
    let answers = join_all((0..100).map(|number| clients[number % 2].post(body.clone()))).await;
    let mut statuses = BTreeMap::new();
    for answer in answers {
        *statuses.entry(answer.status().as_u16()).or_insert(0) += 1;
    }
    println!("a budget for 10 answers at 2 gateways, 100 at once: {statuses:?}");
    assert_eq!(statuses, BTreeMap::from([(200, 10), (429, 90)]));
    let left = usd("100").checked_sub(NanoUsd::from_nanos(cost * 10)).expect("enough");
    fleet.network.balance_becomes(&clients[0].account, left).await;
    for client in &clients {
        assert_eq!(client.post(body.clone()).await.status(), 429, "not one more");
    }
    fleet.finish().await;
}

/// Through the books' epoch, so with and without Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_noticed_everywhere_within_a_second() {
    let redis = OwnRedis::start().await;
    let fleet = Fleet::start(Setup::new(Books::Postgres).shared_over(redis.url()), 2, short).await;
    let store = &fleet.network.store;
    let within_a_second = async |what: &str, clients: &[Client], status: u16| {
        wait_until(what, Duration::from_secs(1), async || {
            let answers = join_all(clients.iter().map(|client| client.post(body()))).await;
            answers.iter().all(|answer| answer.status() == status)
        })
        .await;
    };
    let limited = fleet.client(Limits::default()).await;
    let key = store.keys(Some(&limited[0].account)).await.expect("keys")[0].id;
    within_a_second("both serve", &limited, 200).await;
    let none = Limits { requests_per_minute: Some(0), ..Limits::default() };
    store.set_limits(LimitOwner::Key(key), &none).await.expect("limits");
    within_a_second("a lower limit", &limited, 429).await;
    store.set_limits(LimitOwner::Key(key), &Limits::default()).await.expect("limits");
    within_a_second("no limit", &limited, 200).await;
    store.close_account(&limited[0].account).await.expect("closed");
    within_a_second("a closed account", &limited, 401).await;

    let revoked = fleet.client(Limits { requests_per_minute: Some(6000), ..Limits::default() }).await;
    within_a_second("both serve", &revoked, 200).await;
    redis.stop();
    let key = store.keys(Some(&revoked[0].account)).await.expect("keys")[0].id;
    store.revoke_key(&key).await.expect("revoked");
    within_a_second("a revoked key, without Redis", &revoked, 401).await;
    redis.start_again().await;
    fleet.finish().await;
}
