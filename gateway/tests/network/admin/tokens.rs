//! Which tokens are taken: the gateway's own, and those of an outside issuer, by its published keys.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lumbung_gateway::admin::token;
use lumbung_gateway::domain::role::Role;
use lumbung_openapi::jws::SigningKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Operator, now};
use crate::support::process::wait_until;
use crate::support::{Books, Network, Setup};

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "lumbung";
/// Keys that exist for these tests only.
const RSA: &[u8] = include_bytes!("rsa.pem");
const RSA_N: &str = "0Q5f0ktD4FXDovx_yZ20ttwXg76kPw1ATuvaEPGO4K3vuUfpEE0h-AFTlZ2lSTT6SVD2EGd0dmCJabRKaHpFaAJvMUIC57V7H9SSMO2c-3IRKFVmZ3WemIliOUj1s6wQ5HSoWl75y-9i8S1j5RwvOEdlXceoTSmG0UPgvO5wdvI5OkTe1UhdcfDSepwXrVMnYVj1IFdfa6Tl0g88ObfCXw7G4Lh-uLZMSSXKksCokEB3q9oXbxycyhjP9vN6wpZswia5mPjXYMLA3hbZj7KfWjmmY6XtCgf8PcRU_VCJ56NrGdeFvBdQrxYkJUnMsJrCM9ajagpr9dC5xPZrvOlrxw";
const EC: &[u8] = include_bytes!("ec.pem");
const EC_X: &str = "oaB3HPHBx_gNIUBIerLpyg24boeKJJyLyeX2DCgVjwc";
const EC_Y: &str = "uv4xwKvKJfpFH5RkvTi71hzhyYvF3pMmQLuPpJTs_a4";

fn key_set(names: &[&str]) -> String {
    let ed = SigningKey::from_seed(&[3; 32]).public().to_jwk(Some("ed".into()));
    let keys = [
        json!({"kty": "RSA", "kid": "rsa", "use": "sig", "n": RSA_N, "e": "AQAB"}),
        json!({"kty": "EC", "kid": "ec", "crv": "P-256", "alg": "ES256", "x": EC_X, "y": EC_Y}),
        serde_json::to_value(ed).expect("a JWK"),
        json!({"kty": "EC", "kid": "encrypts", "use": "enc", "crv": "P-256", "x": EC_X, "y": EC_Y}),
        json!({"kty": "AKP", "kid": "unheard-of", "alg": "ML-DSA-44", "pub": "AA"}),
    ];
    let keys: Vec<Value> =
        keys.into_iter().filter(|key| names.contains(&key["kid"].as_str().expect("a kid"))).collect();
    json!({ "keys": keys }).to_string()
}

fn claims(more: Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "olga", "exp": now() + 600, "lumbung_role": "billing"});
    let members = claims.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    members.retain(|_, value| !value.is_null());
    claims
}

fn sign(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).expect("a token")
}

fn rsa(claims: &Value) -> String {
    sign(Algorithm::RS256, Some("rsa"), &EncodingKey::from_rsa_pem(RSA).expect("a key"), claims)
}

fn ec(kid: &str, claims: &Value) -> String {
    sign(Algorithm::ES256, Some(kid), &EncodingKey::from_ec_pem(EC).expect("a key"), claims)
}

fn ed(kid: &str, claims: &Value) -> String {
    SigningKey::from_seed(&[3; 32]).sign_with_kid("JWT", kid, claims)
}

/// A token with this header and these claims, and `signature` in place of one.
fn unsigned(header: Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(&header), part(claims))
}

async fn with_issuer(jwks: &str) -> Network {
    let setup = Setup::new(Books::Sqlite)
        .with_gateway_flag("--admin-jwks", jwks)
        .with_gateway_flag("--admin-issuer", ISSUER)
        .with_gateway_flag("--admin-audience", AUDIENCE);
    setup.start().await
}

async fn status(network: &Network, token: String) -> u16 {
    Operator::with_token(network, token).get("/accounts").await.status
}

