//! Who is asking: the bearer key's SHA-256, looked up in a bounded cache, behind it the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::allowance::{Allowance, Allowances};
use super::error::ApiError;
use crate::domain::ids::KeyId;
use crate::store::Store;

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
}

/// The keys that this replica knows.
pub struct Keyring {
    store: Store,
    allowances: Arc<Allowances>,
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
    pub fn new(store: Store, allowances: Arc<Allowances>) -> Self {
        let (epoch, lookups) = (AtomicI64::new(0), Semaphore::new(LOOKUPS));
        Self { store, allowances, cache: Cache::new(CACHED_KEYS), epoch, lookups }
    }

    /// Something about keys changed in the store: what was remembered before is looked up again.
    pub fn set_epoch(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Who shows this key.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        let hash = bearer(headers).map(|key| <[u8; 32]>::from(Sha256::digest(key))).ok_or(ApiError::InvalidKey)?;
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(known) =
            self.cache.get(&hash).filter(|known| known.epoch == epoch && known.since.elapsed() < LIFETIME)
        {
            return known.caller.ok_or(ApiError::InvalidKey);
        }
        let caller = self.look_up(&hash).await?;
        self.cache.insert(hash, Remembered { caller: caller.clone(), epoch, since: Instant::now() });
        caller.ok_or(ApiError::InvalidKey)
    }

    async fn look_up(&self, hash: &[u8; 32]) -> Result<Option<Arc<Caller>>, ApiError> {
        let _turn = self.lookups.acquire().await.map_err(|_| ApiError::Overloaded)?;
        let record = self.store.find_key(hash).await.map_err(|error| {
            tracing::error!(%error, "key look-up failed");
            ApiError::BooksUnavailable
        })?;
        Ok(record.map(|key| Arc::new(Caller { allowance: self.allowances.of(&key.account), key: key.id })))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty() && key.len() <= MAX_KEY).then_some(key)
}
