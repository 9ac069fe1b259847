//! TLS that the gateway ends itself, and TLS to Postgres and Redis: what is good is taken, what is not is refused, and a
//! certificate that changes cuts nothing.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::support::client::Client;
use crate::support::postgres::OwnPostgres;
use crate::support::process::{Process, free_port, wait_until};
use crate::support::provider::ProviderSetup;
use crate::support::proxy::Certificate;
use crate::support::redis::OwnRedis;
use crate::support::silence::silence_is_ended;
use crate::support::{Books, MODEL, Network, Setup};

const TOKENS: usize = 600;

/// What curl says, trusting this authority: the version of HTTP, or its exit code.
fn curl(base: &str, authority: &Path, more: &[&str]) -> Result<String, i32> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_version}"]).args(more);
    curl.arg("--cacert").arg(authority).arg(format!("{base}/health/live"));
    let output = curl.output().expect("curl runs");
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        code => Err(code.expect("an exit code")),
    }
}

/// curl's code for a certificate that it does not accept.
const NOT_ACCEPTED: Result<String, i32> = Err(60);

async fn client(network: &Network, authority: &Path) -> Client {
    let root = reqwest::Certificate::from_pem(&std::fs::read(authority).expect("a file")).expect("a certificate");
    let http = reqwest::Client::builder().tls_certs_merge([root]).build().expect("a client");
    Client { http, ..network.client("1").await }
}

/// Puts another certificate in the gateway's file, as whoever renews it would: all at once.
async fn renew(network: &Network, served: &Path, by: &Path) {
    let (changes, failures) = ("new connections get the new one", "cannot be used: the old one stays");
    let noticed = || network.gateway.log().matches(changes).count() + network.gateway.log().matches(failures).count();
    let before = noticed();
    let beside = served.with_extension("new");
    std::fs::copy(by, &beside).expect("a copy");
    std::fs::rename(&beside, served).expect("a new file");
    wait_until("the gateway has noticed", Duration::from_secs(20), async || noticed() > before).await;
}

#[tokio::test]
async fn a_certificate_that_changes_cuts_nothing_and_one_that_is_not_good_is_refused() {
    let (ours, theirs) = (Certificate::for_address("127.0.0.1"), Certificate::for_address("127.0.0.1"));
    let (authority, key) = (ours.path("authority.pem"), ours.path("key.pem"));
    let first = ours.another("first.pem", "IP:127.0.0.1", 2);
    let served = ours.path("served.pem");
    std::fs::copy(&first, &served).expect("a copy");
    let network = Setup::new(Books::Sqlite).with_tls(&served, &key).start().await;
    let script = json!([{"match": "*", "tokens": TOKENS, "prompt_tokens": 7, "delay_ms_per_token": 20}]);
    let join = || ProviderSetup::scripted(script.clone()).trusting(&authority).start(&network.base);
    let provider = join();
    provider.connected().await;
    network.serves(MODEL).await;

    assert_eq!(curl(&network.base, &authority, &["--http2"]), Ok("2".into()));
    assert_eq!(curl(&network.base, &authority, &["--http1.1"]), Ok("1.1".into()));
    assert!(curl(&network.base.replace("https", "http"), &authority, &[]).is_err(), "nothing is served without TLS");
    assert_eq!(curl(&network.base, &theirs.path("authority.pem"), &[]), NOT_ACCEPTED, "self-made");
    let health = |tls: bool| {
        let mut health = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
        health.args(["health", "--listen", network.base.trim_start_matches("https://")]).env_remove("LUMBUNG_TLS_CERT");
        health.envs(tls.then_some(("LUMBUNG_TLS_CERT", &served)));
        health.output().expect("it runs").status.code()
    };
    assert_eq!((health(true), health(false)), (Some(0), Some(1)), "a container's health check");

    let stranger = ProviderSetup::scripted(script.clone()).trusting(&theirs.path("authority.pem")).start(&network.base);
    wait_until("the provider does not know who vouches", Duration::from_secs(20), async || {
        let log = stranger.process.log();
        log.contains("UnknownIssuer") || log.contains("BadSignature") // both authorities go by one name
    })
    .await;
    drop(stranger);

    // A stream that begins under the first certificate and ends after five others.
    let client = client(&network, &authority).await;
    let mut stream = client.open("x", json!({"max_tokens": TOKENS})).await.bytes_stream();
    let mut text = stream.next().await.expect("a beginning").expect("a stream that is not cut").to_vec();
    let another = ours.another("second.pem", "IP:127.0.0.1", 2);
    renew(&network, &served, &another).await;
    assert!(curl(&network.base, &authority, &[]).is_ok());
    for (bad, why) in [
        (ours.another("expired.pem", "IP:127.0.0.1", -1), "Expired"),
        (ours.another("elsewhere.pem", "DNS:elsewhere.example", 2), "NotValidForName"),
    ] {
        renew(&network, &served, &bad).await;
        assert_eq!(curl(&network.base, &authority, &[]), NOT_ACCEPTED, "{why}");
        let stranger = join();
        wait_until("the provider says why not", Duration::from_secs(20), async || {
            let log = stranger.process.log();
            log.contains(why) || log.contains("not valid for") && why == "NotValidForName" || log.contains("expired")
        })
        .await;
        assert!(!stranger.process.log().contains("tunnel is up"));
    }
    renew(&network, &served, &first).await;
    assert!(curl(&network.base, &authority, &[]).is_ok());
    // The key of this one is another's: what is served stays as it is.
    renew(&network, &served, &theirs.path("cert.pem")).await;
    assert!(curl(&network.base, &authority, &[]).is_ok(), "the one before is still good");
    while let Some(piece) = stream.next().await {
        text.extend(piece.expect("a stream that is not cut"));
    }
    assert!(String::from_utf8_lossy(&text).trim_end().ends_with("data: [DONE]"), "the stream came to its end");
    assert_eq!(provider.process.log().matches("tunnel is up").count(), 1, "nor did the tunnel");
    assert!(network.gateway.log().contains("cannot be used: the old one stays"), "it was told");
    network.finish().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_said_after_the_handshake_is_closed() {
    let ours = Certificate::for_address("127.0.0.1");
    let network = Setup::new(Books::Sqlite).with_tls(&ours.path("cert.pem"), &ours.path("key.pem")).start().await;
    let address = network.base.strip_prefix("https://").expect("TLS");
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ours.path("authority.pem")).expect("a certificate");
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = async || {
        let socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
        connector.connect("127.0.0.1".try_into().expect("a name"), socket).await.expect("TLS")
    };
    silence_is_ended(connect).await;
    network.finish().await;
}

