//! The database or Redis is away for a while: requests go on within what is already set aside, up to a limit, nothing is
//! lost, nobody is punished, and all catches up.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::limits::{Budgets, LimitOwner, Limits};
use lumbung_gateway::domain::provider::Standing;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::client::Client;
use crate::support::load::{Outcome, offer, slowest_ms, tally};
use crate::support::postgres::OwnPostgres;
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::redis::OwnRedis;
use crate::support::{ASK, Books, Network, Replica, Setup, usd};

const MAX_JOBS: usize = 20;

#[tokio::test]
async fn without_its_database_a_gateway_serves_up_to_a_limit_then_refuses_and_settles_all_of_it_later() {
    let server = OwnPostgres::start().await;
    let setup = Setup::on(server.url()).with_gateway_flag("--max-jobs", &MAX_JOBS.to_string());
    let network = setup.with_gateway_flag("--lease-secs", "60").start().await;
    let provider = network.scripted(json!([{"match": "*", "reply": "one two three", "prompt_tokens": 7}])).await;
    let client = network.client("10").await;
    assert_eq!(client.ask("x", json!({"max_tokens": 3})).await.usage.map(|u| u.completion_tokens), Some(3));
    let cost = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }.cost(7, 3).expect("a small cost");
    network.balance_becomes(&client.account, usd("10").checked_sub(cost).expect("enough")).await;

    server.kill();
    let mut served = 1;
    let refused = loop {
        let answer = client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await;
        if answer.status() != 200 {
            break answer;
        }
        served += 1;
        assert!(served <= 1 + MAX_JOBS, "more wait for the books than are allowed to");
    };
    assert_eq!(served, 1 + MAX_JOBS, "as many as may wait for the books are served");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().await.expect("JSON");
    assert_eq!(error["error"]["code"], "overloaded");

    server.restart().await;
    wait_until("requests are served again", Duration::from_secs(20), async || {
        client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await.status() == 200
    })
    .await;
    served += 1;
    let charged = (0..served).try_fold(usd("0"), |sum, _| sum.checked_add(cost)).expect("a small sum");
    network.balance_becomes(&client.account, usd("10").checked_sub(charged).expect("enough")).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

/// A host that vanishes says nothing: connections stay open and no answer ever comes. New ones lead to its successor. An idle
/// connection is found out by a ping before it is used, one in mid-batch by the writer's patience.
#[tokio::test]
async fn books_whose_connections_fall_silent_are_reached_on_new_ones_and_nothing_is_lost() {
    let server = OwnPostgres::start().await;
    let way = Way::to(server.port()).await;
    let setup = Setup::on(server.url().replace(&format!(":{}/", server.port()), &format!(":{}/", way.port)));
    let network = setup.with_gateway_flag("--lease-secs", "60").start().await;
    let provider = network.scripted(json!([{"match": "*", "reply": "one two three", "prompt_tokens": 7}])).await;
    let client = network.client("10").await;
    let cost = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }.cost(7, 3).expect("a small cost");
    let mut left = usd("10");
    for round in 0..3 {
        if round == 1 {
            way.falls_silent();
        }
        for _ in 0..5 {
            client.ask("x", json!({"max_tokens": 3})).await;
            left = left.checked_sub(cost).expect("enough");
        }
    }
    wait_until("all is settled", Duration::from_secs(60), async || {
        network.gateway.log().matches("outcome=\"complete\"").count() == 15
    })
    .await;
    network.balance_becomes(&client.account, left).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

/// A way to a server, whose connections can fall silent.
struct Way {
    port: u16,
    silences: watch::Sender<u64>,
}

impl Way {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let silences = watch::Sender::new(0);
        let silence = silences.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut silence = silence.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let passing = tokio::io::copy_bidirectional(&mut near, &mut far);
                    tokio::select! {
                        _ = passing => {}
                        _ = silence.changed() => std::future::pending().await, // both stay open
                    }
                });
            }
        });
        Self { port, silences }
    }

    fn falls_silent(&self) {
        self.silences.send_modify(|times| *times += 1);
    }
}

/// Before, and after, something is away.
const CALM: Duration = Duration::from_secs(3);
const CREDIT: &str = "20";

/// How long it is away: longer than a lease runs.
fn away() -> Duration {
    Duration::from_secs(if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { 30 } else { 7 })
}

