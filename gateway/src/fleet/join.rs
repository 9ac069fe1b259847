//! Joining: a challenge that costs the gateway nothing to hand out, and the signed answer to it.
//!
//! Any gateway of the network takes the answer to any other's challenge: a proxy in front sends each request where it likes.

use lumbung_openapi::jws::{self, JwsError};
use lumbung_openapi::provider::{Challenge, ChallengeAnswer};
use serde::{Deserialize, Serialize};

use crate::domain::ids::ProviderId;
use crate::store::{SigningKeys, Store};

/// How long a challenge may be answered, in seconds.
const CHALLENGE_SECS: u64 = 30;
const CHALLENGE_TYP: &str = "lumbung-challenge";

/// Why a join is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The signature, or what it signs, is not in order.
    #[error("the join is not signed properly: {0}")]
    Signature(#[from] JwsError),
    /// Signed for another gateway.
    #[error("the join is signed for another gateway than this one")]
    OtherGateway,
    /// Not a challenge of this network's.
    #[error("the challenge is not one of this gateway's")]
    UnknownChallenge,
    /// Too old.
    #[error("the challenge has expired: ask for another")]
    Expired,
    /// Answered before.
    #[error("the challenge has been answered already: ask for another")]
    Replayed,
    /// The books, where answered challenges are noted, cannot be reached.
    #[error("this gateway cannot reach its books")]
    BooksUnavailable,
}

#[derive(Serialize, Deserialize)]
struct ChallengeClaims {
    nonce: String,
    exp: u64,
}

/// An answer that is signed properly, for this network and in time.
struct Signed<C> {
    provider: ProviderId,
    answer: C,
    challenge: ChallengeClaims,
}

/// Hands out challenges and accepts each answer once.
pub struct Doorman {
    keys: SigningKeys,
    store: Store,
    /// The origins under which providers reach this gateway.
    origins: Vec<String>,
}

impl Doorman {
    /// For a gateway that is reached under these origins (`https://api.example`). The network's keys sign challenges, and
    /// the books know which were answered.
    pub fn new(keys: SigningKeys, store: Store, origins: Vec<String>) -> Self {
        Self { keys, store, origins }
    }

    /// Who an answer says it is from. Nothing is verified yet.
    pub fn claimed(token: &str) -> Result<ProviderId, JoinError> {
        Ok(ProviderId::from(jws::embedded_key(token)?))
    }

    /// A fresh challenge; nothing is kept of it.
    pub fn challenge(&self, now_secs: u64) -> Challenge {
        challenge(&self.keys, now_secs)
    }

    /// Who signed this answer to a challenge, and what it says, if it is in order: signed for this gateway and for this
    /// purpose, and not answered before.
    pub async fn admit<C: ChallengeAnswer>(&self, token: &str, now_secs: u64) -> Result<(ProviderId, C), JoinError> {
        let Signed { provider, answer, challenge } = verify::<C>(&self.keys, &self.origins, token, now_secs)?;
        match self.store.answer_challenge(&challenge.nonce, challenge.exp).await {
            Ok(true) => Ok((provider, answer)),
            Ok(false) => Err(JoinError::Replayed),
            Err(error) => {
                tracing::error!(%error, "an answered challenge could not be noted");
                Err(JoinError::BooksUnavailable)
            }
        }
    }
}

fn challenge(keys: &SigningKeys, now_secs: u64) -> Challenge {
    let expires_at = now_secs + CHALLENGE_SECS;
    let claims = ChallengeClaims { nonce: ulid::Ulid::generate().to_string(), exp: expires_at };
    Challenge { challenge: keys.sign(CHALLENGE_TYP, &claims), expires_at }
}