/// Why a gateway with these settings does not start; `None` when it still runs after a while. (Without Redis it does start,
/// and does without what only Redis can tell it.)
fn refused(environment: &[(&str, &str)]) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_lumbung-gateway"), "serve", "--listen", "127.0.0.1:0"]);
    command.env("LUMBUNG_DATA_DIR", folder.path()).env_remove("REDIS_URL").envs(environment.iter().copied());
    let output = command.output().expect("the gateway runs");
    (output.status.code() == Some(1)).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn postgres_and_redis_must_show_a_certificate_that_is_good() {
    let (ours, theirs) = (Certificate::for_address("127.0.0.1"), Certificate::for_address("127.0.0.1"));
    let elsewhere = ours.another("elsewhere.pem", "DNS:elsewhere.example", 2);
    let expired = ours.another("expired.pem", "IP:127.0.0.1", -1);
    let server = OwnPostgres::start().await;
    let url = |authority: &Path| format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), authority.display());
    let trusted = url(&ours.path("authority.pem"));
    assert!(refused(&[("DATABASE_URL", &trusted)]).is_some(), "a server without TLS");
    server.with_tls(&ours.path("cert.pem"), &ours.path("key.pem")).await;
    let redis = |certificate: &Path| {
        let path = |path: &Path| path.display().to_string();
        let port = free_port();
        let authority = path(&ours.path("authority.pem"));
        let flags = ["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"].map(str::to_owned);
        let files = ["--tls-cert-file", &path(certificate), "--tls-key-file", &path(&ours.path("key.pem"))];
        let files = [&files[..], &["--tls-ca-cert-file", &authority]].concat();
        (port, flags.into_iter().chain(files.into_iter().map(str::to_owned)).collect::<Vec<_>>())
    };
    let start = async |certificate: &Path| {
        let (port, flags) = redis(certificate);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        (OwnRedis::start_with(port, &flags).await, format!("rediss://127.0.0.1:{port}"))
    };
    let (_good, redis_url) = start(&ours.path("cert.pem")).await;
    let authority = ours.path("authority.pem").display().to_string();
    let setup = Setup::on(trusted.clone()).shared_over(redis_url.clone());
    let network = setup.with_gateway_flag("--redis-ca", &authority).start().await;
    let script = json!([{"match": "*", "reply": "one"}]);
    let _provider = network.scripted(script).await;
    let answer = network.client("1").await.ask("x", json!({})).await;
    assert_eq!(answer.choices[0].message.content.as_deref(), Some("one"));
    network.finish().await;

    let other = theirs.path("authority.pem");
    assert!(refused(&[("DATABASE_URL", &url(&other))]).is_some_and(|why| why.contains("cannot open the books")));
    let does_without = async |redis: &str, ca: &Path| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut serve = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
        serve.args(["serve", "--listen", "127.0.0.1:0"]).env("LUMBUNG_DATA_DIR", folder.path());
        serve.env("DATABASE_URL", &trusted).env("REDIS_URL", redis).env("REDIS_CA", ca);
        let gateway = Process::start("gateway", serve, Some(folder.path().join("gateway.log")));
        wait_until("the gateway refuses this Redis", Duration::from_secs(30), async || {
            gateway.log().contains("Redis: invalid peer certificate")
        })
        .await;
    };
    does_without(&redis_url, &other).await;
    for bad in [&elsewhere, &expired] {
        server.with_tls(bad, &ours.path("key.pem")).await;
        assert!(refused(&[("DATABASE_URL", &trusted)]).is_some_and(|why| why.contains("cannot open the books")));
    }
    server.with_tls(&ours.path("cert.pem"), &ours.path("key.pem")).await;
    for bad in [&elsewhere, &expired] {
        let (_bad, url) = start(bad).await;
        does_without(&url, &ours.path("authority.pem")).await;
    }
}
