//! The writer of settlements: takes what has been handed over, a batch at a time, to the books, and goes on until it is there.

use std::sync::Arc;
use std::time::Duration;

use lumbung_telemetry::genai;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::error;

use super::limits::Unposted;
use super::settle::{Access, Metered, Order, Work};
use crate::domain::meter::GatewayMeter;
use crate::lines::together;
use crate::store::{SettleOutcome, Settlement, SigningKeys, Store, StoreError};

/// Settlements in one transaction.
const MAX_BATCH: usize = 256;
/// How long the first settlement of a batch waits for company: a transaction costs as much as thirty rows in one…
const LINGER: Duration = Duration::from_millis(50);
/// …and how many times as long, where so many come that those after them are worth waiting for as well.
const MOST_LINGERS: u32 = 4;
/// So many in [`LINGER`].
const MANY: usize = 8;
/// How long the writer waits before it tries the books again.
const RETRY: Duration = Duration::from_millis(500);
/// How long a job that the books refuse waits at most before it is offered again; at first only [`RETRY`].
const MAX_RETRY: Duration = Duration::from_secs(30);
/// How long the books may take for a batch before the writer tries on another connection, the first time: a host that vanished
/// says nothing for a quarter of an hour. Twice as long each time, so that books that are only slow come to an end.
const COMMIT_WITHIN: Duration = Duration::from_secs(20);

/// Who writes.
pub struct Writer {
    /// The books.
    pub store: Store,
    /// Signs the roots of what is written.
    pub keys: SigningKeys,
    /// Where failures are counted.
    pub meter: Arc<GatewayMeter>,
}

/// Jobs that are committed together.
struct Batch {
    /// Their attempts, job after job.
    settlements: Vec<Settlement>,
    jobs: Vec<Job>,
}

/// What remains of a job when its attempts have gone into a batch.
struct Job {
    attempts: usize,
    unposted: Unposted,
    access: Access,
    over_us: i64,
    place: OwnedSemaphorePermit,
}

impl Writer {
    /// Writes until nobody is left who could order anything.
    pub async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let writer = Arc::new(self);
        let mut collected = Vec::with_capacity(MAX_BATCH);
        while orders.recv_many(&mut collected, MAX_BATCH).await > 0 {
            linger(&mut orders, &mut collected).await;
            let (batch, barriers) = sort(std::mem::take(&mut collected));
            writer.commit(batch).await;
            for done in barriers {
                let _ = done.send(()); // whoever asked may have gone
            }
        }
    }

    /// Commits a batch. What the books refuse is found by halves and set aside, so that one job that they can never take
    /// holds up no other.
    async fn commit(self: &Arc<Self>, batch: Batch) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            match self.settle(&batch.settlements).await {
                Ok(()) => self.posted(batch),
                Err(_) if batch.jobs.len() > 1 => {
                    batches.push(batch.split_half());
                    batches.push(batch);
                }
                Err(_) => drop(tokio::spawn(self.clone().insist(batch))),
            }
        }
    }

    /// Offers one job that the books refused again and again: nothing is written off, and its place and its allowance stay
    /// taken. An operator sees it in the log and in the metric.
    async fn insist(self: Arc<Self>, batch: Batch) {
        let jobs: Vec<&str> = batch.jobs.iter().map(|job| job.access.id.as_str()).collect();
        let mut wait = RETRY;
        loop {
            error!(?jobs, "the books refuse a settlement; it is kept and offered again");
            tokio::time::sleep(wait).await;
            if self.settle(&batch.settlements).await.is_ok() {
                return self.posted(batch);
            }
            wait = MAX_RETRY.min(wait * 2);
        }
    }

    /// Writes settlements into the books, all of them or none, however long the books are away. An error is their refusal.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), StoreError> {
        let mut patience = COMMIT_WITHIN;
        while !settlements.is_empty() {
            match tokio::time::timeout(patience, self.store.settle(settlements, &self.keys)).await {
                Ok(Ok(outcomes)) => {
                    let uncovered =
                        outcomes.iter().filter(|outcome| matches!(outcome, SettleOutcome::Uncovered)).count();
                    if uncovered > 0 {
                        self.meter.uncovered.add(uncovered as u64);
                        error!(uncovered, "attempts settled at no charge: their allowance had been released");
                    }
                    break;
                }
                Ok(Err(error)) => {
                    self.meter.settlement_failures.add(1);
                    error!(%error, waiting = settlements.len(), "settlement failed, trying again");
                    if error.is_refusal() {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY).await;
                }
                // Perhaps it was committed after all: then the next try finds it there.
                Err(_) => {
                    self.meter.settlement_failures.add(1);
                    error!(?patience, waiting = settlements.len(), "the books do not answer, trying again");
                    patience *= 2;
                }
            }
        }
        Ok(())
    }

    /// What is done once a batch is in the books: it counts against budgets no more, and its jobs' places are free.
    fn posted(&self, batch: Batch) {
        let now_us = super::clock::unix_micros();
        let mut lines = Vec::with_capacity(batch.jobs.len());
        let mut places = Vec::with_capacity(batch.jobs.len());
        for Job { unposted, access, over_us, place, .. } in batch.jobs {
            self.meter.settlement_lag.observe_us(u64::try_from(now_us - over_us).unwrap_or(0));
            unposted.posted();
            lines.push(access);
            places.push(place);
        }
        together(|| lines.iter().for_each(Access::log));
        drop(places);
    }
}

/// Waits for company: the longer, the more of it there is. Not where somebody waits for what is there.
async fn linger(orders: &mut mpsc::Receiver<Order>, collected: &mut Vec<Order>) {
    for lingers in 1..=MOST_LINGERS {
        let is_urgent = collected.iter().any(|order| matches!(order.work, Work::Barrier(_)));
        if collected.len() >= MAX_BATCH || is_urgent {
            return;
        }
        tokio::time::sleep(LINGER).await;
        while collected.len() < MAX_BATCH
            && let Ok(order) = orders.try_recv()
        {
            collected.push(order);
        }
        if collected.len() < MANY * lingers as usize {
            return;
        }
    }
}

/// What there is to commit, and who waits for it. A barrier keeps its place only until here: its answer follows the batch.
fn sort(orders: Vec<Order>) -> (Batch, Vec<oneshot::Sender<()>>) {
    let mut batch = Batch { settlements: Vec::with_capacity(orders.len()), jobs: Vec::with_capacity(orders.len()) };
    let mut barriers = Vec::new();
    for Order { work, place } in orders {
        match work {
            Work::Settle(metered) => batch.add(*metered, place),
            Work::Barrier(done) => barriers.push(done),
        }
    }
    (batch, barriers)
}

impl Batch {
    fn add(&mut self, metered: Metered, place: OwnedSemaphorePermit) {
        let Metered { settlements, unposted, access, answered, over_us } = metered;
        answered.iter().for_each(genai::record);
        self.jobs.push(Job { attempts: settlements.len(), unposted, access, over_us, place });
        self.settlements.extend(settlements);
    }

    /// Takes the latter half of the jobs out of it.
    fn split_half(&mut self) -> Self {
        let jobs = self.jobs.split_off(self.jobs.len() / 2);
        let attempts: usize = self.jobs.iter().map(|job| job.attempts).sum();
        Self { settlements: self.settlements.split_off(attempts), jobs }
    }
}
