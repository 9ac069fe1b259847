//! Servers that answer with one document show nothing until it is whole.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::Event;

/// An answer that is there so soon, or is refused, needs no telling.
pub const SOON: Duration = Duration::from_secs(1);
/// How often it is told that the server works.
const EVERY: Duration = Duration::from_secs(1);
/// A server that is still not done after this may have forgotten the request: it is not vouched for any longer.
const AT_MOST: Duration = Duration::from_secs(300);

/// Waits for a server's answer, and tells meanwhile that it works: it holds the connection.
pub async fn told<T>(waiting: impl Future<Output = T>, events: &mpsc::Sender<Event>) -> T {
    let (begun, mut waiting) = (Instant::now(), pin!(waiting));
    while begun.elapsed() < AT_MOST {
        match tokio::time::timeout(EVERY, &mut waiting).await {
            Ok(answer) => return answer,
            // Whoever does not read has not missed anything.
            Err(_) => drop(events.try_send(Event::Working)),
        }
    }
    waiting.await
}
