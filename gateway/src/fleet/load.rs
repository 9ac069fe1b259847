//! How many jobs a provider runs with one model: this gateway's, counted, and the other gateways', as they tell.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// One provider's jobs with one model. Outlives tunnels and offers.
#[derive(Default)]
pub struct Load {
    own: AtomicU32,
    /// A little late.
    others: AtomicU32,
    /// The provider itself has just said so.
    full: AtomicBool,
    /// What the other gateways were told last of this one's.
    told: AtomicU32,
}

impl Load {
    /// Jobs now, as far as is known.
    pub fn total(&self) -> u32 {
        if self.full.load(Ordering::Acquire) {
            return u32::MAX;
        }
        self.own.load(Ordering::SeqCst).saturating_add(self.others.load(Ordering::Acquire))
    }

    /// Jobs of this gateway.
    pub fn own(&self) -> u32 {
        self.own.load(Ordering::Acquire)
    }

    /// This gateway's jobs, if the others were told another number last.
    pub(super) fn report(&self) -> Option<u32> {
        let own = self.own();
        (self.told.swap(own, Ordering::Relaxed) != own).then_some(own)
    }

    /// Counts one more of this gateway's, if one of so many slots is free.
    pub(super) fn take(&self, slots: u32) -> bool {
        let free = match self.full.load(Ordering::Acquire) {
            true => 0,
            false => slots.saturating_sub(self.others.load(Ordering::Acquire)),
        };
        let take = |own: u32| (own < free).then_some(own + 1);
        self.own.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    /// Counts one less.
    pub(super) fn give_back(&self) {
        self.own.fetch_sub(1, Ordering::SeqCst);
    }

    /// What all others together have told.
    pub(super) fn set_others(&self, jobs: u32) {
        self.others.store(jobs, Ordering::Release);
    }

    /// Every slot is taken, whatever the figures say, or is not any more.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_gateways_jobs_take_slots_too() {
        let load = Load::default();
        load.set_others(2);
        assert!(load.take(3));
        assert!(!load.take(3), "two elsewhere, one here");
        assert_eq!((load.total(), load.own()), (3, 1));
        load.set_others(5);
        assert!(!load.take(3), "late figures never make room");
        load.give_back();
        load.set_others(0);
        load.set_full(true);
        assert!(!load.take(3));
        load.set_full(false);
        assert!(load.take(3));
    }
}
