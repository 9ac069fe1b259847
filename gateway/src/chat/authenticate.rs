//! Who is asking: the bearer key's SHA-256, looked up in a bounded cache, behind it the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::BOOKS_PATIENCE;
use super::allowance::{Allowance, Allowances};
use super::clock;
use super::error::ApiError;
use super::limits::{Gauges, Scopes};
use crate::domain::ids::KeyId;
use crate::store::{CallerRecord, Store};

/// Keys remembered at a time.
const CACHED_KEYS: usize = 100_000;
/// A key is looked up again after this, whatever the epoch says.
const LIFETIME: Duration = Duration::from_secs(60);
/// Look-ups in the store at a time: guessed keys must not take it over.
const LOOKUPS: usize = 16;
/// Longer than any key.
const MAX_KEY: usize = 256;

/// Who is asking.
pub struct Caller {
    /// The key that was shown.
    pub key: KeyId,
    /// What its account may spend here.
    pub allowance: Arc<Allowance>,
    /// Its limits and its account's, and what has been used of them.
    pub scopes: Arc<Scopes>,
    /// Whether it manages keys, and may do nothing else.
    pub is_management: bool,
}

/// The keys that this replica knows.
pub struct Keyring {
    store: Store,
    allowances: Arc<Allowances>,
    gauges: Arc<Gauges>,
    cache: Cache<[u8; 32], Remembered>,
    /// The store's epoch as last seen: an entry of an older one is looked up again.
    epoch: AtomicI64,
    lookups: Semaphore,
}

#[derive(Clone)]
struct Remembered {
    caller: Option<Arc<Caller>>,
    epoch: i64,
    since: Instant,
}

impl Keyring {
    /// Knows no key yet.
    pub fn new(store: Store, allowances: Arc<Allowances>, gauges: Arc<Gauges>) -> Self {
        let (epoch, lookups) = (AtomicI64::new(0), Semaphore::new(LOOKUPS));
        Self { store, allowances, gauges, cache: Cache::new(CACHED_KEYS), epoch, lookups }
    }

    /// Something about keys changed in the store: what was remembered before is looked up again.
    pub fn set_epoch(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Who shows this key, if it may still be used.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        let caller = self.identify(headers).await?;
        let now_us = clock::unix_micros();
        for (whose, scope) in [("key", &caller.scopes.key), ("account", &caller.scopes.account)] {
            if scope.limits.has_expired(now_us) {
                return Err(ApiError::Expired(whose));
            }
        }
        Ok(caller)
    }

    /// Whether this key was good when it was last looked up, however long ago: no proof that it still is.
    pub fn remembers(&self, headers: &HeaderMap) -> bool {
        let hash = bearer(headers).map(|key| <[u8; 32]>::from(Sha256::digest(key)));
        hash.and_then(|hash| self.cache.get(&hash)).is_some_and(|known| known.caller.is_some())
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        let hash = bearer(headers).map(|key| <[u8; 32]>::from(Sha256::digest(key))).ok_or(ApiError::InvalidKey)?;
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(known) =
            self.cache.get(&hash).filter(|known| known.epoch == epoch && known.since.elapsed() < LIFETIME)
        {
            return known.caller.ok_or(ApiError::InvalidKey);
        }
        let looking = tokio::time::timeout(BOOKS_PATIENCE, self.look_up(&hash));
        let caller = looking.await.unwrap_or(Err(ApiError::BooksUnavailable))?;
        self.cache.insert(hash, Remembered { caller: caller.clone(), epoch, since: Instant::now() });
        caller.ok_or(ApiError::InvalidKey)
    }

    async fn look_up(&self, hash: &[u8; 32]) -> Result<Option<Arc<Caller>>, ApiError> {
        let _turn = self.lookups.acquire().await.map_err(|_| ApiError::Overloaded)?;
        let unavailable = |error| {
            tracing::error!(%error, "key look-up failed");
            ApiError::BooksUnavailable
        };
        let Some(CallerRecord { key, key_limits, account_limits }) =
            self.store.find_caller(hash).await.map_err(unavailable)?
        else {
            return Ok(None);
        };
        let scopes = self.gauges.scopes(key.account, key.id, account_limits, key_limits).await.map_err(unavailable)?;
        let (allowance, is_management) = (self.allowances.of(&key.account), key.management);
        Ok(Some(Arc::new(Caller { key: key.id, allowance, scopes, is_management })))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty() && key.len() <= MAX_KEY).then_some(key)
}
