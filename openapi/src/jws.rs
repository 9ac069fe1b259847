//! Signed texts: compact JWS (RFC 7515) with EdDSA over Ed25519 (RFC 8037), or HMAC-SHA256 for tickets.
//! `typ` says what a signature is for, so that none can be passed off as another kind.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, OctetKeyPairParameters, OctetKeyPairType, ThumbprintHash,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;

/// Why a signed text is not accepted. Says nothing that helps to forge one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Not a compact JWS, or its claims are not of the expected shape.
    #[error("malformed signed text")]
    Malformed,
    /// Signed for another purpose.
    #[error("signed text of another kind")]
    WrongType,
    /// Signed by another key, or changed since.
    #[error("signature does not verify")]
    BadSignature,
}

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From the raw 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// From a JWK; `None` unless it is an Ed25519 key of exactly 32 bytes.
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters { curve: EllipticCurve::Ed25519, x, .. }) =
            &jwk.algorithm
        else {
            return None;
        };
        BASE64_URL_SAFE_NO_PAD.decode(x).ok()?.try_into().ok().map(Self)
    }

    /// As a JWK (RFC 8037).
    pub fn to_jwk(self, key_id: Option<String>) -> Jwk {
        Jwk {
            common: CommonParameters { key_id, ..Default::default() },
            algorithm: AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
                key_type: OctetKeyPairType::OctetKeyPair,
                curve: EllipticCurve::Ed25519,
                x: BASE64_URL_SAFE_NO_PAD.encode(self.0),
            }),
        }
    }

    /// The key's RFC 7638 thumbprint (SHA-256, base64url): a provider's id.
    pub fn thumbprint(self) -> String {
        self.to_jwk(None).thumbprint(ThumbprintHash::SHA256).expect("an Ed25519 JWK has a thumbprint")
    }

    /// The claims of `token`, if this key signed it for `typ`.
    pub fn verify<T: DeserializeOwned>(self, typ: &str, token: &str) -> Result<T, JwsError> {
        decode(typ, token, Algorithm::EdDSA, &DecodingKey::from_ed_der(&self.0))
    }
}

/// An Ed25519 private key.
pub struct SigningKey {
    encoding: EncodingKey,
    public: PublicKey,
}

impl SigningKey {
    /// From its 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        // PKCS #8 (RFC 8410 section 7) wraps an Ed25519 seed in a constant prefix.
        const PKCS8_PREFIX: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        let der = [PKCS8_PREFIX.as_slice(), seed].concat();
        let public = ed25519_dalek::SigningKey::from_bytes(seed).verifying_key().to_bytes();
        Self { encoding: EncodingKey::from_ed_der(&der), public: PublicKey(public) }
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs claims, the public key itself in the header: for a signer that is known by its thumbprint.
    pub fn sign_with_jwk<T: Serialize>(&self, typ: &str, claims: &T) -> String {
        self.sign(Header { jwk: Some(self.public.to_jwk(None)), ..header(typ, Algorithm::EdDSA) }, claims)
    }

    /// Signs claims, naming the key by id: for a signer whose keys are published as a JWK set.
    pub fn sign_with_kid<T: Serialize>(&self, typ: &str, key_id: &str, claims: &T) -> String {
        self.sign(Header { kid: Some(key_id.into()), ..header(typ, Algorithm::EdDSA) }, claims)
    }

    fn sign<T: Serialize>(&self, header: Header, claims: &T) -> String {
        jsonwebtoken::encode(&header, claims, &self.encoding)
            .expect("claims of our own types serialize, and the key is Ed25519")
    }
}

/// The public key in a signed text's header. Nothing is verified yet: that is [`PublicKey::verify`]'s part.
pub fn embedded_key(token: &str) -> Result<PublicKey, JwsError> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| JwsError::Malformed)?;
    header.jwk.as_ref().and_then(PublicKey::from_jwk).ok_or(JwsError::Malformed)
}

/// The key id in a signed text's header, unverified.
pub fn key_id(token: &str) -> Result<String, JwsError> {
    let parts = Parts::of(token)?;
    let header = decoded(parts.header)?;
    let header: TextHeader<'_> = serde_json::from_slice(&header).map_err(|_| JwsError::Malformed)?;
    header.kid.map(Cow::into_owned).ok_or(JwsError::Malformed)
}

/// The claims of a signed text, *unverified*: for whoever cannot verify (a provider reading its own ticket).
pub fn peek<T: DeserializeOwned>(token: &str) -> Result<T, JwsError> {
    jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| JwsError::Malformed)
}

/// A secret for HMAC-SHA256, kept by gateways that share a database. Every job has a few texts signed with it, and verified
/// when they come back: so the hash is keyed once, and nothing is read that tickets do not have.
pub struct HmacKey(Hmac<Sha256>);

/// What is used of a JWS header.
#[derive(Serialize, Deserialize)]
struct TextHeader<'a> {
    #[serde(borrow, default)]
    typ: Option<Cow<'a, str>>,
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
}

/// A compact JWS, still encoded.
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    /// What is signed: header and claims.
    message: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, JwsError> {
        let (message, signature) = token.rsplit_once('.').ok_or(JwsError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwsError::Malformed)?;
        Ok(Self { header, claims, message, signature })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, JwsError> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Malformed)
}