#[tokio::test]
async fn tokens_of_an_outside_issuer_are_taken_by_its_keys_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, key_set(&["rsa", "ec", "ed", "encrypts", "unheard-of"])).expect("written");
    let network = with_issuer(&file.display().to_string()).await;
    let good = claims(json!({}));
    assert_eq!(status(&network, rsa(&good)).await, 200, "RS256");
    assert_eq!(status(&network, ec("ec", &good)).await, 200, "ES256");
    assert_eq!(status(&network, ed("ed", &good)).await, 200, "EdDSA");
    let roles = claims(json!({"lumbung_role": null, "roles": ["developer", "read-only"], "aud": ["x", AUDIENCE]}));
    assert_eq!(status(&network, rsa(&roles)).await, 200, "a list of roles");
    assert_eq!(
        status(&network, rsa(&claims(json!({"lumbung_role": "king"})))).await,
        403,
        "no role that is known here"
    );

    for (what, more) in [
        ("expired", json!({"exp": now() - 60})),
        ("no expiry", json!({"exp": null})),
        ("an expiry that is no number", json!({"exp": "never"})),
        ("not yet valid", json!({"nbf": now() + 300})),
        ("another audience", json!({"aud": "elsewhere"})),
        ("no audience", json!({"aud": null})),
        ("another issuer", json!({"iss": "https://evil.example"})),
        ("no issuer", json!({"iss": null})),
        ("no subject", json!({"sub": null})),
        ("a subject for nobody's log", json!({"sub": "a\nb"})),
    ] {
        assert_eq!(status(&network, rsa(&claims(more))).await, 401, "{what}");
    }
    let good_text = rsa(&good);
    let (head, signature) = good_text.rsplit_once('.').expect("a token");
    let secret = EncodingKey::from_secret(RSA_N.as_bytes());
    for (what, token) in [
        ("alg none", unsigned(json!({"alg": "none", "kid": "rsa"}), &good, "")),
        ("alg None", unsigned(json!({"alg": "None", "kid": "rsa"}), &good, "")),
        ("no alg", unsigned(json!({"kid": "rsa"}), &good, signature)),
        ("no signature", format!("{head}.")),
        ("HS256 with the public key", sign(Algorithm::HS256, Some("rsa"), &secret, &good)),
        (
            "a key's other algorithm",
            sign(Algorithm::PS256, Some("rsa"), &EncodingKey::from_rsa_pem(RSA).expect("a key"), &good),
        ),
        ("another kind of key's algorithm", unsigned(json!({"alg": "ES256", "kid": "rsa"}), &good, signature)),
        ("another key's name", ed("ec", &good)),
        ("a key for encryption", ec("encrypts", &good)),
        ("a key that nobody publishes", ed("other", &good)),
        (
            "a changed claim",
            format!(
                "{}.{signature}",
                unsigned(json!({"alg": "RS256", "kid": "rsa"}), &claims(json!({"sub": "eve"})), "")
                    .trim_end_matches('.')
            ),
        ),
        (
            "extensions that must be understood",
            unsigned(json!({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": false}), &good, signature),
        ),
        ("no token", "nonsense".into()),
        ("an endless one", "e".repeat(20_000)),
    ] {
        assert_eq!(status(&network, token).await, 401, "{what}");
    }
    let nobody = reqwest::get(format!("{}/admin/v1/accounts", network.base)).await.expect("an answer");
    assert_eq!(
        (nobody.status().as_u16(), &nobody.headers()["www-authenticate"]),
        (401, &"Bearer".parse().expect("a value"))
    );
    network.finish().await;
}

#[tokio::test]
async fn an_issuer_changes_its_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, key_set(&["ec"])).expect("written");
    let network = with_issuer(&file.display().to_string()).await;
    let good = claims(json!({}));
    assert_eq!(status(&network, ec("ec", &good)).await, 200);
    assert_eq!(status(&network, ed("ed", &good)).await, 401);
    std::fs::write(&file, key_set(&["ed"])).expect("written");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while status(&network, ed("ed", &good)).await != 200 {
        assert!(std::time::Instant::now() < deadline, "a new key is not taken");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(status(&network, ec("ec", &good)).await, 401, "a withdrawn key is good no more");
    network.finish().await;
}

/// An issuer's own server of its key set. It goes away with this.
struct KeyServer {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl KeyServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
        let (answer, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let (answers, counter) = (answer.clone(), asked.clone());
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap_or(0) > 0 {}
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().expect("a lock").clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, answer, asked, serving }
    }

    fn answers(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        *self.answer.lock().expect("a lock") = head + body;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn an_issuers_keys_come_over_http_and_stay_when_its_server_goes() {
    let server = KeyServer::start().await;
    server.answers("200 OK", &key_set(&["ec"]));
    let network = with_issuer(&server.url).await;
    let good = claims(json!({}));
    for _ in 0..20 {
        assert_eq!(status(&network, ec("ec", &good)).await, 200);
    }
    assert_eq!(server.asked(), 1, "asked once, and remembered");
    for _ in 0..20 {
        assert_eq!(status(&network, ed("ed", &good)).await, 401, "a key that is not published");
    }
    assert!(server.asked() <= 2, "strangers do not make the gateway ask: {}", server.asked());

    server.answers("200 OK", &key_set(&["ed", "rsa"]));
    wait_until("a new key is taken", Duration::from_secs(15), async || status(&network, ed("ed", &good)).await == 200)
        .await;
    assert_eq!(status(&network, rsa(&good)).await, 200);
    assert_eq!(status(&network, ec("ec", &good)).await, 401, "a withdrawn key is good no more");
    let before = server.asked();

    // Whatever goes wrong there, the keys that were known last stay, and no others come in.
    for (what, status_line, body) in [
        ("an error", "503 Down", ""),
        ("no key set", "200 OK", "<html>"),
        ("elsewhere", "302 Found\r\nlocation: http://127.0.0.1:9/", ""),
    ] {
        server.answers(status_line, body);
        let asked = server.asked();
        wait_until(&format!("the gateway meets {what}"), Duration::from_secs(15), async || {
            assert_eq!(status(&network, ec("ec", &good)).await, 401, "{what}");
            server.asked() > asked
        })
        .await;
        assert_eq!(status(&network, ed("ed", &good)).await, 200, "{what}");
    }
    assert!(server.asked() <= before + 5, "not more often than every few seconds: {}", server.asked());
    server.serving.abort();
    let network_log = || network.gateway.log().matches("the issuer's keys cannot be had").count();
    let met = network_log();
    wait_until("the gateway finds nobody there", Duration::from_secs(15), async || {
        assert_eq!(status(&network, ec("ec", &good)).await, 401);
        network_log() > met
    })
    .await;
    assert_eq!(status(&network, ed("ed", &good)).await, 200, "the server is down");
    network.finish().await;
}

#[tokio::test]
async fn the_gateways_own_tokens_are_for_operators_and_nothing_else_is() {
    let network = Setup::new(Books::Sqlite).start().await;
    let keys = network.store.signing_keys().await.expect("keys");
    let good = token::mint(&keys, "olga", Role::ReadOnly, 60, now());
    assert_eq!(status(&network, good).await, 200);
    assert_eq!(status(&network, token::mint(&keys, "olga", Role::Admin, 60, now() - 120)).await, 401, "expired");
    assert_eq!(status(&network, token::mint(&keys, "olga", Role::Admin, 60, now() + 600)).await, 401, "not valid yet");
    let own = json!({"iss": "lumbung-gateway", "aud": "lumbung-admin", "sub": "eve", "lumbung_role": "admin",
        "iat": now(), "nbf": now(), "exp": now() + 600});
    let sign = |typ: &str, claims: &Value| keys.sign_publicly(typ, claims);
    assert_eq!(status(&network, sign(token::TYP, &own)).await, 200);
    assert_eq!(status(&network, sign("lumbung-settlements+jwt", &own)).await, 401, "signed for another purpose");
    let mut elsewhere = own.clone();
    elsewhere["aud"] = "lumbung".into();
    assert_eq!(status(&network, sign(token::TYP, &elsewhere)).await, 401, "for another audience");
    let stranger = SigningKey::from_seed(&[9; 32]).sign_with_kid(token::TYP, &keys.ids().1, &own);
    assert_eq!(status(&network, stranger).await, 401, "another key");
    let ticket = keys.sign(token::TYP, &own);
    assert_eq!(status(&network, ticket).await, 401, "the key of tickets");
    assert_eq!(status(&network, ed("ed", &claims(json!({})))).await, 401, "no issuer is configured");
    let rotated = network.store.rotate_signing_keys().await.expect("new keys");
    let made_since = token::mint(&rotated, "olga", Role::Billing, 60, now());
    wait_until("a key made since is taken", std::time::Duration::from_secs(10), async || {
        status(&network, made_since.clone()).await == 200
    })
    .await;
    network.finish().await;
}
