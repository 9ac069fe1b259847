//! The last voucher of each answer on a tunnel. Nobody waits for it, so it leaves with the next job, or a moment later: a
//! write of its own would cost as much as all else that is written for a job, and would hold up the client's answer.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::sync::Notify;

/// How long a last voucher waits for a job to leave with. A gateway that is killed within that time is believed less than it
/// had received, by a voucher's interval at most.
const WITHIN: Duration = Duration::from_millis(5);

/// Those that have not left yet.
#[derive(Default)]
pub(super) struct LastWords {
    waiting: Mutex<Waiting>,
    first: Notify,
}

#[derive(Default)]
struct Waiting {
    vouchers: Vec<(SendStream<Bytes>, Bytes)>,
    /// How many have come, and whether somebody sees to it that they leave.
    came: u64,
    is_seen_to: bool,
}

impl LastWords {
    /// Takes the frame that ends a job's request.
    pub fn add(&self, request: SendStream<Bytes>, voucher: Bytes) {
        let mut waiting = self.lock();
        waiting.vouchers.push((request, voucher));
        waiting.came += 1;
        let is_seen_to = std::mem::replace(&mut waiting.is_seen_to, true);
        drop(waiting);
        if !is_seen_to {
            self.first.notify_one();
        }
    }

    /// Hands over what waits.
    pub fn send(&self) {
        let vouchers = std::mem::take(&mut self.lock().vouchers);
        for (mut request, voucher) in vouchers {
            send_last(&mut request, voucher);
        }
    }

    /// Sees to it that nothing waits too long, for as long as it is polled.
    pub async fn send_in_time(&self) -> Infallible {
        loop {
            self.first.notified().await;
            let mut seen = 0;
            // Wakes at an even pace while jobs come, because a timer for each of them costs more.
            while self.has_more_than(&mut seen) {
                tokio::time::sleep(WITHIN).await;
                self.send();
            }
        }
    }

    /// Whether any have come beyond those that were seen. If not, the next one is told of anew.
    fn has_more_than(&self, seen: &mut u64) -> bool {
        let mut waiting = self.lock();
        let before = std::mem::replace(seen, waiting.came);
        waiting.is_seen_to = before != waiting.came;
        waiting.is_seen_to
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a job's request with its last voucher, or without it where the provider leaves no room.
pub(super) fn send_last(request: &mut SendStream<Bytes>, voucher: Bytes) {
    request.reserve_capacity(voucher.len());
    if request.capacity() < voucher.len() {
        return request.send_reset(h2::Reason::NO_ERROR);
    }
    // A stream that has broken is noticed where it is read.
    drop(request.send_data(voucher, true));
}
