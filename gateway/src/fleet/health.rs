//! What the gateway remembers of a model's providers while their tunnels and offers come and go: who is left alone for a
//! while, how long first tokens take, and how many retries may still be made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::{info, warn};

use crate::domain::breaker::{Breaker, Trial, Verdict};
use crate::domain::ids::ProviderId;
use crate::domain::meter::ModelMeter;
use crate::domain::pace::Pace;
use crate::domain::retries::RetryBudget;

/// Providers that are remembered although they are not here: who joins, fails and leaves must not fill memory.
const MAX_AWAY: usize = 10_000;

/// One model's health.
#[derive(Default)]
pub struct ModelHealth {
    /// What was asked of them, and what became of it.
    pub meter: ModelMeter,
    /// Retries that may be made.
    pub retries: RetryBudget,
    /// How long first tokens take.
    pub pace: Pace,
    breakers: Mutex<HashMap<ProviderId, Arc<Fuse>>>,
}

/// The breaker of one model of one provider.
pub struct Fuse {
    provider: ProviderId,
    breaker: Mutex<Breaker>,
    /// What most requests look at.
    is_closed: AtomicBool,
}

impl ModelHealth {
    /// A provider's breaker, which it finds again when it returns.
    pub(super) fn fuse(&self, provider: &ProviderId) -> Arc<Fuse> {
        let new = || Arc::new(Fuse::new(provider.clone()));
        self.lock().entry(provider.clone()).or_insert_with(new).clone()
    }

    /// Forgets providers that are not here: those of whom there is nothing to remember, and all where there are too many.
    pub(super) fn tidy(&self) {
        let mut breakers = self.lock();
        let is_here = |fuse: &Arc<Fuse>| Arc::strong_count(fuse) > 1;
        breakers.retain(|_, fuse| is_here(fuse) || !fuse.lock().is_pristine());
        if breakers.len() > MAX_AWAY {
            breakers.retain(|_, fuse| is_here(fuse));
        }
    }

    /// Whether one more retry may be made, and if so, counts it.
    pub fn may_retry(&self) -> bool {
        self.retries.spend(now_us() as u64 / 1_000_000)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProviderId, Arc<Fuse>>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fuse {
    fn new(provider: ProviderId) -> Self {
        Self { provider, breaker: Mutex::default(), is_closed: AtomicBool::new(true) }
    }

    /// Whether the provider may be sent a job like any other, or as a probe.
    pub fn admits(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed) || self.lock().admits(now_us())
    }

    /// A job is sent.
    pub(super) fn begin(&self) -> Trial {
        match self.is_closed.load(Ordering::Relaxed) {
            true => Trial::Ordinary,
            false => self.lock().begin(now_us()),
        }
    }

    /// A job is over.
    pub(super) fn end(&self, trial: Trial, verdict: Verdict) {
        let mut breaker = self.lock();
        breaker.end(trial, verdict, now_us());
        let (is_closed, provider) = (breaker.is_closed(), &self.provider);
        match (self.is_closed.swap(is_closed, Ordering::Relaxed), is_closed) {
            (true, false) => warn!(%provider, "left alone for a while: it fails too often"),
            (false, true) => info!(%provider, "works again"),
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds since this process first asked.
fn now_us() -> i64 {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    i64::try_from(BEGINNING.elapsed().as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::jws::SigningKey;

    use super::*;
    use crate::domain::breaker::Fault;

    fn provider(number: u8) -> ProviderId {
        ProviderId::from(SigningKey::from_seed(&[number; 32]).public())
    }

    #[test]
    fn who_fails_is_remembered_when_it_returns_and_who_does_not_is_forgotten() {
        let health = ModelHealth::default();
        let (silent, fine) = (health.fuse(&provider(1)), health.fuse(&provider(2)));
        silent.end(silent.begin(), Verdict::Bad(Fault::Stalled));
        fine.end(fine.begin(), Verdict::Good);
        assert!(!silent.admits() && fine.admits());
        drop((silent, fine));
        health.tidy();
        assert_eq!(health.lock().len(), 1);
        assert!(!health.fuse(&provider(1)).admits());
    }
}
