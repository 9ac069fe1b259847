//! Operators: whose token is good, and what it allows. What they do is in `store/operator`, how they ask for it in
//! `http/admin`. Also how their own systems are told what happens (`courier`).

pub mod courier;
pub mod issuer;
pub mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Semaphore};

use crate::domain::role::Actor;
use crate::store::{SigningKeys, Store};
use issuer::Issuer;
use token::TokenError;

/// Acts at a time: operators must not take the books' connections from settlement.
const ACTS: usize = 4;
/// An unknown key makes this gateway look for new ones, but not more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Whom this gateway takes for an operator.
pub struct Desk {
    store: Store,
    /// The network's own keys, for tokens made by `admin token`.
    own: ArcSwap<SigningKeys>,
    own_looked_at: Mutex<Option<Instant>>,
    issuer: Option<Issuer>,
    /// Places for acts.
    pub acts: Arc<Semaphore>,
    /// Held while the books are checked.
    pub checking: Mutex<()>,
}

impl Desk {
    /// Takes tokens signed by the network's own keys, and by an outside issuer if there is one.
    pub fn new(store: Store, keys: SigningKeys, issuer: Option<Issuer>) -> Self {
        let own = ArcSwap::from_pointee(keys);
        Self {
            store,
            own,
            own_looked_at: Mutex::default(),
            issuer,
            acts: Arc::new(Semaphore::new(ACTS)),
            checking: Mutex::default(),
        }
    }

    /// Who shows this token at `now`, Unix seconds.
    pub async fn verify(&self, token: &str, now: u64) -> Result<Actor, TokenError> {
        let header = token::read_header(token)?;
        if header.typ.as_deref() != Some(token::TYP) {
            let issuer = self.issuer.as_ref().ok_or(TokenError::UnknownIssuer)?;
            return issuer.verify(token, &header).await;
        }
        let kid = header.kid.as_deref().ok_or(TokenError::UnknownKey)?;
        let key = match token::own_key(&self.own.load(), kid) {
            Some(key) => key,
            None => {
                self.look_again().await?;
                token::own_key(&self.own.load(), kid).ok_or(TokenError::UnknownKey)?
            }
        };
        token::verify_own(key, token, now)
    }

    /// Another process may have rotated the keys.
    async fn look_again(&self) -> Result<(), TokenError> {
        let mut looked_at = self.own_looked_at.lock().await;
        if looked_at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) {
            let keys = self.store.signing_keys().await.map_err(|error| {
                tracing::error!(%error, "signing keys not read");
                TokenError::Unavailable
            })?;
            self.own.store(Arc::new(keys));
            *looked_at = Some(Instant::now());
        }
        Ok(())
    }
}
