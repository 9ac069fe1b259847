//! Who waits for a slot: first in, first out, and never more than a set number.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// The queue of one model.
pub struct WaitQueue {
    limit: usize,
    /// Kept beside the queue so that a request which need not wait takes no lock.
    length: AtomicUsize,
    waiting: Mutex<VecDeque<oneshot::Sender<()>>>,
}

/// The queue holds as many as it may.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueFull;

impl WaitQueue {
    /// A queue of at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, length: AtomicUsize::new(0), waiting: Mutex::default() }
    }

    /// Whether anyone waits: a newcomer must then not overtake.
    pub fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Joins the queue. Whoever was woken and found the slot gone again goes to the `front`.
    pub fn join(&self, front: bool) -> Result<oneshot::Receiver<()>, QueueFull> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.len() >= self.limit {
            self.length.store(waiting.len(), Ordering::Release);
            return Err(QueueFull);
        }
        let (waker, woken) = oneshot::channel();
        match front {
            true => waiting.push_front(waker),
            false => waiting.push_back(waker),
        }
        self.length.store(waiting.len(), Ordering::Release);
        Ok(woken)
    }

    /// A slot came free: wakes the first that still waits.
    pub fn wake_one(&self) {
        if self.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(waiter) = waiting.pop_front() {
            if waiter.send(()).is_ok() {
                break;
            }
        }
        self.length.store(waiting.len(), Ordering::Release);
    }

    /// The fleet changed: everyone looks again.
    pub fn wake_all(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.length.store(0, Ordering::Release);
        for waiter in waiting.drain(..) {
            let _ = waiter.send(()); // it may have gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_still_waits_is_woken() {
        let queue = WaitQueue::new(3);
        let (first, mut second) = (queue.join(false).expect("room"), queue.join(false).expect("room"));
        let mut returned = queue.join(true).expect("room");
        assert_eq!(queue.join(false).map(|_| ()), Err(QueueFull));
        drop(first);
        queue.wake_one();
        assert_eq!((returned.try_recv(), second.try_recv().is_ok()), (Ok(()), false));
        queue.wake_one();
        assert!(second.try_recv().is_ok(), "whoever left must not swallow a wake-up");
        assert!(queue.is_empty());
    }
}