impl HmacKey {
    const ALGORITHM: &str = "HS256";

    /// From secret bytes (32 or more).
    pub fn from_secret(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    /// Signs claims, naming the key by id.
    pub fn sign<T: Serialize>(&self, typ: &str, key_id: &str, claims: &T) -> String {
        let header = TextHeader { typ: Some(typ.into()), alg: Self::ALGORITHM.into(), kid: Some(key_id.into()) };
        let header = serde_json::to_vec(&header).expect("text serializes");
        let claims = serde_json::to_vec(claims).expect("claims of our own types serialize");
        let mut text = String::with_capacity((header.len() + claims.len() + 40) * 4 / 3);
        BASE64_URL_SAFE_NO_PAD.encode_string(header, &mut text);
        text.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut text);
        let mac = self.0.clone().chain_update(text.as_bytes()).finalize().into_bytes();
        text.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(mac, &mut text);
        text
    }

    /// The claims of `token`, if this secret signed it for `typ`.
    pub fn verify<T: DeserializeOwned>(&self, typ: &str, token: &str) -> Result<T, JwsError> {
        let parts = Parts::of(token)?;
        let header = decoded(parts.header)?;
        let header: TextHeader<'_> = serde_json::from_slice(&header).map_err(|_| JwsError::Malformed)?;
        let signed = self.0.clone().chain_update(parts.message.as_bytes());
        let is_ours = header.alg == Self::ALGORITHM && signed.verify_slice(&decoded(parts.signature)?).is_ok();
        if !is_ours {
            return Err(JwsError::BadSignature);
        }
        if header.typ.as_deref() != Some(typ) {
            return Err(JwsError::WrongType);
        }
        serde_json::from_slice(&decoded(parts.claims)?).map_err(|_| JwsError::Malformed)
    }
}

fn header(typ: &str, algorithm: Algorithm) -> Header {
    Header { typ: Some(typ.into()), ..Header::new(algorithm) }
}

fn decode<T: DeserializeOwned>(typ: &str, token: &str, algorithm: Algorithm, key: &DecodingKey) -> Result<T, JwsError> {
    // Times and audiences are checked by whoever knows what they mean; here only who signed, and what for.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let data = jsonwebtoken::decode::<T>(token, key, &validation).map_err(|error| match error.kind() {
        jsonwebtoken::errors::ErrorKind::InvalidSignature | jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => {
            JwsError::BadSignature
        }
        _ => JwsError::Malformed,
    })?;
    match data.header.typ.as_deref() == Some(typ) {
        true => Ok(data.claims),
        false => Err(JwsError::WrongType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Claims = std::collections::BTreeMap<String, u32>;

    fn claims() -> Claims {
        [("claim".to_owned(), 1)].into()
    }

    #[test]
    fn thumbprint_is_that_of_rfc_8037() {
        // RFC 8037 appendix A.3.
        let x = BASE64_URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").expect("base64url");
        let key = PublicKey::from_bytes(x.try_into().expect("32 bytes"));
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_signature_holds_for_its_key_its_purpose_and_its_bytes_only() {
        let (key, other) = (SigningKey::from_seed(&[7; 32]), SigningKey::from_seed(&[8; 32]));
        let token = key.sign_with_jwk("a", &claims());
        assert_eq!(embedded_key(&token), Ok(key.public()));
        assert_eq!(key.public().verify::<Claims>("a", &token), Ok(claims()));
        assert_eq!(key.public().verify::<Claims>("b", &token), Err(JwsError::WrongType));
        assert_eq!(other.public().verify::<Claims>("a", &token), Err(JwsError::BadSignature));
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8_lossy(&bytes);
            assert!(key.public().verify::<Claims>("a", &changed).is_err(), "bit changed at {at}");
        }
    }

    #[test]
    fn a_ticket_key_refuses_what_it_did_not_sign() {
        let (key, other) = (HmacKey::from_secret(&[1; 32]), HmacKey::from_secret(&[2; 32]));
        let token = key.sign("t", "k1", &claims());
        assert_eq!(key_id(&token).as_deref(), Ok("k1"));
        assert_eq!(key.verify::<Claims>("t", &token), Ok(claims()));
        assert_eq!(other.verify::<Claims>("t", &token), Err(JwsError::BadSignature));
        let by_ed25519 = SigningKey::from_seed(&[1; 32]).sign_with_kid("t", "k1", &claims());
        assert!(key.verify::<Claims>("t", &by_ed25519).is_err());
        for malformed in ["", ".", "..", "a.b", &token.replace('.', ""), &format!("{token}."), &format!(".{token}")] {
            assert!(key.verify::<Claims>("t", malformed).is_err() && malformed != token, "{malformed}");
        }
    }

    #[test]
    fn tickets_are_texts_that_any_library_reads() {
        let secret = [1; 32];
        let ours = HmacKey::from_secret(&secret).sign("t", "k1", &claims());
        let read: Claims = decode("t", &ours, Algorithm::HS256, &DecodingKey::from_secret(&secret)).expect("ours");
        assert_eq!(read, claims());
        let header = Header { kid: Some("k1".into()), ..header("t", Algorithm::HS256) };
        let theirs = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).expect("a text");
        assert_eq!(theirs, ours, "and writes in the same way");
    }
}
