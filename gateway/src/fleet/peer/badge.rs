//! By what gateways know each other: signed words under the network's own keys, which all of them read from the books.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::domain::ids::ReplicaId;
use crate::store::{SigningKeys, Store};

const HELLO_TYP: &str = "lumbung-peer-hello";
const WELCOME_TYP: &str = "lumbung-peer-welcome";
/// How far the clocks of two gateways may be apart, and how long a hello may be under way, in seconds.
const FRESH_SECS: u64 = 60;

/// What whoever dials says.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    from: ReplicaId,
    to: ReplicaId,
    nonce: String,
    /// Unix seconds.
    at: u64,
}

/// What whoever was dialled answers, to that hello only.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome {
    from: ReplicaId,
    to: ReplicaId,
    nonce: String,
}

/// Why a handshake is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadgeError {
    /// Not by the network's keys.
    #[error("not signed by a gateway of this network")]
    Signature,
    /// Meant for another replica, or from another than was dialled.
    #[error("meant for another gateway")]
    OtherGateway,
    /// Said too long ago, or by a clock that is off.
    #[error("not fresh: are the clocks right?")]
    Stale,
    /// Said before.
    #[error("said before")]
    Replayed,
}

/// A hello that waits for its welcome.
pub(super) struct Greeting {
    /// As it travels.
    pub(super) text: String,
    to: ReplicaId,
    nonce: String,
}

/// This gateway's proof of what it is.
pub struct Badge {
    replica: ReplicaId,
    store: Store,
    keys: SigningKeys,
    /// Accepted hellos by nonce, until they are stale: Unix seconds.
    heard: Mutex<HashMap<String, u64>>,
}

impl Badge {
    /// For `replica`, whose network has these keys.
    pub fn new(replica: ReplicaId, store: Store, keys: SigningKeys) -> Self {
        Self { replica, store, keys, heard: Mutex::default() }
    }

    /// A hello to the gateway `to`.
    pub(super) fn greet(&self, to: ReplicaId, now_secs: u64) -> Greeting {
        let nonce = ulid::Ulid::generate().to_string();
        let hello = Hello { from: self.replica, to, nonce: nonce.clone(), at: now_secs };
        Greeting { text: self.sign(HELLO_TYP, &hello), to, nonce }
    }

    /// Who says hello, and the welcome to answer with.
    pub(super) async fn welcome(&self, text: &str, now_secs: u64) -> Result<(ReplicaId, String), BadgeError> {
        let hello: Hello = self.verify(HELLO_TYP, text).await?;
        if hello.to != self.replica {
            return Err(BadgeError::OtherGateway);
        }
        if hello.at.abs_diff(now_secs) > FRESH_SECS {
            return Err(BadgeError::Stale);
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, at| at.abs_diff(now_secs) <= FRESH_SECS);
        if heard.insert(hello.nonce.clone(), hello.at).is_some() {
            return Err(BadgeError::Replayed);
        }
        drop(heard);
        let welcome = Welcome { from: self.replica, to: hello.from, nonce: hello.nonce };
        Ok((hello.from, self.sign(WELCOME_TYP, &welcome)))
    }

    /// Whether the gateway that was greeted is who it should be.
    pub(super) async fn is_welcome(&self, greeting: &Greeting, text: &str) -> Result<(), BadgeError> {
        let welcome: Welcome = self.verify(WELCOME_TYP, text).await?;
        let is_theirs = welcome.from == greeting.to && welcome.to == self.replica && welcome.nonce == greeting.nonce;
        if is_theirs { Ok(()) } else { Err(BadgeError::OtherGateway) }
    }

    fn sign<T: Serialize>(&self, typ: &str, claims: &T) -> String {
        self.keys.sign(typ, claims)
    }

