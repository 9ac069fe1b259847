//! Ids that people can tell apart: a prefix and a ULID (`acct_01J…`), and a provider's key thumbprint.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ulid::Ulid;

/// Why a text is no id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {0}")]
pub struct ParseIdError(&'static str);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// One that no one has seen before; later ones sort after earlier ones, to the millisecond.
            pub fn fresh() -> Self {
                Self(Ulid::generate())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| Ulid::from_string(rest).ok())
                    .map(Self)
                    // One spelling each: the text is a primary key.
                    .filter(|id| id.to_string() == text)
                    .ok_or(ParseIdError(concat!($prefix, "_…")))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// A customer's account.
    AccountId, "acct");
id!(
    /// An API key's id; never the key itself.
    KeyId, "key");
id!(
    /// One client request, however many attempts it takes.
    JobId, "job");
id!(
    /// What an account has set aside for one replica to spend: a ledger account.
    AllowanceId, "alw");
id!(
    /// One run of a gateway process.
    ReplicaId, "rep");
id!(
    /// One posting in the ledger.
    PostingId, "pst");
id!(
    /// One line of the audit log.
    AuditId, "aud");
id!(
    /// Some leaves under one signed Merkle root.
    BatchId, "bat");
id!(
    /// Earnings taken back from a provider.
    ClawbackId, "clw");
id!(
    /// What the operator decided about shares that promotional credit paid for.
    DecisionId, "dec");
id!(
    /// Payouts made together.
    PayoutRunId, "run");
id!(
    /// One provider's payout in a run.
    PayoutId, "pay");
id!(
    /// Where the operator's systems are told what happens.
    WebhookId, "whk");
id!(
    /// Something that they are told.
    EventId, "evt");

impl JobId {
    /// A number that nobody can foresee and that is the same for the same job.
    pub fn entropy(&self) -> u64 {
        self.0.0 as u64
    }
}

/// A provider: the RFC 7638 thumbprint of its Ed25519 key (SHA-256, base64url, 43 characters).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ProviderId(String);

impl ProviderId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProviderId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match text.parse::<lumbung_openapi::merkle::Hash>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(ParseIdError("an Ed25519 key's thumbprint")),
        }
    }
}

impl From<lumbung_openapi::jws::PublicKey> for ProviderId {
    fn from(key: lumbung_openapi::jws::PublicKey) -> Self {
        Self(key.thumbprint())
    }
}

impl<'de> Deserialize<'de> for ProviderId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A model of the catalogue, as clients name it: 1 to 128 visible ASCII characters (`qwen/qwen3-0.6b`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ModelId(String);

impl ModelId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModelId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseIdError("1 to 128 visible ASCII characters")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_and_from_no_other() {
        let id = AccountId::fresh();
        let text = id.to_string();
        assert!(text.starts_with("acct_"));
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(serde_json::from_str::<AccountId>(&format!("\"{text}\"")).ok(), Some(id));
        assert!(text.parse::<KeyId>().is_err(), "another kind's prefix");
        assert!(text.to_lowercase().parse::<AccountId>().is_err(), "another spelling of the same id");
        for wrong in ["", "acct_", "acct_01J", "acct_01J!", &text[5..]] {
            assert!(wrong.parse::<AccountId>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_provider_is_a_thumbprint() {
        let key = lumbung_openapi::jws::SigningKey::from_seed(&[1; 32]).public();
        let id = ProviderId::from(key);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("me".parse::<ProviderId>().is_err());
        assert!(format!("{id}A").parse::<ProviderId>().is_err());
    }

    #[test]
    fn a_model_id_can_stand_in_a_url_and_a_log() {
        assert_eq!("qwen/qwen3-0.6b".parse::<ModelId>().map(|id| id.to_string()).as_deref(), Ok("qwen/qwen3-0.6b"));
        for wrong in ["", "a b", "a\n", "é", &"a".repeat(129)] {
            assert!(wrong.parse::<ModelId>().is_err(), "{wrong:?}");
        }
    }
}
