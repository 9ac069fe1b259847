//! Joining: a challenge that costs the gateway nothing to hand out, and the signed answer to it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lumbung_openapi::jws::{self, HmacKey, JwsError};
use lumbung_openapi::provider::{Challenge, ChallengeAnswer};
use serde::{Deserialize, Serialize};

use crate::domain::ids::ProviderId;

/// How long a challenge may be answered, in seconds.
const CHALLENGE_SECS: u64 = 30;
/// Answered challenges remembered at a time; beyond it joins are refused until some expire.
const MAX_ANSWERED: usize = 100_000;
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
    /// Not a challenge of this gateway's.
    #[error("the challenge is not one of this gateway's")]
    UnknownChallenge,
    /// Too old.
    #[error("the challenge has expired: ask for another")]
    Expired,
    /// Answered before.
    #[error("the challenge has been answered already: ask for another")]
    Replayed,
    /// Too many joins at a time.
    #[error("too many providers are joining at this moment")]
    TooMany,
}

#[derive(Serialize, Deserialize)]
struct ChallengeClaims {
    nonce: String,
    exp: u64,
}

/// Hands out challenges and accepts each answer once.
pub struct Doorman {
    /// Fresh for each process: an answer is good only where the challenge came from.
    key: HmacKey,
    /// The origins under which providers reach this gateway.
    origins: Vec<String>,
    /// Nonces of answered challenges, until they expire.
    answered: Mutex<HashMap<String, u64>>,
}

impl Doorman {
    /// For a gateway that is reached under these origins (`https://api.example`).
    pub fn new(origins: Vec<String>) -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self { key: HmacKey::from_secret(&secret), origins, answered: Mutex::default() })
    }

    /// A fresh challenge; nothing is kept of it.
    pub fn challenge(&self, now_secs: u64) -> Challenge {
        let expires_at = now_secs + CHALLENGE_SECS;
        let claims = ChallengeClaims { nonce: ulid::Ulid::generate().to_string(), exp: expires_at };
        Challenge { challenge: self.key.sign(CHALLENGE_TYP, "0", &claims), expires_at }
    }

    /// Who signed this answer to a challenge, and what it says, if it is in order: signed for this gateway and for this
    /// purpose, and not answered before.
    pub fn admit<C: ChallengeAnswer>(&self, token: &str, now_secs: u64) -> Result<(ProviderId, C), JoinError> {
        let key = jws::embedded_key(token)?;
        let answer: C = key.verify(C::TYP, token)?;
        if !self.origins.iter().any(|origin| origin == answer.aud()) {
            return Err(JoinError::OtherGateway);
        }
        let challenge: ChallengeClaims =
            self.key.verify(CHALLENGE_TYP, answer.challenge()).map_err(|_| JoinError::UnknownChallenge)?;
        if challenge.exp < now_secs {
            return Err(JoinError::Expired);
        }
        self.mark_answered(challenge, now_secs)?;
        Ok((ProviderId::from(key), answer))
    }

    fn mark_answered(&self, challenge: ChallengeClaims, now_secs: u64) -> Result<(), JoinError> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.len() >= MAX_ANSWERED {
            answered.retain(|_, expires_at| *expires_at >= now_secs);
        }
        if answered.len() >= MAX_ANSWERED {
            return Err(JoinError::TooMany);
        }
        match answered.insert(challenge.nonce, challenge.exp) {
            None => Ok(()),
            Some(_) => Err(JoinError::Replayed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lumbung_openapi::earnings::{PayoutDetailsClaims, StatementClaims};
    use lumbung_openapi::jws::SigningKey;
    use lumbung_openapi::provider::{JOIN_TYP, JoinClaims};

    const HERE: &str = "https://here.example";

    fn join(key: &SigningKey, aud: &str, challenge: String) -> String {
        key.sign_with_jwk(JOIN_TYP, &JoinClaims { aud: aud.into(), challenge, agent: "test/1".into() })
    }

    fn admit(doorman: &Doorman, token: &str, now_secs: u64) -> Result<ProviderId, JoinError> {
        doorman.admit::<JoinClaims>(token, now_secs).map(|(provider, _)| provider)
    }

    #[test]
    fn what_was_signed_for_one_purpose_is_good_for_no_other() {
        let doorman = Doorman::new(vec![HERE.into()]).expect("entropy");
        let key = SigningKey::from_seed(&[1; 32]);
        let statement = StatementClaims { aud: HERE.into(), challenge: doorman.challenge(1000).challenge };
        let statement = key.sign_with_jwk(StatementClaims::TYP, &statement);
        assert!(matches!(admit(&doorman, &statement, 1001), Err(JoinError::Signature(_))));
        assert!(doorman.admit::<StatementClaims>(&statement, 1001).is_ok());
        assert_eq!(doorman.admit::<StatementClaims>(&statement, 1001).err(), Some(JoinError::Replayed));
        // These hold every member that a statement's claims have: only their type is another.
        let challenge = || doorman.challenge(1000).challenge;
        let details = PayoutDetailsClaims { aud: HERE.into(), challenge: challenge(), details: "DE02".into() };
        for other in [join(&key, HERE, challenge()), key.sign_with_jwk(PayoutDetailsClaims::TYP, &details)] {
            let refused = doorman.admit::<StatementClaims>(&other, 1001).err();
            assert_eq!(refused, Some(JoinError::Signature(JwsError::WrongType)));
        }
    }

    #[test]
    fn a_join_is_good_once_here_and_in_time() {
        let (doorman, other) =
            (Doorman::new(vec![HERE.into()]).expect("entropy"), Doorman::new(vec![HERE.into()]).expect("entropy"));
        let key = SigningKey::from_seed(&[1; 32]);
        let token = join(&key, HERE, doorman.challenge(1000).challenge);
        assert_eq!(admit(&doorman, &token, 1001).map(|id| id.to_string()), Ok(key.public().thumbprint()));
        assert_eq!(admit(&doorman, &token, 1002), Err(JoinError::Replayed));

        let elsewhere = join(&key, "https://there.example", doorman.challenge(1000).challenge);
        assert_eq!(admit(&doorman, &elsewhere, 1001), Err(JoinError::OtherGateway));
        let foreign = join(&key, HERE, other.challenge(1000).challenge);
        assert_eq!(admit(&doorman, &foreign, 1001), Err(JoinError::UnknownChallenge));
        let late = join(&key, HERE, doorman.challenge(1000).challenge);
        assert_eq!(admit(&doorman, &late, 1000 + CHALLENGE_SECS + 1), Err(JoinError::Expired));
        let unsigned = token.rsplit_once('.').expect("a JWS has dots").0.to_owned() + ".";
        assert!(matches!(admit(&doorman, &unsigned, 1001), Err(JoinError::Signature(_))));
    }
}
