//! The proxies that this repository has configurations for, with gateways behind them, and a provider on a machine that can
//! only dial out: everything that works without them works with them, and every event arrives when it is sent.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;

use crate::support::client::Client;
use crate::support::namespace::Namespace;
use crate::support::process::{free_port_at, wait_until};
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::proxy::{Certificate, HAPROXY, Kind, NGINX, Proxy};
use crate::support::{Books, Setup};

/// A connection that the gateway closes for being idle is one that no proxy would still use.
#[test]
fn proxies_let_go_of_idle_connections_before_gateways_do() {
    let seconds = |text: &str, after: &str, before: &str| {
        let found =
            text.split(after).nth(1).and_then(|rest| rest.split(before).next()).and_then(|n| n.parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("no '{after}' in {text}"))
    };
    let server = include_str!("../../src/http/server.rs");
    let kept = seconds(server, "const IDLE_FOR: Duration = Duration::from_secs(", ")");
    for (text, setting) in [
        (NGINX, "\n    keepalive_timeout "),
        (HAPROXY, "timeout http-keep-alive "),
        (include_str!("../../deploy/compose/haproxy.cfg"), "timeout http-keep-alive "),
    ] {
        assert!(seconds(text, setting, "s") + 10 <= kept, "{setting}");
    }
}

const BUNDLED: &str = "lumbung/padi";
const TOKENS: usize = 30;
const EVERY: Duration = Duration::from_millis(50);

fn script() -> serde_json::Value {
    let even = EVERY.as_millis() as u64;
    json!([
        {"match": "even", "tokens": TOKENS, "prompt_tokens": 7, "delay_ms_per_token": even},
        {"match": "endless", "tokens": 5000, "prompt_tokens": 7, "delay_ms_per_token": 20}
    ])
}

/// When each event came, from the request on.
async fn arrivals(client: &Client) -> Vec<Duration> {
    let asked = Instant::now();
    let response = client.open("even", json!({"max_tokens": TOKENS})).await;
    let (mut pieces, mut arrivals) = (response.bytes_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let events = piece.expect("a stream that is not cut").windows(2).filter(|pair| pair == b"\n\n").count();
        arrivals.extend(std::iter::repeat_n(asked.elapsed(), events));
    }
    arrivals
}

/// Nothing is held back: most events come by themselves, at the pace at which they are made.
fn assert_even(arrivals: &[Duration]) {
    let gaps: Vec<Duration> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let alone = gaps.iter().filter(|gap| **gap > EVERY / 2 && **gap < EVERY * 2).count();
    let longest = gaps.iter().max().expect("events");
    println!("{alone} of {TOKENS} events came by themselves, the longest gap was {longest:?}");
    assert!(alone * 10 >= TOKENS * 8, "events come together: {gaps:?}");
}

/// The Python SDK's own tests, against this address.
async fn sdk(base: &str, certificate: &Path, client: &Client) {
    let mut python =
        Command::new(std::env::var("LUMBUNG_TEST_PYTHON").expect("LUMBUNG_TEST_PYTHON: run through `make test`"));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/test_openai.py");
    python.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "stream or chat"]).arg(tests);
    python.env("BASE_URL", format!("{base}/v1")).env("API_KEY", &client.key).env("MODEL", BUNDLED);
    python.env("SSL_CERT_FILE", certificate);
    let output = tokio::task::spawn_blocking(move || python.output()).await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", said.lines().last().unwrap_or_default());
}

/// A client that leaves is noticed through the proxy, too.
async fn leaving_cancels(client: &Client, provider: &Provider) {
    let mut stream = client.open("endless", json!({"max_tokens": 5000})).await.bytes_stream();
    stream.next().await.expect("a beginning").expect("a stream that is not cut");
    drop(stream);
    let mut before = u64::MAX;
    wait_until("the provider makes no more", Duration::from_secs(10), async || {
        tokio::time::sleep(Duration::from_millis(1200)).await; // its status file is a second old
        std::mem::replace(&mut before, provider.generated()) == before
    })
    .await;
    assert!(before < 1000, "{before} tokens");
}

async fn everything_works_behind(kind: Kind) {
    let namespace = Namespace::new();
    let ip = namespace.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |namespace| namespace.outside.to_string());
    let certificate = Certificate::for_address(&ip);
    let address = format!("{ip}:{}", free_port_at(&ip));
    let network = Setup::new(Books::Sqlite)
        .with_model(BUNDLED, 2048)
        .with_gateway_flag("--public-url", &format!("https://{address}"))
        .with_gateway_flag("--trusted-proxies", "127.0.0.1")
        .start()
        .await;
    let proxy = Proxy::start(kind, &address, &[network.base.trim_start_matches("http://")], Some(&certificate)).await;

    let join = |setup: ProviderSetup| {
        let setup = setup.trusting(&certificate.path("authority.pem"));
        let entrance = namespace.as_ref().map(Namespace::entrance);
        entrance.into_iter().fold(setup, ProviderSetup::inside).start(&proxy.base)
    };
    let (scripted, bundled) = (join(ProviderSetup::scripted(script())), join(ProviderSetup::bundled(BUNDLED).slots(4)));
    for provider in [&scripted, &bundled] {
        provider.connected().await;
        network.serves(&provider.model).await;
        assert_eq!(provider.process.listening(), Vec::<String>::new(), "a provider listens on no port");
    }
    let root = std::fs::read(certificate.path("authority.pem")).expect("a certificate");
    let root = reqwest::Certificate::from_pem(&root).expect("a certificate");
    let http = reqwest::Client::builder().tls_certs_merge([root]).build().expect("a client");
    let client = network.client("1").await;
    let client = Client { http, ..Client::new(proxy.base.clone(), client.key, client.account) };

    assert_even(&arrivals(&client).await);
    let streamed = client.stream("even", json!({"max_tokens": TOKENS})).await;
    assert_eq!((streamed.done, streamed.usage.map(|usage| usage.completion_tokens)), (true, Some(TOKENS as u32)));
    scripted.receipts_acknowledged().await;
    let receipt = client.receipt(&streamed.id).await;
    assert!(receipt.to_string().contains(&streamed.id), "{receipt}");
    leaving_cancels(&client, &scripted).await;
    sdk(&proxy.base, &certificate.path("authority.pem"), &client).await;
    for provider in [&scripted, &bundled] {
        assert_eq!(provider.process.log().matches("tunnel is up").count(), 1, "one tunnel for all of it");
        provider.receipts_acknowledged().await;
    }
    network.finish().await;
}

#[tokio::test]
async fn everything_works_behind_haproxy() {
    everything_works_behind(Kind::Haproxy).await;
}

#[tokio::test]
async fn everything_works_behind_nginx() {
    everything_works_behind(Kind::Nginx).await;
}
