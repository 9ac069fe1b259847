//! Strangers who come too often: they wait, they cost next to nothing, and nobody else waits with them.

use std::time::Duration;

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::provider::Standing;
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::provider::{
    CHALLENGE_PATH, Challenge, JOIN_SCHEME, JOIN_TYP, JoinClaims, TUNNEL_PATH, TUNNEL_PROTOCOL,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::client::Client;
use crate::support::silence::silence_is_ended;
use crate::support::{Books, MODEL, Network, Setup};

/// A provider that joins, and does nothing else.
struct Stranger<'a> {
    network: &'a Network,
    key: SigningKey,
    from: String,
    http: reqwest::Client,
}

impl<'a> Stranger<'a> {
    fn new(network: &'a Network, seed: u8, from: &str) -> Self {
        let http = reqwest::Client::builder().http1_only().build().expect("a client");
        Self { network, key: SigningKey::from_seed(&[seed; 32]), from: from.to_owned(), http }
    }

    fn id(&self) -> ProviderId {
        ProviderId::from(self.key.public())
    }

    async fn get(&self, path: &str, join: Option<&str>) -> reqwest::Response {
        let mut request = self.http.get(format!("{}{path}", self.network.base)).header("x-forwarded-for", &self.from);
        if let Some(join) = join {
            request = request.header("connection", "upgrade").header("upgrade", TUNNEL_PROTOCOL);
            request = request.header("authorization", format!("{JOIN_SCHEME} {join}"));
        }
        request.send().await.expect("the gateway answers")
    }

    /// Joins; the tunnel stays as long as what is returned.
    async fn join(&self) -> reqwest::Response {
        let challenge: Challenge = self.get(CHALLENGE_PATH, None).await.json().await.expect("a challenge");
        let claims =
            JoinClaims { aud: self.network.base.clone(), challenge: challenge.challenge, agent: "test/1".into() };
        self.get(TUNNEL_PATH, Some(&self.key.sign_with_jwk(JOIN_TYP, &claims))).await
    }
}

/// Behind a proxy that says where requests come from, which is this test.
fn setup() -> Setup {
    Setup::new(Books::Sqlite).with_gateway_flag("--trusted-proxies", "127.0.0.0/8,::1")
}