    /// The claims, if the network's keys signed them. A gateway that was started after new keys were made signs with those:
    /// then the books are read again.
    async fn verify<T: serde::de::DeserializeOwned>(&self, typ: &str, text: &str) -> Result<T, BadgeError> {
        if let Some(claims) = self.keys.verify(typ, text) {
            return Ok(claims);
        }
        if let Err(error) = self.keys.read_again(&self.store).await {
            warn!(%error, "the network's keys cannot be read");
        }
        self.keys.verify(typ, text).ok_or(BadgeError::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    async fn badge(folder: &std::path::Path, keys: Option<&SigningKeys>) -> Badge {
        let store = Store::open(&format!("sqlite:{}", folder.join("books.db").display())).await.expect("books");
        let keys = match keys {
            Some(keys) => keys.clone(),
            None => store.signing_keys().await.expect("keys"),
        };
        Badge::new(ReplicaId::fresh(), store, keys)
    }

    /// Gateways of the release before say it so, and read it so.
    #[test]
    fn hello_and_welcome_are_those_of_the_release_before() {
        let (from, to) = ("rep_01K00000000000000000000000", "rep_01K00000000000000000000001");
        let welcome = format!(r#"{{"from":"{from}","to":"{to}","nonce":"n"}}"#);
        let hello = welcome.replace("\"n\"", "\"n\",\"at\":1800000000");
        let read: Hello = serde_json::from_str(&hello).expect("it is understood");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), hello);
        let read: Welcome = serde_json::from_str(&welcome).expect("it is understood");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), welcome);
    }

    #[tokio::test]
    async fn two_gateways_of_one_network_know_each_other_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (badge(folder.path(), None).await, badge(folder.path(), None).await);
        let greeting = one.greet(other.replica, NOW);
        let (from, welcome) = other.welcome(&greeting.text, NOW + 3).await.expect("welcome");
        assert_eq!(from, one.replica);
        assert_eq!(one.is_welcome(&greeting, &welcome).await, Ok(()));
        assert_eq!(other.welcome(&greeting.text, NOW + 4).await.err(), Some(BadgeError::Replayed));
        let later = one.greet(other.replica, NOW);
        let answer = one.is_welcome(&later, &welcome).await;
        assert_eq!(answer, Err(BadgeError::OtherGateway), "a welcome is an answer to one hello only");
    }

    #[tokio::test]
    async fn a_hello_is_good_for_one_gateway_and_for_a_minute() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (badge(folder.path(), None).await, badge(folder.path(), None).await);
        let elsewhere = one.greet(ReplicaId::fresh(), NOW);
        assert_eq!(other.welcome(&elsewhere.text, NOW).await.err(), Some(BadgeError::OtherGateway));
        for at in [NOW - FRESH_SECS - 1, NOW + FRESH_SECS + 1] {
            let greeting = one.greet(other.replica, at);
            assert_eq!(other.welcome(&greeting.text, NOW).await.err(), Some(BadgeError::Stale));
        }
        // Once it is forgotten that it was said, it is too old to be said again.
        let greeting = one.greet(other.replica, NOW);
        other.welcome(&greeting.text, NOW).await.expect("welcome");
        other
            .welcome(&one.greet(other.replica, NOW + 2 * FRESH_SECS).text, NOW + 2 * FRESH_SECS)
            .await
            .expect("welcome");
        assert_eq!(other.heard.lock().expect("a lock").len(), 1);
        assert_eq!(other.welcome(&greeting.text, NOW + 2 * FRESH_SECS).await.err(), Some(BadgeError::Stale));
    }

    #[tokio::test]
    async fn another_networks_gateway_is_a_stranger() {
        let (ours, theirs) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (one, stranger) = (badge(ours.path(), None).await, badge(theirs.path(), None).await);
        let greeting = stranger.greet(one.replica, NOW);
        assert_eq!(one.welcome(&greeting.text, NOW).await.err(), Some(BadgeError::Signature));
        let greeting = one.greet(stranger.replica, NOW);
        assert_eq!(one.is_welcome(&greeting, "eyJhbGciOiJub25lIn0.e30.").await, Err(BadgeError::Signature));
    }

    #[tokio::test]
    async fn keys_that_were_made_meanwhile_are_read_from_the_books() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = badge(folder.path(), None).await;
        let rotated = old.store.rotate_signing_keys().await.expect("new keys");
        let new = badge(folder.path(), Some(&rotated)).await;
        let greeting = new.greet(old.replica, NOW);
        assert!(old.welcome(&greeting.text, NOW).await.is_ok());
    }
}
