//! Two gateways share a fleet over every form of Redis, and over TLS between themselves.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lumbung_gateway::store::CreditKind;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::{free_port, wait_until};
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::redis::OwnRedis;
use crate::support::{ASK, Books, MODEL, Network, Replica, Setup, usd};

/// A file of the tests' own authority: a certificate for this machine (`tls/`).
fn pem(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/network/tls").join(name).display().to_string()
}

fn script(reply: &str) -> Value {
    json!([{"match": "*", "reply": reply}])
}

/// A provider that joins the second gateway answers at the first.
async fn share(setup: Setup) -> (Network, Replica, Provider) {
    let network = setup.start().await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(script("one"))).await;
    network.serves(MODEL).await;
    let client = network.client("1").await;
    let answer = client.ask("x", json!({})).await;
    assert_eq!(answer.choices[0].message.content.as_deref(), Some("one"));
    assert!(client.stream("x", json!({})).await.done);
    (network, other, provider)
}

async fn end(network: Network, other: Replica) {
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn over_tls() {
    let port = free_port();
    let (port_text, certificate, key, authority) = (port.to_string(), pem("cert.pem"), pem("key.pem"), pem("ca.pem"));
    let tls = ["--port", "0", "--tls-port", &port_text, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let clients = ["--tls-ca-cert-file", &authority, "--tls-auth-clients", "no"];
    let _redis = OwnRedis::start_with(port, &[tls.as_slice(), &clients].concat()).await;
    let setup = Setup::new(Books::Postgres).shared_over(format!("rediss://127.0.0.1:{port}"));
    let (network, other, _provider) = share(setup.with_gateway_flag("--redis-ca", &authority)).await;
    end(network, other).await;
}

#[tokio::test]
async fn over_sentinel_through_a_failover() {
    let master = OwnRedis::start().await;
    let master_port = master.url().rsplit_once(':').expect("a port").1.to_owned();
    let replica = OwnRedis::start_with(free_port(), &["--replicaof", "127.0.0.1", &master_port]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (config, port) = (folder.path().join("sentinel.conf"), free_port());
    let lines = [
        format!("sentinel monitor lumbung 127.0.0.1 {master_port} 1"),
        "sentinel down-after-milliseconds lumbung 500".into(),
        "sentinel failover-timeout lumbung 2000".into(),
    ];
    std::fs::write(&config, lines.join("\n")).expect("a file");
    let _sentinel = OwnRedis::start_with(port, &[&config.display().to_string(), "--sentinel"]).await;
    let replica_port = replica.url().rsplit_once(':').expect("a port").1.to_owned();
    wait_until("the sentinel knows the replica", Duration::from_secs(20), async || {
        redis_cli(&["-p", &port.to_string(), "sentinel", "replicas", "lumbung"]).contains(&replica_port)
    })
    .await;
    let setup = Setup::new(Books::Postgres).shared_over(format!("redis+sentinel://127.0.0.1:{port}/lumbung"));
    let (network, other, _provider) = share(setup).await;

    master.stop();
    wait_until("the replica is the master", Duration::from_secs(20), async || {
        redis_cli(&["-p", &port.to_string(), "sentinel", "get-master-addr-by-name", "lumbung"]).contains(&replica_port)
    })
    .await;
    // Who joins now is known at the other gateway, by way of the new master.
    let cheap = ProviderSetup::scripted(script("two")).ask("0.1", "0.1");
    let _cheap = network.provider_at(&other.base, cheap).await;
    let client = network.client("1").await;
    wait_until("the first gateway knows who has joined since", Duration::from_secs(10), async || {
        client.ask("x", json!({})).await.choices[0].message.content.as_deref() == Some("two")
    })
    .await;
    end(network, other).await;
}

#[tokio::test]
async fn over_a_cluster() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let bus = free_port().to_string();
        let flags = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
        nodes.push(OwnRedis::start_with(free_port(), &flags).await);
    }
    let hosts: Vec<String> = nodes.iter().map(|node| node.url().trim_start_matches("redis://").to_owned()).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(hosts.iter().map(String::as_str));
    create.push("--cluster-yes");
    assert!(redis_cli(&create).contains("All 16384 slots covered"));
    let (_, port) = hosts[0].rsplit_once(':').expect("a port");
    wait_until("the cluster is ready", Duration::from_secs(10), async || {
        redis_cli(&["-p", port, "cluster", "info"]).contains("cluster_state:ok")
    })
    .await;
    let url = format!("redis+cluster://{}", hosts.join(","));
    let (network, other, _provider) = share(Setup::new(Books::Postgres).shared_over(url)).await;
    money_comes_back(&network, &other).await;
    end(network, other).await;
}

/// What one gateway has set aside and does not use is there at the other, as soon as every gateway has answered: no node of
/// a cluster knows how many there are.
async fn money_comes_back(network: &Network, other: &Replica) {
    let body = Client::body("fixed", json!({"max_tokens": 20})).to_string();
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    let held = price.cost(body.len() as u32 + 256, 20).expect("a small cost");
    let first = network.client("0").await;
    let credit = NanoUsd::from_nanos(held.nanos() * 3 / 2);
    network.store.add_credit(&first.account, credit, CreditKind::Paid, "").await.expect("credit");
    let second = Client::new(other.base.clone(), first.key.clone(), first.account);
    for client in [first, second] {
        assert_eq!(client.post(body.clone()).await.status(), 200);
    }
    let log = other.process.log();
    assert!(!log.contains("not every replica has answered"), "{log}");
}

#[tokio::test]
async fn gateways_talk_tls_with_each_other() {
    let setup = Setup::new(Books::Postgres).shared();
    let setup = setup.with_gateway_flag("--internal-tls-cert", &pem("cert.pem"));
    let setup = setup.with_gateway_flag("--internal-tls-key", &pem("key.pem"));
    let (network, other, _provider) = share(setup.with_gateway_flag("--internal-tls-ca", &pem("ca.pem"))).await;
    let log = network.gateway.log();
    assert!(log.contains("connected to another gateway"), "{log}");
    end(network, other).await;
}

fn redis_cli(arguments: &[&str]) -> String {
    let output = Command::new("redis-cli").args(arguments).output().expect("redis-cli comes with the server");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
