//! Who waits for a slot: first in, first out, and never more than a set number.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The queue of one model.
pub struct WaitQueue {
    limit: usize,
    /// Kept beside the queue so that a request which need not wait takes no lock.
    length: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// In the order of their places.
    waiting: VecDeque<(Place, oneshot::Sender<()>)>,
    next: Place,
}

/// Where somebody stands: who came earlier has a lower one. Kept by whoever is woken in vain.
pub type Place = u64;

/// The queue holds as many as it may.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueFull;

/// A place in the line. Whoever leaves it when its turn has come lets the next one have it.
pub struct Turn<'a> {
    queue: &'a WaitQueue,
    place: Place,
    woken: oneshot::Receiver<()>,
}

impl WaitQueue {
    /// A queue of at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit, length: AtomicUsize::new(0), line: Mutex::default() }
    }

    /// Whether anyone waits: a newcomer must then not overtake.
    pub fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Joins the queue: at its end, or at the place that one had who was woken in vain.
    pub fn join(&self, place: Option<Place>) -> Result<Turn<'_>, QueueFull> {
        let mut line = self.lock();
        line.waiting.retain(|(_, waiter)| !waiter.is_closed());
        if place.is_none() && line.waiting.len() >= self.limit {
            self.length.store(line.waiting.len(), Ordering::Release);
            return Err(QueueFull);
        }
        let place = place.unwrap_or_else(|| {
            line.next += 1;
            line.next
        });
        let (waker, woken) = oneshot::channel();
        let before = line.waiting.partition_point(|(other, _)| *other < place);
        line.waiting.insert(before, (place, waker));
        self.length.store(line.waiting.len(), Ordering::Release);
        Ok(Turn { queue: self, place, woken })
    }

    /// A slot came free: wakes the first that still waits.
    pub fn wake_one(&self) {
        self.wake_behind(0);
    }

    /// Whoever stands at `place` has no use for the slot that came free: wakes the first behind it. So one that waits for a
    /// certain provider holds up nobody.
    pub fn wake_behind(&self, place: Place) {
        if self.is_empty() {
            return;
        }
        let mut line = self.lock();
        let first = line.waiting.partition_point(|(other, _)| *other <= place);
        while let Some((_, waiter)) = line.waiting.remove(first) {
            if waiter.send(()).is_ok() {
                break;
            }
        }
        self.length.store(line.waiting.len(), Ordering::Release);
    }

    /// The fleet changed: everyone looks again.
    pub fn wake_all(&self) {
        let mut line = self.lock();
        self.length.store(0, Ordering::Release);
        for (_, waiter) in line.waiting.drain(..) {
            let _ = waiter.send(()); // it may have gone
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits until it is woken; where it stood.
    pub async fn come(mut self) -> Place {
        let _ = (&mut self.woken).await; // a queue that is gone: look again
        self.place
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.woken.try_recv().is_ok() {
            self.queue.wake_behind(self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether its turn has come, taking it.
    fn has_come(turn: &mut Turn<'_>) -> bool {
        turn.woken.try_recv().is_ok()
    }

    #[test]
    fn the_first_that_still_waits_is_woken() {
        let queue = WaitQueue::new(3);
        let first = queue.join(None).expect("room");
        let [mut second, mut third] = [(); 2].map(|()| queue.join(None).expect("room"));
        assert_eq!(queue.join(None).map(|turn| turn.place).err(), Some(QueueFull));
        drop(first);
        queue.wake_one();
        assert_eq!((has_come(&mut second), has_come(&mut third)), (true, false), "whoever left swallows no wake-up");
        queue.wake_one();
        assert!(has_come(&mut third));
        assert!(queue.is_empty());
    }

    #[test]
    fn whoever_has_no_use_for_it_lets_the_next_one_have_it_and_keeps_its_place() {
        let queue = WaitQueue::new(2);
        let (mut picky, mut other) = (queue.join(None).expect("room"), queue.join(None).expect("room"));
        queue.wake_one();
        assert!(has_come(&mut picky));
        let place = picky.place;
        let mut newcomer = queue.join(None).expect("room");
        let mut picky = queue.join(Some(place)).expect("a place that it had");
        queue.wake_behind(place);
        assert_eq!([&mut picky, &mut other, &mut newcomer].map(has_come), [false, true, false]);
        queue.wake_one();
        assert!(has_come(&mut picky), "it is still the first");
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn whoever_leaves_when_its_turn_has_come_lets_the_next_one_have_it() {
        let queue = WaitQueue::new(2);
        let (first, mut second) = (queue.join(None).expect("room"), queue.join(None).expect("room"));
        queue.wake_one();
        drop(first);
        assert!(has_come(&mut second));
    }
}
