//! Gateways behind haproxy and community providers that come and go, while many clients ask. Nobody who had no answer yet
//! goes without, hardly any answer is cut short, and all the money is accounted for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lumbung_openapi::money::NanoUsd;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sqlx::Connection;

use crate::support::client::Client;
use crate::support::crowd::{Crowd, Tally};
use crate::support::process::{Process, free_port, wait_until};
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::proxy::{Kind, Proxy};
use crate::support::reckoning::{charged, number};
use crate::support::{Books, MODEL, Network, Replica, Setup, usd};

const PROVIDERS: usize = 6;
const ACCOUNTS: usize = 20;
const CLIENTS_EACH: usize = 10;
const CREDIT: &str = "1";
const EVERY: Duration = Duration::from_secs(2);
/// How long after a gateway's fault the proxy may take to give it up, and its streams with it.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(12);

fn lasting() -> Duration {
    Duration::from_secs(if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { 90 } else { 15 })
}

/// By default one with which gateways and providers are killed and frozen, each more than once.
fn seed() -> u64 {
    std::env::var("LUMBUNG_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4)
}

/// A second and a half for each answer, and weights that all have, so that one can go on with another's.
fn script() -> serde_json::Value {
    let rule = json!({"match": "*", "tokens": 30, "prompt_tokens": 5, "delay_ms_per_token": 50});
    json!({"weights_digest": "sha256:same", "quantization": "f32", "rules": [rule]})
}

/// Everything that can be killed or frozen.
struct Town {
    network: Network,
    others: Vec<Replica>,
    providers: Vec<Provider>,
    proxy: Proxy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Gateway(usize),
    Provider(usize),
}

struct Fault {
    who: Who,
    killed: bool,
    until: Instant,
}

impl Town {
    async fn build(gateways: usize, providers: usize, more: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let setup = Setup::new(Books::Postgres)
            .shared()
            .with_gateway_flag("--public-url", &format!("http://{address}"))
            .with_gateway_flag("--trusted-proxies", "127.0.0.1")
            .with_gateway_flag("--claim-window-secs", "20")
            .with_gateway_flag("--stall-timeout", "2s");
        let setup = more.iter().fold(setup, |setup, (flag, value)| setup.with_gateway_flag(flag, value));
        let network = setup.start().await;
        let mut others = Vec::new();
        for _ in 1..gateways {
            others.push(network.another_gateway().await);
        }
        let bases: Vec<&str> = std::iter::once(&network.base)
            .chain(others.iter().map(|other| &other.base))
            .map(|base| host(base))
            .collect();
        let proxy = Proxy::start(Kind::Haproxy, &address, &bases, None).await;
        let providers = (0..providers).map(|_| ProviderSetup::scripted(script()).start(&proxy.base)).collect();
        let town = Self { network, others, providers, proxy };
        for provider in &town.providers {
            provider.connected().await;
        }
        for base in std::iter::once(&town.network.base).chain(town.others.iter().map(|other| &other.base)) {
            town.network.serves_at(base, MODEL).await;
        }
        town
    }

    /// Clients with accounts of their own, who ask through the proxy.
    async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..ACCOUNTS {
            let client = self.network.client(CREDIT).await;
            clients.push(Client::new(self.proxy.base.clone(), client.key, client.account));
        }
        clients
    }

    fn gateways(&self) -> usize {
        1 + self.others.len()
    }

    fn process(&mut self, who: Who) -> &mut Process {
        match who {
            Who::Gateway(0) => &mut self.network.gateway,
            Who::Gateway(n) => &mut self.others[n - 1].process,
            Who::Provider(n) => &mut self.providers[n].process,
        }
    }

    fn base(&self, gateway: usize) -> &str {
        if gateway == 0 { &self.network.base } else { &self.others[gateway - 1].base }
    }

    fn begin(&mut self, who: Who, killed: bool) {
        let process = self.process(who);
        if killed { process.kill() } else { process.signal("STOP") }
    }

    async fn heal(&mut self, fault: &Fault) {
        match (fault.killed, fault.who) {
            (false, who) => self.process(who).signal("CONT"),
            (true, who) => self.start_again(who),
        }
        // A gateway frozen beyond its lease ends by itself, and is started again as a supervisor would.
        if let Who::Gateway(n) = fault.who {
            let ready = format!("{}/health/ready", self.base(n));
            let deadline = Instant::now() + Duration::from_secs(30);
            while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200) {
                assert!(Instant::now() < deadline, "gateway {n} is not ready again");
                if self.process(fault.who).has_ended() {
                    self.start_again(fault.who);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn start_again(&mut self, who: Who) {
        match who {
            Who::Gateway(0) => self.network.start_gateway_again(),
            Who::Gateway(n) => self.network.start_again(&mut self.others[n - 1]),
            Who::Provider(n) => self.providers[n].restart(),
        }
    }

    /// What must hold when everyone is back and has handed in what they have.
    async fn reckon(&self, clients: &[Client]) {
        for provider in &self.providers {
            provider.receipts_acknowledged().await;
        }
        let mut books = sqlx::PgConnection::connect(self.network.database_url()).await.expect("the books answer");
        let unproven = "SELECT COUNT(*) FROM attempts WHERE receipt_batch IS NULL AND state = 'settled' AND charge > 0";
        wait_until("what has no receipt goes back", Duration::from_secs(90), async || {
            number(&mut books, unproven).await == 0
        })
        .await;
        let dead = "SELECT COUNT(*) FROM ledger_accounts a JOIN replicas r ON r.id = a.replica
                    WHERE a.kind = 'allowance' AND a.balance > 0 AND r.ends_at < EXTRACT(EPOCH FROM clock_timestamp()) * 1000000";
        wait_until("only the living hold allowances", Duration::from_secs(90), async || {
            number(&mut books, dead).await == 0
        })
        .await;
        self.network.check_books().await;
        let charged = charged(&self.network, &mut books, clients, usd(CREDIT)).await;
        println!("{charged} charged, and every charge adds up");
        assert!(charged > NanoUsd::ZERO);
    }

    async fn finish(self) {
        for other in self.others {
            other.stop().await;
        }
        self.network.finish().await;
    }
}

fn host(base: &str) -> &str {
    base.trim_start_matches("http://")
}

/// The answer that everyone gets, undisturbed.
async fn answer(client: &Client) -> String {
    let streamed = client.stream("chaos", json!({})).await;
    assert!(streamed.done && streamed.error.is_none(), "{:?}", streamed.error);
    streamed.text
}

/// Kills and freezes, one every two seconds, until the time is over. Of the gateways one at a time. Returns when the
/// gateways' faults began.
async fn disturb(town: &mut Town, random: &mut StdRng) -> Vec<Instant> {
    let (until, mut faults, mut at_gateways) = (Instant::now() + lasting(), Vec::<Fault>::new(), Vec::new());
    let mut next = Instant::now();
    while Instant::now() < until || !faults.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for fault in faults.extract_if(.., |fault| fault.until <= Instant::now()).collect::<Vec<_>>() {
            town.heal(&fault).await;
        }
        if Instant::now() < next || Instant::now() >= until {
            continue;
        }
        next = Instant::now() + EVERY;
        let gateway_down = faults.iter().any(|fault| matches!(fault.who, Who::Gateway(_)));
        let gateways = (0..town.gateways()).filter(|_| !gateway_down).map(Who::Gateway);
        let providers = (0..town.providers.len()).map(Who::Provider);
        let well: Vec<Who> =
            gateways.chain(providers).filter(|who| faults.iter().all(|fault| fault.who != *who)).collect();
        let (who, killed) = (*well.choose(random).expect("someone is well"), random.random_bool(0.5));
        let lasts = Duration::from_millis(random.random_range(1000..4000));
        println!("{} {who:?} for {lasts:?}", if killed { "killed" } else { "froze" });
        if matches!(who, Who::Gateway(_)) {
            at_gateways.push(Instant::now()); // before its streams are cut
        }
        town.begin(who, killed);
        faults.push(Fault { who, killed, until: Instant::now() + lasts });
    }
    at_gateways
}

fn report(tally: &Tally) -> (u64, u64, u64, usize, usize) {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (cut, failed) = (tally.cut.lock().expect("no panic").len(), tally.failed.lock().expect("no panic").len());
    let (whole, begun, broken) = (count(&tally.whole), count(&tally.begun), count(&tally.broken));
    println!(
        "{whole} answers came whole, {} retries before a first byte; of {begun} streams {broken} broke for their provider and {cut} with their gateway; {failed} requests failed",
        count(&tally.retries)
    );
    (whole, begun, broken, cut, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_whose_machines_are_killed_and_frozen_answers_everyone() {
    let mut random = StdRng::seed_from_u64(seed());
    println!("seed {}", seed());
    let mut town = Town::build(3, PROVIDERS, &[]).await;
    let clients = town.clients().await;
    let crowd = Crowd::gather(&clients, CLIENTS_EACH, &answer(&clients[0]).await, seed());
    let at_gateways = disturb(&mut town, &mut random).await;
    let tally = crowd.disperse().await;
    let (whole, begun, broken, ..) = report(&tally);
    assert_eq!(*tally.failed.lock().expect("no panic"), Vec::<String>::new());
    assert!(whole > 200, "they were served at all");
    assert!(broken * 1000 < begun.max(1), "{broken} of {begun}");
    for cut in &*tally.cut.lock().expect("no panic") {
        let explained = at_gateways.iter().any(|at| *at <= *cut && *cut - *at < GIVEN_UP_WITHIN);
        assert!(explained, "a stream was cut though no gateway had gone");
    }
    town.reckon(&clients).await;
    town.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_are_replaced_one_after_the_other_and_no_request_fails() {
    let mut town = Town::build(2, 4, &[("--drain-notice-secs", "3")]).await;
    let clients = town.clients().await;
    let crowd = Crowd::gather(&clients, 2, &answer(&clients[0]).await, seed());
    for round in 0..4 {
        let who = Who::Gateway(round % 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        town.process(who).signal("TERM");
        town.process(who).stops(Duration::from_secs(40)).await;
        town.start_again(who);
        let ready = format!("{}/health/ready", town.base(round % 2));
        wait_until("it is ready again", Duration::from_secs(30), async || {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await; // the proxy has seen it
    }
    let tally = crowd.disperse().await;
    let (whole, _, broken, cut, _) = report(&tally);
    assert_eq!(*tally.failed.lock().expect("no panic"), Vec::<String>::new());
    assert_eq!((broken, cut), (0, 0), "every stream came to its end");
    assert!(whole > 100, "they were served at all");
    town.reckon(&clients).await;
    town.finish().await;
}
