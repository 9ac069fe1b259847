//! Offering receipts to the gateway, under one signature for all of about the last second, until each is in its books.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use lumbung_openapi::provider::RECEIPTS_PATH;
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptVerdict, ReceiptVerdicts};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::gateway::{Gateway, causes};
use crate::identity::Identity;
use crate::journal::Journal;

/// Receipts of one batch at most.
const MOST: usize = 1000;
/// Batches that are not full go out at most this often, and undecided receipts again after it.
const EVERY: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a gateway may take over a batch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Offers receipts.
pub struct Offering {
    gateway: Arc<Gateway>,
    identity: Arc<Identity>,
    journal: Journal,
    backoff: Backoff,
    /// Which of the gateway's addresses has its turn.
    turn: usize,
    /// Lower than [`MOST`] while a gateway refuses whole batches: one receipt that it cannot read must not hold up all others.
    batch_size: usize,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum OfferError {
    #[error("{0}")]
    Unreachable(String),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("{verdicts} verdicts on {receipts} receipts")]
    Mismatch { verdicts: usize, receipts: usize },
}

impl Offering {
    /// Offers what this journal keeps.
    pub fn new(gateway: Arc<Gateway>, identity: Arc<Identity>, journal: Journal) -> Self {
        Self { gateway, identity, journal, backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), turn: 0, batch_size: MOST }
    }

    /// Offers receipts as they come, for good. At once after a quiet second or a full batch, otherwise each second. May be
    /// dropped at any moment and begun again: what an offer that was cut off has left undecided is offered anew.
    pub async fn run(&mut self) {
        self.journal.backlog().start_over();
        loop {
            self.journal.backlog().offerable().await;
            let begun = Instant::now();
            match self.offer().await {
                Ok(MOST) => {} // there are more
                Ok(_) => tokio::time::sleep_until(begun + EVERY).await,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Offers what there is a last time.
    pub async fn run_out(&mut self) {
        // An offer that was cut off by the end of `run` left its receipts undecided.
        self.journal.backlog().start_over();
        while self.offer().await.is_ok_and(|offered| offered > 0) {}
    }

    /// Offers one batch, and says of how many. On an error: how long to wait.
    async fn offer(&mut self) -> Result<usize, Duration> {
        let (numbers, receipts): (Vec<u64>, Vec<Receipt>) =
            self.journal.backlog().take(self.batch_size).into_iter().unzip();
        if receipts.is_empty() {
            return Ok(0);
        }
        match self.post(receipts).await {
            Ok(verdicts) => {
                self.backoff.reset();
                self.batch_size = (self.batch_size * 2).min(MOST);
                self.take_verdicts(&numbers, verdicts).await;
                Ok(numbers.len())
            }
            Err(error) => {
                let wait = self.backoff.next_wait().max(Duration::from_millis(100));
                tracing::warn!(
                    receipts = numbers.len(),
                    wait_ms = wait.as_millis() as u64,
                    "receipts were not taken: {error}"
                );
                if !matches!(error, OfferError::Status(status) if is_about_the_batch(status)) {
                    self.turn += 1; // another gateway may be better off
                }
                if matches!(error, OfferError::Status(status) if is_about_the_batch(status)) {
                    self.batch_size = (numbers.len() / 2).max(1);
                }
                self.journal.backlog().offer_again(&numbers, Instant::now());
                Err(wait)
            }
        }
    }

    async fn post(&self, receipts: Vec<Receipt>) -> Result<ReceiptVerdicts, OfferError> {
        let count = receipts.len();
        let batch = ReceiptBatch::sign(&self.identity.key, receipts, self.gateway.clock.now_secs());
        let address = self.gateway.address_in_turn(self.turn);
        let request = self.gateway.client.post(address.endpoint(RECEIPTS_PATH)).json(&batch);
        let unreachable = |error: reqwest::Error| OfferError::Unreachable(causes(&error));
        let response = request.timeout(ANSWER_TIMEOUT).send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(OfferError::Status(response.status()));
        }
        let verdicts: ReceiptVerdicts = response.json().await.map_err(unreachable)?;
        match verdicts.verdicts.len() == count {
            true => Ok(verdicts),
            false => Err(OfferError::Mismatch { verdicts: verdicts.verdicts.len(), receipts: count }),
        }
    }

    async fn take_verdicts(&self, numbers: &[u64], verdicts: ReceiptVerdicts) {
        let (mut done, mut pending) = (Vec::new(), Vec::new());
        for (number, verdict) in numbers.iter().zip(verdicts.verdicts) {
            match verdict {
                ReceiptVerdict::Committed => done.push(*number),
                ReceiptVerdict::Pending => pending.push(*number),
                ReceiptVerdict::Refused { reason } => {
                    tracing::warn!(receipt = number, reason, "the gateway will not pay a receipt");
                    done.push(*number);
                }
            }
        }
        if !pending.is_empty() {
            self.journal.backlog().offer_again(&pending, Instant::now() + EVERY);
        }
        if !done.is_empty() {
            self.journal.acknowledge(done).await;
        }
    }
}

/// Whether a smaller or another batch may fare better.
fn is_about_the_batch(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY)
}