/// Two gateways, each with a provider, that share what is about to go away.
struct Pair {
    network: Network,
    other: Replica,
    providers: Vec<Provider>,
    standings: Vec<(ProviderId, Standing)>,
}

/// One account, as it asks at both gateways.
struct Customer {
    name: &'static str,
    clients: Vec<Client>,
    per_second: f64,
}

impl Pair {
    async fn start(setup: Setup) -> Self {
        let network = setup.start().await;
        let other = network.another_gateway().await;
        let script = || ProviderSetup::scripted(json!([{"match": "*", "tokens": 3, "prompt_tokens": 7}]));
        let providers = vec![network.provider(script()).await, network.provider_at(&other.base, script()).await];
        tokio::time::sleep(Duration::from_millis(1500)).await; // by then each has seen the other
        let standings = standings(&network).await;
        Self { network, other, providers, standings }
    }

    async fn customer(&self, name: &'static str, per_second: f64, limits: Limits) -> Customer {
        let client = self.network.client(CREDIT).await;
        let key = self.network.store.keys(Some(&client.account)).await.expect("keys")[0].id;
        self.network.store.set_limits(LimitOwner::Key(key), &limits).await.expect("limits");
        let bases = [self.network.base.clone(), self.other.base.clone()];
        let clients = bases.map(|base| Client::new(base, client.key.clone(), client.account)).into();
        Customer { name, clients, per_second }
    }

    /// What was served is charged, to the nano-dollar, and nobody's standing has changed.
    async fn reckon(self, customers: &[(Customer, Vec<Outcome>)]) {
        for provider in &self.providers {
            provider.receipts_acknowledged().await;
        }
        for (customer, outcomes) in customers {
            let served = outcomes.iter().filter(|outcome| outcome.is_served()).count() as i64;
            let cost = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }.cost(7, 3).expect("a small cost");
            let charged = NanoUsd::from_nanos(cost.nanos() * served);
            let left = usd(CREDIT).checked_sub(charged).expect("enough");
            self.network.balance_becomes(&customer.clients[0].account, left).await;
        }
        assert_eq!(standings(&self.network).await, self.standings);
        for base in [&self.network.base, &self.other.base] {
            let list: Value =
                reqwest::get(format!("{base}/v1/models")).await.expect("an answer").json().await.expect("JSON");
            assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "its provider serves on");
        }
        self.other.stop().await;
        self.network.finish().await;
    }
}

impl Customer {
    /// Asks before, during and after.
    async fn ask(self, lasting: Duration) -> (Self, Vec<Outcome>) {
        let body = Client::body("x", json!({"max_tokens": 3})).to_string();
        let clients = self.clients.iter().map(|it| Client::new(it.base.clone(), it.key.clone(), it.account)).collect();
        let outcomes = offer(clients, body, self.per_second, lasting).await;
        (self, outcomes)
    }
}

async fn standings(network: &Network) -> Vec<(ProviderId, Standing)> {
    let providers = network.store.providers().await.expect("providers");
    providers.into_iter().map(|provider| (provider.id, provider.standing)).collect()
}

/// Outcomes of what was sent in each phase, printed.
fn phases<'a>(what: &str, customer: &Customer, outcomes: &'a [Outcome]) -> [Vec<&'a Outcome>; 3] {
    let back = CALM + away();
    let spans = [("before", Duration::ZERO, CALM), ("away", CALM, back), ("after", back, Duration::MAX)];
    spans.map(|(phase, from, to)| {
        let sent: Vec<&Outcome> = outcomes.iter().filter(|it| it.sent >= from && it.sent < to).collect();
        let (tally, slowest) = (tally(sent.iter().copied()), slowest_ms(sent.iter().copied()));
        println!("{what}, {}, {phase}: {tally:?}, slowest {slowest} ms", customer.name);
        sent
    })
}

