//! Operators: whose token is good, and what it allows. What they do is in `store/operator`, how they ask for it in
//! `http/admin`. Also how their own systems are told what happens (`courier`).

pub mod courier;
pub mod issuer;
pub mod token;

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};

use crate::domain::role::Actor;
use crate::store::{SigningKeys, Store};
use issuer::Issuer;
use token::TokenError;

/// Acts at a time: operators must not take the books' connections from settlement.
const ACTS: usize = 4;

/// Whom this gateway takes for an operator.
pub struct Desk {
    store: Store,
    /// The network's own keys, for tokens made by `admin token`.
    own: SigningKeys,
    issuer: Option<Issuer>,
    /// Places for acts.
    pub acts: Arc<Semaphore>,
    /// Held while the books are checked.
    pub checking: Mutex<()>,
}

impl Desk {
    /// Takes tokens signed by the network's own keys, and by an outside issuer if there is one.
    pub fn new(store: Store, keys: SigningKeys, issuer: Option<Issuer>) -> Self {
        Self { store, own: keys, issuer, acts: Arc::new(Semaphore::new(ACTS)), checking: Mutex::default() }
    }

    /// Who shows this token at `now`, Unix seconds.
    pub async fn verify(&self, token: &str, now: u64) -> Result<Actor, TokenError> {
        let header = token::read_header(token)?;
        if header.typ.as_deref() != Some(token::TYP) {
            let issuer = self.issuer.as_ref().ok_or(TokenError::UnknownIssuer)?;
            return issuer.verify(token, &header).await;
        }
        let kid = header.kid.as_deref().ok_or(TokenError::UnknownKey)?;
        let key = match token::own_key(&self.own, kid) {
            Some(key) => key,
            // Another process may have rotated the keys.
            None => {
                self.own.read_again(&self.store).await.map_err(|error| {
                    tracing::error!(%error, "signing keys not read");
                    TokenError::Unavailable
                })?;
                token::own_key(&self.own, kid).ok_or(TokenError::UnknownKey)?
            }
        };
        token::verify_own(key, token, now)
    }
}
