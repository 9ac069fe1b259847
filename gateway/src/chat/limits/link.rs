//! Whether the counters that all replicas share can be reached, and who else counts there.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

use super::Counter;
use crate::chat::clock;
use crate::domain::limits::{Mode, Share};
use crate::store::{Bus, Counters, CountersAway};

/// How often this replica says that it is there.
const SEEN_EVERY: Duration = Duration::from_secs(1);
/// How often counters out of reach are tried.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// Counters that are back are told what happened without them for so long, before anything is asked of them.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The way to the shared counters.
pub(super) struct Link {
    pub counters: Counters,
    pub bus: Arc<Bus>,
    is_reachable: AtomicBool,
    /// From then on they are asked, Unix microseconds.
    shared_from_us: AtomicI64,
    /// The share of this replica: its rank, and how many there are.
    share: AtomicU64,
    /// Counters that the background looks after.
    pub listed: Mutex<Vec<Arc<Counter>>>,
    /// Of them, those that have something to tell at once.
    pub urgent: Mutex<Vec<Arc<Counter>>>,
    pub hurry: Notify,
}

impl Link {
    /// Out of reach until it was tried: this replica has all of every limit.
    pub fn new(counters: Counters, bus: Arc<Bus>) -> Self {
        Self {
            counters,
            bus,
            is_reachable: AtomicBool::new(false),
            shared_from_us: AtomicI64::new(0),
            share: AtomicU64::new(1),
            listed: Mutex::default(),
            urgent: Mutex::default(),
            hurry: Notify::new(),
        }
    }

    /// With whom this replica counts now.
    pub fn mode(&self) -> Mode {
        let share = self.share();
        let is_shared = self.is_reachable() && clock::unix_micros() >= self.shared_from_us.load(Ordering::Acquire);
        if is_shared { Mode::Shared { replicas: share.replicas } } else { Mode::Apart(share) }
    }

    /// Whether the counters can be told something.
    pub fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Acquire)
    }

    /// How many replicas there are, as last seen.
    pub fn replicas(&self) -> u32 {
        self.share().replicas
    }

    fn share(&self) -> Share {
        let packed = self.share.load(Ordering::Acquire);
        Share { rank: (packed >> 32) as u32, replicas: packed as u32 }
    }

    /// An exchange has failed: until the counters answer again, each replica goes on with its share.
    pub fn lose(&self, away: &CountersAway) {
        if self.is_reachable.swap(false, Ordering::AcqRel) {
            let Share { rank, replicas } = self.share();
            warn!(error = %away, rank, replicas, "limits hold for this replica's share alone");
        }
    }

    /// Says that this replica is there, and learns who else is. `catch_up`: how long counters that were out of reach are
    /// only told what happened meanwhile.
    pub async fn be_seen(&self, catch_up: Duration) {
        match self.counters.seen(true).await {
            Ok(share) => {
                // Counters that were away may not have seen the others yet: until they have, shares stay as they were.
                if self.is_reachable() || catch_up.is_zero() {
                    self.share.store(u64::from(share.rank) << 32 | u64::from(share.replicas), Ordering::Release);
                }
                if !self.is_reachable() {
                    let from_us = clock::unix_micros() + catch_up.as_micros() as i64;
                    self.shared_from_us.store(from_us, Ordering::Release);
                    self.is_reachable.store(true, Ordering::Release);
                    info!(replicas = share.replicas, "limits are counted together with all replicas");
                }
            }
            Err(away) => self.lose(&away),
        }
    }

    /// Goes on saying so.
    pub async fn keep_seen(&self) {
        loop {
            tokio::time::sleep(if self.is_reachable() { SEEN_EVERY } else { TRY_EVERY }).await;
            self.be_seen(CATCH_UP).await;
        }
    }

    /// Lets the background look after a counter.
    pub fn list(&self, counter: &Arc<Counter>) {
        if !counter.is_listed.load(Ordering::Relaxed) && !counter.is_listed.swap(true, Ordering::AcqRel) {
            self.listed.lock().unwrap_or_else(PoisonError::into_inner).push(counter.clone());
        }
    }

    /// Has it look at one at once.
    pub fn hasten(&self, counter: &Arc<Counter>) {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner).push(counter.clone());
        self.hurry.notify_one();
    }
}
