//! Receipts that are still to be acknowledged, and which of them to offer next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lumbung_openapi::receipt::Receipt;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Unacknowledged receipts by number.
pub struct Backlog {
    state: Mutex<State>,
    count: AtomicUsize,
    grown: Notify,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<u64, Receipt>,
    last_number: u64,
    /// Not offered yet.
    fresh: VecDeque<u64>,
    /// To be offered again, from then on.
    later: VecDeque<(Instant, u64)>,
}

impl Backlog {
    /// With what an earlier run left.
    pub fn new(kept: BTreeMap<u64, Receipt>) -> Self {
        let state = State {
            last_number: kept.keys().next_back().copied().unwrap_or(0),
            fresh: kept.keys().copied().collect(),
            later: VecDeque::new(),
            kept,
        };
        Self { count: AtomicUsize::new(state.kept.len()), state: Mutex::new(state), grown: Notify::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes up to `most` receipts to be offered now. They come back by [`Self::offer_again`], or are acknowledged.
    pub fn take(&self, most: usize) -> Vec<(u64, Receipt)> {
        let mut state = self.lock();
        let now = Instant::now();
        // New ones come first, and yet those that wait get half of a full batch.
        let share = if state.fresh.len() > most / 2 { most / 2 } else { most - state.fresh.len() };
        let mut numbers = Vec::new();
        while numbers.len() < share
            && let Some((_, number)) = state.later.pop_front_if(|(at, _)| *at <= now)
        {
            numbers.push(number);
        }
        while numbers.len() < most
            && let Some(number) = state.fresh.pop_front()
        {
            numbers.push(number);
        }
        numbers.into_iter().filter_map(|number| Some((number, state.kept.get(&number)?.clone()))).collect()
    }

    /// These were offered and not decided: offer them again, not before then.
    pub fn offer_again(&self, numbers: &[u64], at: Instant) {
        let mut state = self.lock();
        state.later.extend(numbers.iter().map(|number| (at, *number)));
        drop(state);
        self.grown.notify_one();
    }

    /// Every one is to be offered anew, whatever became of the last offer.
    pub fn start_over(&self) {
        let mut state = self.lock();
        state.later.clear();
        state.fresh = state.kept.keys().copied().collect();
    }

    /// Waits until there is one to be offered.
    pub async fn offerable(&self) {
        loop {
            let grown = self.grown.notified();
            let (is_fresh, next) = {
                let state = self.lock();
                (!state.fresh.is_empty(), state.later.front().map(|(at, _)| *at))
            };
            match next {
                _ if is_fresh => return,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => return,
                    () = grown => {}
                },
                None => grown.await,
            }
        }
    }

    /// Adds one, having let it be written down with its number.
    pub(super) fn add(&self, receipt: Receipt, write_down: impl FnOnce(u64, &Receipt)) {
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        write_down(number, &receipt);
        state.kept.insert(number, receipt);
        state.fresh.push_back(number);
        self.count.store(state.kept.len(), Ordering::Relaxed);
        drop(state);
        self.grown.notify_one();
    }

    pub(super) fn acknowledge(&self, numbers: &[u64]) {
        let mut state = self.lock();
        for number in numbers {
            state.kept.remove(number);
        }
        self.count.store(state.kept.len(), Ordering::Relaxed);
    }

    pub(super) fn each(&self, mut see: impl FnMut(u64, &Receipt)) {
        self.lock().kept.iter().for_each(|(number, receipt)| see(*number, receipt));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