fn verify<C: ChallengeAnswer>(
    keys: &SigningKeys,
    origins: &[String],
    token: &str,
    now_secs: u64,
) -> Result<Signed<C>, JoinError> {
    let key = jws::embedded_key(token)?;
    let answer: C = key.verify(C::TYP, token)?;
    if !origins.iter().any(|origin| origin == answer.aud()) {
        return Err(JoinError::OtherGateway);
    }
    let challenge: ChallengeClaims =
        keys.verify(CHALLENGE_TYP, answer.challenge()).ok_or(JoinError::UnknownChallenge)?;
    if challenge.exp < now_secs {
        return Err(JoinError::Expired);
    }
    Ok(Signed { provider: ProviderId::from(key), answer, challenge })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lumbung_openapi::earnings::{PayoutDetailsClaims, StatementClaims};
    use lumbung_openapi::jws::{HmacKey, SigningKey};
    use lumbung_openapi::provider::{JOIN_TYP, JoinClaims};

    const HERE: &str = "https://here.example";

    fn network(seed: u8) -> SigningKeys {
        let hmac = (format!("hmac-{seed}"), HmacKey::from_secret(&[seed; 32]));
        let ed25519 = (format!("ed25519-{seed}"), SigningKey::from_seed(&[seed; 32]));
        SigningKeys::of(vec![hmac], vec![ed25519]).expect("one of each")
    }

    fn join(key: &SigningKey, aud: &str, challenge: String) -> String {
        key.sign_with_jwk(JOIN_TYP, &JoinClaims { aud: aud.into(), challenge, agent: "test/1".into() })
    }

    fn admit<C: ChallengeAnswer>(keys: &SigningKeys, token: &str, now_secs: u64) -> Result<ProviderId, JoinError> {
        verify::<C>(keys, &[HERE.into()], token, now_secs).map(|signed| signed.provider)
    }

    #[test]
    fn what_was_signed_for_one_purpose_is_good_for_no_other() {
        let (keys, key) = (network(7), SigningKey::from_seed(&[1; 32]));
        let challenge = || challenge(&keys, 1000).challenge;
        let statement = StatementClaims { aud: HERE.into(), challenge: challenge() };
        let statement = key.sign_with_jwk(StatementClaims::TYP, &statement);
        assert!(matches!(admit::<JoinClaims>(&keys, &statement, 1001), Err(JoinError::Signature(_))));
        assert!(admit::<StatementClaims>(&keys, &statement, 1001).is_ok());
        // These hold every member that a statement's claims have: only their type is another.
        let details = PayoutDetailsClaims { aud: HERE.into(), challenge: challenge(), details: "DE02".into() };
        for other in [join(&key, HERE, challenge()), key.sign_with_jwk(PayoutDetailsClaims::TYP, &details)] {
            let refused = admit::<StatementClaims>(&keys, &other, 1001).err();
            assert_eq!(refused, Some(JoinError::Signature(JwsError::WrongType)));
        }
    }

    #[test]
    fn a_join_is_good_here_and_in_time() {
        let (keys, other, key) = (network(7), network(8), SigningKey::from_seed(&[1; 32]));
        let admit = |token: &str, now_secs| admit::<JoinClaims>(&keys, token, now_secs);
        let token = join(&key, HERE, challenge(&keys, 1000).challenge);
        assert_eq!(admit(&token, 1001).map(|id| id.to_string()), Ok(key.public().thumbprint()));

        let elsewhere = join(&key, "https://there.example", challenge(&keys, 1000).challenge);
        assert_eq!(admit(&elsewhere, 1001), Err(JoinError::OtherGateway));
        let foreign = join(&key, HERE, challenge(&other, 1000).challenge);
        assert_eq!(admit(&foreign, 1001), Err(JoinError::UnknownChallenge));
        let late = join(&key, HERE, challenge(&keys, 1000).challenge);
        assert_eq!(admit(&late, 1000 + CHALLENGE_SECS + 1), Err(JoinError::Expired));
        let unsigned = token.rsplit_once('.').expect("a JWS has dots").0.to_owned() + ".";
        assert!(matches!(admit(&unsigned, 1001), Err(JoinError::Signature(_))));
    }
}
