//! How far this gateway is on its way out.

use std::sync::atomic::{AtomicU8, Ordering};

const SERVING: u8 = 0;
const LEAVING: u8 = 1;
const DRAINING: u8 = 2;

/// Serving, then leaving, then draining; never back.
#[derive(Default)]
pub struct Life(AtomicU8);

impl Life {
    /// Told to stop: health says so and providers move, so that proxies and they go elsewhere; requests are still taken.
    pub fn leave(&self) {
        self.0.fetch_max(LEAVING, Ordering::AcqRel);
    }

    /// Finishes what runs, and takes nothing new.
    pub fn drain(&self) {
        self.0.fetch_max(DRAINING, Ordering::AcqRel);
    }

    /// Whether whoever can go elsewhere should.
    pub fn is_leaving(&self) -> bool {
        self.0.load(Ordering::Acquire) != SERVING
    }

    /// Whether nothing new is taken.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Acquire) == DRAINING
    }
}
