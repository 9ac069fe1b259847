//! TLS between gateways: what is good is taken, what is not is refused and says why, and certificates and authorities are
//! exchanged under a stream that is passed on.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::{Process, wait_until};
use crate::support::provider::ProviderSetup;
use crate::support::proxy::Certificate;
use crate::support::{Books, Network, Setup};

const TOKENS: usize = 600;

fn script(delay_ms: u64) -> Value {
    json!([{"match": "*", "tokens": TOKENS, "prompt_tokens": 7, "delay_ms_per_token": delay_ms}])
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Gateways that talk TLS, with these files.
async fn network(certificate: &Path, key: &Path, authority: &Path) -> Network {
    let setup = Setup::new(Books::Postgres).shared();
    let setup = setup.with_gateway_flag("--internal-tls-cert", &text(certificate));
    let setup = setup.with_gateway_flag("--internal-tls-key", &text(key));
    setup.with_gateway_flag("--internal-tls-ca", &text(authority)).start().await
}

fn at(client: &Client, base: &str) -> Client {
    Client::new(base.to_owned(), client.key.clone(), client.account)
}

async fn status(client: &Client) -> u16 {
    client.post(Client::body("x", json!({"max_tokens": 3})).to_string()).await.status().as_u16()
}

/// Waits until a gateway says why it does not talk with another; from its `from`th byte on.
async fn refuses(gateway: &Process, from: usize, why: &[&str]) {
    wait_until(&format!("{why:?} is told"), Duration::from_secs(30), async || {
        let log = gateway.log();
        let mut lines = log[from..].lines().filter(|line| line.contains("another gateway cannot be reached"));
        lines.any(|line| why.iter().any(|why| line.contains(why)))
    })
    .await;
}

#[tokio::test]
async fn a_gateway_whose_certificate_is_not_good_gets_no_prompt() {
    let (ours, theirs) = (Certificate::for_address("127.0.0.1"), Certificate::for_address("127.0.0.1"));
    let (authority, key) = (ours.path("authority.pem"), ours.path("key.pem"));
    let network = network(&ours.path("cert.pem"), &key, &authority).await;
    let client = network.client("1").await;
    for (certificate, key, why) in [
        (ours.another("expired.pem", "IP:127.0.0.1", -1), &key, &["Expired", "expired"][..]),
        (ours.another("elsewhere.pem", "DNS:elsewhere.example", 2), &key, &["NotValidForName", "not valid for"][..]),
        (theirs.path("cert.pem"), &theirs.path("key.pem"), &["UnknownIssuer", "BadSignature"][..]),
    ] {
        let from = network.gateway.log().len();
        let files = [("--internal-tls-cert", text(&certificate)), ("--internal-tls-key", text(key))];
        let files: Vec<(&str, &str)> = files.iter().map(|(flag, file)| (*flag, file.as_str())).collect();
        let other = network.another_gateway_with(&files).await;
        let provider = network.provider_at(&other.base, ProviderSetup::scripted(script(0))).await;
        refuses(&network.gateway, from, why).await;
        assert_eq!(status(&client).await, 503, "{why:?}: its provider is out of reach");
        assert_eq!(status(&at(&client, &other.base)).await, 200, "it serves its own clients");
        wait_until("it trusts whose certificate is good", Duration::from_secs(30), async || {
            other.process.log().contains("connected to another gateway")
        })
        .await;
        provider.receipts_acknowledged().await;
        drop(provider);
        other.stop().await;
    }
    // The other way round: one that trusts another authority sends nothing either.
    let other = network.another_gateway_with(&[("--internal-tls-ca", &text(&theirs.path("authority.pem")))]).await;
    let provider = network.scripted(script(0)).await;
    refuses(&other.process, 0, &["UnknownIssuer", "BadSignature"]).await;
    assert_eq!(status(&at(&client, &other.base)).await, 503);
    provider.receipts_acknowledged().await;
    other.stop().await;
    network.finish().await;
}

/// Puts these bytes in a file, all at once.
fn replace(file: &Path, by: &[u8]) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, by).expect("written");
    std::fs::rename(&beside, file).expect("a new file");
}

#[tokio::test]
async fn certificates_and_authorities_are_exchanged_under_a_stream_that_is_passed_on() {
    let (first, second) = (Certificate::for_address("127.0.0.1"), Certificate::for_address("127.0.0.1"));
    let folder = tempfile::tempdir().expect("a folder");
    let read = |from: &Certificate, name: &str| std::fs::read(from.path(name)).expect("a file");
    let [certificate, key, authority] = ["cert.pem", "key.pem", "authority.pem"].map(|name| {
        let file = folder.path().join(name);
        replace(&file, &read(&first, name));
        file
    });
    let network = network(&certificate, &key, &authority).await;
    let other = network.another_gateway().await;
    let provider = network.provider_at(&other.base, ProviderSetup::scripted(script(20))).await;
    network.serves(crate::support::MODEL).await;
    let client = network.client("1").await;
    let mut stream = client.open("x", json!({"max_tokens": TOKENS})).await.bytes_stream();
    let mut received = stream.next().await.expect("a beginning").expect("a stream that is not cut").to_vec();

    // As it is done: first both authorities are trusted, then each gateway shows a certificate of the new one, then the old
    // one is trusted no more.
    let noticed = async |what: &str, times: usize| {
        let all = || [&network.gateway, &other.process].iter().all(|it| it.log().matches(what).count() >= times);
        wait_until(&format!("'{what}', {times} times"), Duration::from_secs(30), async || all()).await;
    };
    let authority_changed = "its file has changed: new connections go by it";
    replace(&authority, &[read(&first, "authority.pem"), read(&second, "authority.pem")].concat());
    noticed(authority_changed, 1).await;
    replace(&key, &read(&second, "key.pem"));
    replace(&certificate, &read(&second, "cert.pem"));
    noticed("the certificate has changed: new connections get the new one", 1).await;
    replace(&authority, &read(&second, "authority.pem"));
    noticed(authority_changed, 2).await;
    // An authority that is none changes nothing.
    replace(&authority, b"");
    noticed("cannot be used yet: the old one stays", 1).await;
    replace(&authority, &read(&second, "authority.pem"));

    // Who comes now knows the new authority alone, and both know it by that.
    let third = network.another_gateway().await;
    wait_until("all know each other", Duration::from_secs(30), async || {
        let connected = |it: &Process| it.log().matches("connected to another gateway").count();
        [&network.gateway, &other.process, &third.process].map(connected).iter().all(|connected| *connected >= 2)
    })
    .await;
    assert_eq!(status(&at(&client, &third.base)).await, 200, "over a connection of now");
    while let Some(piece) = stream.next().await {
        received.extend(piece.expect("a stream that is not cut"));
    }
    assert!(String::from_utf8_lossy(&received).trim_end().ends_with("data: [DONE]"), "the stream came to its end");
    for gateway in [&network.gateway, &other.process] {
        let log = gateway.log();
        let closed = log.lines().filter(|line| line.contains("gateway broke") && line.contains("it was closed"));
        assert_eq!(closed.count(), 0, "nor was what it went over closed");
    }
    provider.receipts_acknowledged().await;
    third.stop().await;
    other.stop().await;
    network.finish().await;
}