async fn code(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let error: Value = response.json().await.expect("JSON");
    (status, error["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn retry_after(refusal: &reqwest::Response) -> u64 {
    refusal.headers()["retry-after"].to_str().expect("text").parse().expect("seconds")
}

/// CPU time of a process so far.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10) // 100 ticks a second on every Linux that matters
}

#[tokio::test]
async fn joins_from_one_address_are_limited_and_what_is_refused_costs_next_to_nothing() {
    let network = setup().with_gateway_flag("--joins-per-minute", "20").start().await;
    let mut flood = Stranger::new(&network, 1, "198.51.100.1");
    // Signed properly, but for another challenge: what is verified costs a signature.
    let join = flood
        .key
        .sign_with_jwk(JOIN_TYP, &JoinClaims { aud: network.base.clone(), challenge: "x".into(), agent: "a".into() });
    let mut verified = 0;
    let refused = loop {
        let response = flood.get(TUNNEL_PATH, Some(&join)).await;
        match response.status().as_u16() {
            401 => verified += 1,
            _ => break response,
        }
    };
    assert!((20..=24).contains(&verified), "{verified}: one more for every three seconds that it took");
    assert!((1..=3).contains(&retry_after(&refused)));
    assert_eq!(code(refused).await, (429, "too_many_joins".into()));

    const FLOOD: u32 = 3000;
    let (before, resident) = (cpu(network.gateway.id()), network.gateway.resident());
    let mut refusals = 0;
    for _ in 0..FLOOD {
        refusals += u32::from(flood.get(TUNNEL_PATH, Some(&join)).await.status() == 429);
    }
    let each = (cpu(network.gateway.id()) - before) / FLOOD;
    assert!(refusals > FLOOD * 9 / 10, "{refusals}");
    // Every address of a network: the counters do not grow.
    for n in 0..FLOOD {
        flood.from = format!("203.0.{}.{}", n / 256, n % 256);
        assert_eq!(flood.get(CHALLENGE_PATH, None).await.status(), 200, "nobody else waits");
    }
    let grown = network.gateway.resident().saturating_sub(resident);
    println!(
        "a refused join costs the gateway {each:?} of CPU, with its HTTP request; {grown} bytes more after {FLOOD} addresses"
    );
    assert!(each < Duration::from_millis(1), "{each:?}");
    assert!(grown < 16 << 20, "{grown} bytes");
    let lines = network.gateway.log().lines().filter(|line| line.contains(TUNNEL_PATH)).count();
    assert!(lines < 400, "{lines} lines in the log");
    network.finish().await;
}

#[tokio::test]
async fn newcomers_have_a_share_of_the_tunnels_and_trusted_providers_always_find_room() {
    let network = setup()
        .with_gateway_flag("--max-tunnels", "4")
        .with_gateway_flag("--newcomer-tunnels-percent", "75")
        .with_gateway_flag("--newcomer-tunnels-per-address", "2")
        .start()
        .await;
    let stranger = |seed: u8, from: &str| Stranger::new(&network, seed, from);
    let trusted: Vec<Stranger> = (11..16).map(|seed| stranger(seed, "192.0.2.1")).collect();
    for provider in &trusted {
        network.store.set_standing(&provider.id(), Standing::Trusted).await.expect("trusted");
    }
    let banned = stranger(20, "192.0.2.2");
    network.store.set_standing(&banned.id(), Standing::Banned).await.expect("banned");
    tokio::time::sleep(Duration::from_secs(1)).await; // the gateway has read it

    let mut tunnels = Vec::new();
    for (seed, from) in [(1, "198.51.100.1"), (2, "198.51.100.1")] {
        let tunnel = stranger(seed, from).join().await;
        assert_eq!(tunnel.status(), 101);
        tunnels.push(tunnel);
    }
    assert_eq!(code(stranger(3, "198.51.100.1").join().await).await, (429, "too_many_tunnels".into()));
    tunnels.push(stranger(4, "198.51.100.2").join().await);
    assert_eq!(code(stranger(5, "198.51.100.3").join().await).await, (503, "fleet_full".into()));
    assert_eq!(code(banned.join().await).await, (403, "provider_banned".into()));

    for provider in &trusted[..4] {
        let tunnel = provider.join().await;
        assert_eq!(tunnel.status(), 101, "trusted");
        tunnels.push(tunnel);
    }
    assert_eq!(code(trusted[4].join().await).await, (503, "fleet_full".into()), "four is four");
    let made_way = network.gateway.log().matches("makes way for a trusted provider").count();
    assert_eq!(made_way, 3);
    drop(tunnels);
    network.finish().await;
}

#[tokio::test]
async fn an_address_that_guesses_keys_waits_and_known_keys_pass_from_there() {
    let network = setup().with_gateway_flag("--wrong-keys-per-minute", "30").start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 3, "prompt_tokens": 1}])).await;
    let client = network.client("1").await;
    let ask = async |key: &str, from: &str| {
        let request = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(key);
        let request = request.header("x-forwarded-for", from).header("content-type", "application/json");
        request.body(Client::body("x", json!({"max_tokens": 3})).to_string()).send().await.expect("an answer")
    };
    assert_eq!(ask(&client.key, "203.0.113.5").await.status(), 200);
    for n in 0..30 {
        assert_eq!(ask(&format!("sk-wrong-{n}"), "203.0.113.5").await.status(), 401);
    }
    let mut refused = ask("sk-another", "203.0.113.5").await;
    for _ in 0..5 {
        if refused.status() == 401 {
            refused = ask("sk-another", "203.0.113.5").await; // one more for every two seconds that it took
        }
    }
    assert!((1..=2).contains(&retry_after(&refused)));
    assert_eq!(code(refused).await, (429, "too_many_wrong_keys".into()));
    assert_eq!(ask(&client.key, "203.0.113.5").await.status(), 200, "a good key from the same address");
    let messages = client.http.post(format!("{}/v1/messages", client.base)).header("x-forwarded-for", "203.0.113.5");
    let body = json!({"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]});
    let messages = async |key: &str| {
        let request = messages.try_clone().expect("no body yet").header("x-api-key", key);
        request.header("content-type", "application/json").body(body.to_string()).send().await.expect("an answer")
    };
    assert_eq!(messages(&client.key).await.status(), 200, "as Anthropic's clients show it");
    let refused: serde_json::Value = messages("sk-another").await.json().await.expect("JSON");
    assert_eq!(refused["error"]["type"], "rate_limit_error", "in their shape");
    // What a client puts before what its proxy adds is its own word.
    assert_eq!(ask("sk-another", "198.51.100.77, 203.0.113.5").await.status(), 429);
    assert_eq!(ask("sk-another", "203.0.113.6").await.status(), 401, "another address");
    network.finish().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_said_is_closed() {
    let network = setup().start().await;
    let address = network.base.strip_prefix("http://").expect("no TLS");
    let connect = async || TcpStream::connect(address).await.expect("a connection");
    silence_is_ended(connect).await;
    network.finish().await;
}
