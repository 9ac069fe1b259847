//! Operators' tokens (JWT, RFC 7519): those that `admin token` makes, and what is common to all.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::Header;
use lumbung_openapi::jws::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::role::{Actor, Role};
use crate::store::SigningKeys;

/// `typ` of the tokens made here: nothing else that the same key signs has it.
pub const TYP: &str = "lumbung-admin+jwt";
/// Whom they are for.
const AUDIENCE: &str = "lumbung-admin";
/// Who they are from.
const ISSUER: &str = "lumbung-gateway";
/// How far clocks may differ, in seconds.
pub(super) const LEEWAY_SECS: u64 = 30;
/// Longer than any token that is taken, in bytes.
const MAX_TOKEN: usize = 8192;
/// The longest subject that is written into the audit log, in bytes.
const MAX_SUBJECT: usize = 256;

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No JWT, or without the claims that it must have.
    #[error("malformed token")]
    Malformed,
    /// From nobody that this gateway knows.
    #[error("unknown issuer")]
    UnknownIssuer,
    /// Signed by a key that its issuer does not publish.
    #[error("unknown key")]
    UnknownKey,
    /// An algorithm that is not taken, or not this key's.
    #[error("algorithm not accepted")]
    Algorithm,
    /// The signature does not verify.
    #[error("signature does not verify")]
    Signature,
    /// Meant for somebody else.
    #[error("another audience or issuer")]
    Audience,
    /// Expired, without an expiry, or not valid yet.
    #[error("expired, or not valid yet")]
    Time,
    /// Good, but it gives no role here.
    #[error("no role")]
    NoRole,
    /// The keys cannot be had at this moment.
    #[error("keys unavailable")]
    Unavailable,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    lumbung_role: Role,
    iat: u64,
    nbf: u64,
    exp: u64,
}

/// Makes a token that is good from `now` (Unix seconds) for `ttl_secs`.
pub fn mint(keys: &SigningKeys, subject: &str, role: Role, ttl_secs: u64, now: u64) -> String {
    let claims = Claims {
        iss: ISSUER.into(),
        aud: AUDIENCE.into(),
        sub: subject.into(),
        lumbung_role: role,
        iat: now,
        nbf: now,
        exp: now.saturating_add(ttl_secs),
    };
    keys.sign_publicly(TYP, &claims)
}

/// A token's header, unverified. Refuses one with `crit`: extensions that must be understood, of which there are none.
pub(super) fn read_header(token: &str) -> Result<Header, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let first = token.split('.').next().unwrap_or_default();
    let json = BASE64_URL_SAFE_NO_PAD.decode(first).map_err(|_| TokenError::Malformed)?;
    let members: Value = serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)?;
    if members.get("crit").is_some() {
        return Err(TokenError::Malformed);
    }
    // `alg: none` and names that nobody knows fail here.
    jsonwebtoken::decode_header(token).map_err(|_| TokenError::Algorithm)
}

pub(super) fn own_key(keys: &SigningKeys, kid: &str) -> Option<PublicKey> {
    let published = keys.published();
    published.keys.iter().find(|key| key.common.key_id.as_deref() == Some(kid)).and_then(PublicKey::from_jwk)
}

pub(super) fn verify_own(key: PublicKey, token: &str, now: u64) -> Result<Actor, TokenError> {
    use lumbung_openapi::jws::JwsError;
    let claims: Claims = key.verify(TYP, token).map_err(|error| match error {
        JwsError::BadSignature => TokenError::Signature,
        JwsError::WrongType | JwsError::Malformed => TokenError::Malformed,
    })?;
    if claims.aud != AUDIENCE || claims.iss != ISSUER {
        return Err(TokenError::Audience);
    }
    let expired = now >= claims.exp.saturating_add(LEEWAY_SECS);
    if expired || claims.nbf > now.saturating_add(LEEWAY_SECS) {
        return Err(TokenError::Time);
    }
    Ok(Actor { subject: subject(&claims.sub)?, issuer: claims.iss, role: claims.lumbung_role })
}

/// A subject that can stand in the audit log.
pub(super) fn subject(text: &str) -> Result<String, TokenError> {
    let fits = !text.is_empty() && text.len() <= MAX_SUBJECT && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err(TokenError::Malformed) }
}
