//! A job's buffer: what a provider has sent and the client has not read yet.
//!
//! Bounded in bytes, so that a paused reader costs at most that, and the tunnel never waits for a client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

/// The most that waits for a client.
pub const MAX_BUFFERED: usize = 4 << 20;
/// An ended answer of more than this does not wait for ever.
const MAX_LEFT_BEHIND: usize = 64 << 10;
/// How long a client may take nothing of it, as nginx's `send_timeout`.
const UNREAD_FOR: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Inner {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// How many chunks the client has taken.
    taken: u64,
    finished: bool,
    abandoned: bool,
    /// What was left has been thrown away: the client took nothing of it for too long.
    cut: bool,
    reader: Option<Waker>,
    /// Who wants to know when the reader has gone.
    writer: Option<Waker>,
}

struct Shared(Mutex<Inner>);

/// The side that fills the buffer. Dropping it ends the client's stream.
pub struct Inlet(Arc<Shared>);

/// The side that the client reads, as an HTTP body. Dropping it tells the [`Inlet`] that the client has gone.
pub struct Outlet(Arc<Shared>);

/// The client did not take the rest of its answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer was not read for {} s", UNREAD_FOR.as_secs())]
pub struct Unread;

/// The client does not take what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushError {
    /// It has gone.
    ClientGone,
    /// It reads so slowly that the buffer is full.
    Full,
}

/// An empty buffer.
pub fn buffer() -> (Inlet, Outlet) {
    let shared = Arc::new(Shared(Mutex::default()));
    (Inlet(shared.clone()), Outlet(shared))
}

impl Inlet {
    /// Adds a piece; it reaches the client in one write.
    pub fn push(&self, chunk: Bytes) -> Result<(), PushError> {
        self.add(chunk, MAX_BUFFERED)
    }

    /// Adds the last piece, for which there is always room: a client that reads on must see how its answer ended.
    pub fn push_last(&self, chunk: Bytes) -> Result<(), PushError> {
        self.add(chunk, usize::MAX)
    }

    fn add(&self, chunk: Bytes, limit: usize) -> Result<(), PushError> {
        let mut inner = self.0.lock();
        if inner.abandoned {
            return Err(PushError::ClientGone);
        }
        if inner.bytes + chunk.len() > limit {
            return Err(PushError::Full);
        }
        inner.bytes += chunk.len();
        inner.chunks.push_back(chunk);
        let reader = inner.reader.take();
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Resolves when the client has gone. One task at a time is told.
    pub async fn client_gone(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.0.lock();
            match inner.abandoned {
                true => Poll::Ready(()),
                false => remember(&mut inner.writer, cx),
            }
        })
        .await;
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.finished = true;
        let is_much = inner.bytes > MAX_LEFT_BEHIND && !inner.abandoned;
        let reader = inner.reader.take();
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
        if is_much && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(cut_unread(self.0.clone()));
        }
    }
}

/// Throws an ended answer away whose client has stopped reading, though it keeps its connection.
async fn cut_unread(shared: Arc<Shared>) {
    let mut seen = shared.lock().taken;
    loop {
        tokio::time::sleep(UNREAD_FOR).await;
        if shared.lock().is_over(&mut seen) {
            return;
        }
    }
}

impl Inner {
    /// Whether nothing more is to come of an ended answer: all is taken, or nothing was since the last look, and is cut.
    fn is_over(&mut self, seen: &mut u64) -> bool {
        let is_read = std::mem::replace(seen, self.taken) != self.taken;
        if !self.chunks.is_empty() && !is_read {
            (self.chunks, self.bytes, self.cut) = (VecDeque::new(), 0, true);
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        self.chunks.is_empty()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.abandoned = true;
        inner.chunks.clear();
        let writer = inner.writer.take();
        drop(inner);
        writer.into_iter().for_each(Waker::wake);
    }
}

impl Body for Outlet {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        let mut inner = self.0.lock();
        if let Some(chunk) = inner.chunks.pop_front() {
            inner.bytes -= chunk.len();
            inner.taken += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if inner.cut {
            return Poll::Ready(Some(Err(Unread)));
        }
        if inner.finished {
            return Poll::Ready(None);
        }
        remember(&mut inner.reader, cx)
    }
}

/// Has this task woken later. That it is asked again and again costs nothing, as long as it is the same task.
fn remember<T>(waker: &mut Option<Waker>, cx: &Context<'_>) -> Poll<T> {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
    Poll::Pending
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn an_ended_answer_that_nobody_reads_is_thrown_away_and_a_slow_reader_has_all_of_it() {
        let piece = || Bytes::from(vec![b'x'; MAX_LEFT_BEHIND]);
        let [(mut slow, mut seen_slow), (mut gone, mut seen_gone)] = std::array::from_fn(|_| {
            let (inlet, outlet) = buffer();
            (0..4).for_each(|_| inlet.push(piece()).expect("room"));
            (outlet, 0)
        });
        for left in (0..4).rev() {
            assert_eq!(slow.frame().await.expect("a frame").expect("whole").into_data().expect("data"), piece());
            assert_eq!(slow.0.lock().is_over(&mut seen_slow), left == 0);
        }
        assert!(slow.frame().await.is_none());

        assert!(gone.0.lock().is_over(&mut seen_gone));
        assert_eq!(gone.0.lock().bytes, 0, "it is not kept");
        assert_eq!(gone.frame().await.expect("an end").expect_err("broken off"), Unread);
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_in_order_and_ends() {
        let (inlet, outlet) = buffer();
        let reading = tokio::spawn(outlet.collect());
        for piece in ["a", "b", "c"] {
            inlet.push(Bytes::from_static(piece.as_bytes())).expect("room");
            tokio::task::yield_now().await;
        }
        drop(inlet);
        assert_eq!(reading.await.expect("reader").expect("infallible").to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_reader_that_stops_or_goes_is_noticed() {
        let (inlet, outlet) = buffer();
        let half = Bytes::from(vec![0; MAX_BUFFERED / 2]);
        assert_eq!((inlet.push(half.clone()), inlet.push(half.clone())), (Ok(()), Ok(())));
        assert_eq!(inlet.push(half.clone()), Err(PushError::Full));
        assert_eq!(inlet.push_last(Bytes::from_static(b"[DONE]")), Ok(()), "the end always fits");
        drop(outlet);
        assert_eq!(inlet.push(half), Err(PushError::ClientGone));
        inlet.client_gone().await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(5), inlet.client_gone()).await;
        assert!(again.is_ok(), "the client has gone for good");
    }
}
