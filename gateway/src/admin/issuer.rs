//! An outside issuer of operators' tokens: its published keys (JWKS, RFC 7517), and what a token of its must say.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::token::{LEEWAY_SECS, TokenError, subject};
use crate::domain::role::{Actor, Role};

/// Keys are looked at again after this, so that a withdrawn one stops working.
const FRESH_FOR: Duration = Duration::from_secs(300);
/// An unknown key makes this gateway look for new ones, but not more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long the issuer may take to answer.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// The largest key set that is read, in bytes.
const MAX_JWKS: usize = 256 << 10;
/// Keys of one issuer at most.
const MAX_KEYS: usize = 64;

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Url(reqwest::Url),
    File(PathBuf),
}

/// An outside issuer.
pub struct Issuer {
    name: String,
    audience: String,
    source: Source,
    http: reqwest::Client,
    keys: ArcSwap<Vec<Jwk>>,
    /// When the keys were last asked for, and when they last came.
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    came: Option<Instant>,
}

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Plain HTTP to another machine: whoever is in between could put in keys.
    #[error("the key set's URL must be https, or on this machine")]
    Insecure,
    /// No HTTP client.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    lumbung_role: Option<Value>,
    roles: Option<Value>,
}

impl Issuer {
    /// An issuer by its name (`iss`), whose keys are at `jwks`, a URL or a file; tokens must be meant for `audience`.
    pub fn new(jwks: &str, name: &str, audience: &str) -> Result<Self, IssuerError> {
        let source = match reqwest::Url::parse(jwks) {
            Ok(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => Source::Url(url),
            Ok(url) if url.scheme() == "http" => return Err(IssuerError::Insecure),
            _ => Source::File(jwks.into()),
        };
        let http =
            reqwest::Client::builder().timeout(FETCH_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        let (name, audience) = (name.to_owned(), audience.to_owned());
        Ok(Self { name, audience, source, http, keys: ArcSwap::default(), asked: Mutex::default() })
    }

    /// Who shows this token.
    pub(super) async fn verify(&self, token: &str, header: &Header) -> Result<Actor, TokenError> {
        // A list of our own: a token must not choose among all that the library knows.
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
            return Err(TokenError::Algorithm);
        }
        let key = self.key(header).await?;
        if !fits(&key, header.alg) {
            return Err(TokenError::Algorithm);
        }
        let key = DecodingKey::from_jwk(&key).map_err(|_| TokenError::UnknownKey)?;
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.name]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECS;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => TokenError::Audience,
                ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => TokenError::Time,
                ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
                _ => TokenError::Malformed,
            })?
            .claims;
        let role = role(&claims).ok_or(TokenError::NoRole)?;
        Ok(Actor { subject: subject(&claims.sub)?, issuer: self.name.clone(), role })
    }

    async fn key(&self, header: &Header) -> Result<Jwk, TokenError> {
        self.look_again(FRESH_FOR).await;
        if let Some(key) = find(&self.keys.load(), header) {
            return Ok(key);
        }
        self.look_again(LOOK_AGAIN).await;
        match find(&self.keys.load(), header) {
            Some(key) => Ok(key),
            None if self.keys.load().is_empty() => Err(TokenError::Unavailable),
            None => Err(TokenError::UnknownKey),
        }
    }

    /// Reads the keys again, unless they came within `age` or were asked for just now. Where they cannot be had, the old
    /// ones stand: an issuer's outage must not lock operators out.
    async fn look_again(&self, age: Duration) {
        let mut asked = self.asked.lock().await;
        let within = |at: Option<Instant>, age| at.is_some_and(|at: Instant| at.elapsed() < age);
        if within(asked.came, age) || within(asked.at, LOOK_AGAIN) {
            return;
        }
        let began = Instant::now();
        let fetched = self.fetch().await;
        // From its end on: whoever waited for a silent issuer goes on with all the others, and asks it not once more.
        asked.at = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                self.keys.store(keys.into());
                asked.came = Some(began);
            }
            Err(error) => tracing::warn!(issuer = %self.name, error, "the issuer's keys cannot be had"),
        }
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let text = match &self.source {
            Source::File(path) => tokio::fs::read(path).await.map_err(|error| error.to_string())?,
            Source::Url(url) => {
                let response = self.http.get(url.clone()).send().await.and_then(reqwest::Response::error_for_status);
                let mut response = response.map_err(|error| error.without_url().to_string())?;
                let mut text = Vec::new();
                while let Some(piece) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
                    text.extend_from_slice(&piece);
                    if text.len() > MAX_JWKS {
                        return Err("too large".into());
                    }
                }
                text
            }
        };
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(&text).map_err(|_| "not a key set".to_owned())?;
        // A key of a kind that is not known here must not spoil the others.
        Ok(set.keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok()).collect())
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"))
}

/// The key that a token names; where it names none, the only one of its algorithm.
fn find(keys: &[Jwk], header: &Header) -> Option<Jwk> {
    match &header.kid {
        Some(kid) => keys.iter().find(|key| key.common.key_id.as_ref() == Some(kid)).cloned(),
        None => {
            let mut fitting = keys.iter().filter(|key| fits(key, header.alg));
            let only = fitting.next()?;
            fitting.next().is_none().then(|| only.clone())
        }
    }
}

/// Whether a key is meant for signatures of this algorithm: by its kind, never by what the token says alone.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), Algorithm::RS256) => KeyAlgorithm::RS256,
        (AlgorithmParameters::EllipticCurve(ec), Algorithm::ES256) if ec.curve == EllipticCurve::P256 => {
            KeyAlgorithm::ES256
        }
        (AlgorithmParameters::OctetKeyPair(okp), Algorithm::EdDSA) if okp.curve == EllipticCurve::Ed25519 => {
            KeyAlgorithm::EdDSA
        }
        _ => return false,
    };
    let signs = key.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    signs && key.common.key_algorithm.is_none_or(|own| own == kind)
}

/// The highest role that a token gives: the text `lumbung_role`, or one of the list `roles`.
fn role(claims: &Claims) -> Option<Role> {
    let named = claims.lumbung_role.iter().chain(claims.roles.iter().flat_map(|roles| roles.as_array()).flatten());
    named.filter_map(Value::as_str).filter_map(|name| name.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_a_channel_that_nobody_can_change() {
        assert!(Issuer::new("https://id.example/jwks", "i", "a").is_ok());
        assert!(Issuer::new("http://127.0.0.1:9/jwks", "i", "a").is_ok());
        assert!(matches!(Issuer::new("http://id.example/jwks", "i", "a"), Err(IssuerError::Insecure)));
        assert!(Issuer::new("/etc/lumbung/jwks.json", "i", "a").is_ok());
    }

    #[test]
    fn the_highest_known_role_counts() {
        let claims = |value: Value| serde_json::from_value::<Claims>(value).expect("claims");
        use serde_json::json;
        assert_eq!(role(&claims(json!({"sub": "x", "lumbung_role": "billing"}))), Some(Role::Billing));
        assert_eq!(role(&claims(json!({"sub": "x", "roles": ["dev", "read-only", "admin"]}))), Some(Role::Admin));
        assert_eq!(role(&claims(json!({"sub": "x", "roles": "admin", "lumbung_role": 7}))), None);
    }
}
