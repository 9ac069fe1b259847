//! The last voucher of each answer on a tunnel. It goes at once, before the client is told of the end, unless jobs follow
//! each other so closely that the next one takes it along: a write of its own costs as much as the job's, and holds up the
//! client's answer by what it takes.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Jobs that follow each other within so long take along what waits, which waits no longer than this. A gateway that is killed
/// meanwhile is believed up to the voucher before.
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
    /// When the last job began, and whether it was soon after the one before.
    last_job: Option<Instant>,
    is_busy: bool,
}

impl LastWords {
    /// A job is about to begin: what waits goes with it.
    pub fn job_begins(&self) {
        let now = Instant::now();
        let mut waiting = self.lock();
        let before = waiting.last_job.replace(now);
        waiting.is_busy = before.is_some_and(|before| now - before < WITHIN);
        drop(waiting);
        self.send();
    }

    /// Takes the frame that ends a job's request. Returns whether it goes at once.
    pub fn add(&self, mut request: SendStream<Bytes>, voucher: Bytes) -> bool {
        let mut waiting = self.lock();
        let has_just_begun = |last_job: Instant| last_job.elapsed() < WITHIN;
        if !waiting.is_busy || !waiting.last_job.is_some_and(has_just_begun) {
            drop(waiting);
            send_last(&mut request, voucher);
            return true;
        }
        waiting.vouchers.push((request, voucher));
        waiting.came += 1;
        let is_seen_to = std::mem::replace(&mut waiting.is_seen_to, true);
        drop(waiting);
        if !is_seen_to {
            self.first.notify_one();
        }
        false
    }

    fn send(&self) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What holds a tunnel open, the requests of so many jobs on it that are answered, and where their bodies arrive.
    async fn jobs(
        count: usize,
    ) -> (h2::client::SendRequest<Bytes>, Vec<SendStream<Bytes>>, tokio::sync::mpsc::Receiver<Bytes>) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (arrived, arriving) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.expect("a connection");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                respond.send_response(http::Response::new(()), true).expect("an answer");
                let arrived = arrived.clone();
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(chunk)) = body.data().await {
                        arrived.send(chunk).await.expect("somebody listens");
                    }
                });
            }
        });
        let (sender, connection) = h2::client::handshake(ours).await.expect("a connection");
        tokio::spawn(connection);
        let mut requests = Vec::new();
        for _ in 0..count {
            let request = http::Request::post("http://provider/").body(()).expect("a request");
            let mut sender = sender.clone().ready().await.expect("ready");
            let (answer, request) = sender.send_request(request, false).expect("a job");
            answer.await.expect("an answer");
            requests.push(request);
        }
        (sender, requests, arriving)
    }

    /// Another job begins right after one. What is to come is never long ago, however slow the machine.
    fn job_begins_in_a_row(last_words: &LastWords) {
        let to_come = || Some(Instant::now() + Duration::from_secs(3600));
        last_words.lock().last_job = to_come();
        last_words.job_begins();
        last_words.lock().last_job = to_come();
    }

    #[tokio::test]
    async fn the_voucher_of_a_job_that_is_alone_goes_at_once() {
        let (_open, mut requests, mut arriving) = jobs(2).await;
        let last_words = LastWords::default();
        last_words.job_begins();
        assert!(last_words.add(requests.remove(0), Bytes::from_static(b"alone")));
        assert_eq!(arriving.recv().await.expect("it arrives"), "alone", "though nobody sees to it");

        job_begins_in_a_row(&last_words);
        last_words.lock().last_job = Instant::now().checked_sub(WITHIN);
        assert!(last_words.add(requests.remove(0), Bytes::from_static(b"long ago")));
        assert_eq!(arriving.recv().await.expect("it arrives"), "long ago", "nothing has followed for a while");
    }

    #[tokio::test]
    async fn vouchers_of_jobs_in_a_row_go_with_the_next_or_a_moment_later() {
        let (_open, mut requests, mut arriving) = jobs(3).await;
        let last_words = Arc::<LastWords>::default();
        job_begins_in_a_row(&last_words);
        assert!(!last_words.add(requests.remove(0), Bytes::from_static(b"first")));
        tokio::time::sleep(4 * WITHIN).await;
        assert!(arriving.try_recv().is_err(), "it waits: nobody sees to it yet");
        last_words.job_begins();
        assert_eq!(arriving.recv().await.expect("it arrives"), "first", "with the next job");

        let seeing_to = tokio::spawn({
            let last_words = last_words.clone();
            async move { last_words.send_in_time().await }
        });
        for voucher in ["second", "third"] {
            job_begins_in_a_row(&last_words);
            assert!(!last_words.add(requests.remove(0), Bytes::from_static(voucher.as_bytes())));
            assert_eq!(arriving.recv().await.expect("it arrives"), voucher, "without another job");
            tokio::time::sleep(4 * WITHIN).await; // nothing waits any more
        }
        assert!(!seeing_to.is_finished());
    }
}