async fn redis_is_away(is_killed: bool) {
    let redis = OwnRedis::start().await;
    let pair = Pair::start(Setup::new(Books::Postgres).shared_over(redis.url())).await;
    let budgets = Budgets { month: Some(usd("10")), ..Budgets::default() };
    let rate = |limit| Limits { requests_per_minute: Some(limit), ..Limits::default() };
    let customers = [
        pair.customer("with a budget", 20.0, Limits { budgets, ..Limits::default() }).await,
        pair.customer("600 a minute", 80.0, rate(600)).await,
        pair.customer("30 a minute", 5.0, rate(30)).await,
    ];
    let lasting = CALM + away() + CALM;
    let asking = join_all(customers.into_iter().map(|customer| tokio::spawn(customer.ask(lasting))));
    let outage = async {
        tokio::time::sleep(CALM).await;
        if is_killed {
            redis.stop()
        } else {
            redis.signal("STOP")
        }
        tokio::time::sleep(away()).await;
        if is_killed { redis.start_again().await } else { redis.signal("CONT") }
    };
    let (asked, ()) = tokio::join!(asking, outage);
    let asked: Vec<(Customer, Vec<Outcome>)> = asked.into_iter().map(|asked| asked.expect("no panic")).collect();
    let what = if is_killed { "Redis killed" } else { "Redis frozen" };
    for (customer, outcomes) in &asked {
        let served = outcomes.iter().filter(|outcome| outcome.is_served()).count();
        phases(what, customer, outcomes);
        assert!(outcomes.iter().all(|it| matches!(it.status, 200 | 429)), "{}: {:?}", customer.name, tally(outcomes));
        assert!(slowest_ms(outcomes) < 3000, "nobody waits for Redis for long");
        match customer.name {
            "with a budget" => assert_eq!(served, outcomes.len(), "a budget far away refuses nobody"),
            "600 a minute" => {
                let most = 600.0 * (1.0 + lasting.as_secs_f64() / 60.0);
                println!("{what}: {served} served of a bucket's {most:.0}");
                assert!((0.8..=1.05).contains(&(served as f64 / most)), "{served} of {most:.0}");
            }
            _ if lasting < Duration::from_secs(60) => assert!(served <= 30, "{served} served in less than a minute"),
            _ => assert!(served <= 60),
        }
    }
    pair.reckon(&asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_frozen_under_load() {
    redis_is_away(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load() {
    redis_is_away(true).await;
}

async fn postgres_is_away(is_killed: bool) {
    let server = OwnPostgres::start().await;
    let pair = Pair::start(Setup::on(server.url()).shared()).await;
    let customers = [
        pair.customer("without limits", 20.0, Limits::default()).await,
        pair.customer("600 a minute", 10.0, Limits { requests_per_minute: Some(600), ..Limits::default() }).await,
    ];
    let (begun, lasting) = (Instant::now(), CALM + away() + 3 * CALM);
    let asking = join_all(customers.into_iter().map(|customer| tokio::spawn(customer.ask(lasting))));
    let outage = async {
        tokio::time::sleep(CALM).await;
        if is_killed {
            server.kill()
        } else {
            server.signal("STOP")
        }
        tokio::time::sleep(away()).await;
        if is_killed {
            server.restart().await
        } else {
            server.signal("CONT")
        }
        begun.elapsed()
    };
    let (asked, back) = tokio::join!(asking, outage);
    let asked: Vec<(Customer, Vec<Outcome>)> = asked.into_iter().map(|asked| asked.expect("no panic")).collect();
    let what = if is_killed { "Postgres killed" } else { "Postgres frozen" };
    for (customer, outcomes) in &asked {
        let [before, meanwhile, after] = phases(what, customer, outcomes);
        assert!(before.iter().all(|outcome| outcome.is_served()));
        // Within the lease, what is set aside is spent; then nobody knows whether it still may be.
        let refused = |outcome: &&&Outcome| outcome.status == 503 && outcome.code == "books_unavailable";
        let served = meanwhile.iter().filter(|outcome| outcome.is_served()).count();
        assert_eq!(served + meanwhile.iter().filter(refused).count(), meanwhile.len(), "nothing else");
        assert!(served as f64 > customer.per_second * 2.0, "{served} served while the lease ran");
        assert!(served < meanwhile.len(), "a lease does not run for ever");
        let caught_up = after.iter().filter(|it| it.sent > back + CALM);
        assert!(caught_up.clone().count() > 0 && caught_up.clone().all(|it| it.is_served()), "all is served again");
    }
    pair.reckon(&asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_frozen_under_load() {
    postgres_is_away(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_under_load() {
    postgres_is_away(true).await;
}
