//! What the books write for a job in SQLite, where half of a settlement's cost is pages that go to the log: batches of
//! settlements, and the provider's signed receipts for them a while later, as a gateway that is busy has them.

use std::time::Duration;

use lumbung_gateway::domain::ids::JobId;
use lumbung_gateway::store::{SettleOutcome, Settlement};
use lumbung_openapi::receipt::{Receipt, ReceiptVerdict};
use lumbung_openapi::ticket::Ticket;

use crate::process::{sqlite_cpu, written_bytes};
use crate::support::{Books, Customer, Provider, claims, receipt_of, tokens};

/// Settlements in a transaction, and receipts under a signature.
const BATCH: usize = 100;
const CUSTOMERS: usize = 10;
const PROVIDERS: usize = 4;
/// Receipts come this many batches after their settlements: a second, at some thousand jobs per second.
const LATER: usize = 5;
/// Bytes that a job may write, into the log, the file and whatever else there is. They are the same on any machine.
const MOST_BYTES: u64 = 9_000;

/// What the books took.
#[derive(Default)]
struct Spent {
    cpu: Duration,
    bytes: u64,
}

impl Spent {
    fn now() -> Self {
        Self { cpu: sqlite_cpu(), bytes: written_bytes() }
    }

    fn add_since(&mut self, before: &Self) {
        let now = Self::now();
        self.cpu += now.cpu - before.cpu;
        self.bytes += now.bytes - before.bytes;
    }

    fn per_job(&self, what: &str, jobs: usize) {
        let cpu = self.cpu.as_secs_f64() * 1e6 / jobs as f64;
        println!("{what}: {cpu:.1} µs of SQLite's CPU and {} bytes written per job", self.bytes / jobs as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_writes_little() {
    let books = Books::sqlite().await;
    // Long enough to have the log written into the file a few times.
    let batches = if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { 400 } else { 30 };
    let providers: Vec<Provider> = (1..=PROVIDERS as u8).map(Provider::new).collect();
    let mut customers: Vec<(Customer, Ticket)> = Vec::new();
    for _ in 0..CUSTOMERS {
        let customer = books.customer("1000").await;
        let ticket = customer.ticket(&books, &providers[0]).await;
        customers.push((customer, ticket));
    }
    let (mut settling, mut attaching) = (Spent::default(), Spent::default());
    let mut waiting: Vec<Vec<Settlement>> = Vec::new();
    for number in 0..batches + LATER {
        if number < batches {
            let batch: Vec<Settlement> = (0..BATCH)
                .map(|n| settlement(&books, &customers[n % CUSTOMERS], &providers[number % PROVIDERS]))
                .collect();
            let before = Spent::now();
            let outcomes = books.settle(&batch).await;
            settling.add_since(&before);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled(_))));
            waiting.push(batch);
        }
        if number >= LATER {
            let batch = &waiting[number - LATER];
            let receipts: Vec<Receipt> = batch.iter().map(|s| receipt_of(&books.keys, s)).collect();
            let provider = &providers[(number - LATER) % PROVIDERS];
            let signed = provider.signed(receipts);
            let before = Spent::now();
            let verdicts = books.take(provider, &signed).await;
            attaching.add_since(&before);
            assert!(verdicts.iter().all(|verdict| *verdict == ReceiptVerdict::Committed), "{verdicts:?}");
        }
    }
    let jobs = batches * BATCH;
    settling.per_job("settling", jobs);
    attaching.per_job("receipts", jobs);
    let bytes = (settling.bytes + attaching.bytes) / jobs as u64;
    assert!(bytes <= MOST_BYTES, "{bytes} bytes per job");
    books.finish().await;
}

fn settlement(books: &Books, (customer, template): &(Customer, Ticket), provider: &Provider) -> Settlement {
    let job = JobId::fresh();
    let ticket = Ticket {
        public_id: format!("chatcmpl-{job}"),
        job: job.to_string(),
        provider: provider.id.to_string(),
        ..template.clone()
    };
    let came = Some(claims(tokens(10, 20)));
    Settlement { receipt: came, ..customer.settlement(books, ticket, tokens(10, 20)) }
}
