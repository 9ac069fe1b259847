//! How fast the books are: the whole life of a job in them, without HTTP. The gateway's writer settles batches, the desk
//! takes signed receipts (the provider's signature, each ticket's HMAC, each leaf), and busy balances and usage are
//! rolled up meanwhile, as in a running gateway. `LUMBUNG_TEST_FULL=1` runs it for 20 seconds and asks for the speed that we promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lumbung_gateway::domain::ids::JobId;
use lumbung_gateway::fleet::receipts::ReceiptDesk;
use lumbung_gateway::store::{SettleOutcome, Settlement};
use lumbung_openapi::receipt::{ReceiptBatch, ReceiptVerdict};
use lumbung_openapi::ticket::Ticket;
use tokio::sync::mpsc;

use crate::on_both;
use crate::process::{cpu_of, own_cpu, resident_bytes, thread_cpu};
use crate::support::{Books, Customer, Provider, claims, receipt_of, tokens};

/// As the gateway's writer takes them.
const BATCH: usize = 256;
/// Receipts under one signature: of a provider that answers 64 requests a second.
const SIGNED: usize = 64;
const PROVIDERS: usize = 16;
/// Providers that hand in at the same time: each does it when it has something, whatever the others do.
const AT_THE_DESK: usize = 4;
const CUSTOMERS: usize = 50;

/// Jobs per second, and CPU per job of this process and the database together.
struct Promise {
    jobs_per_second: f64,
    cpu_us_per_job: f64,
}

impl Promise {
    /// In full mode what is promised; else so little that only a real step back fails, whatever else the machine does.
    fn of(books: &Books, full: bool) -> Self {
        match (books.is_postgres(), full) {
            (true, true) => Self { jobs_per_second: 3000.0, cpu_us_per_job: 660.0 },
            (true, false) => Self { jobs_per_second: 600.0, cpu_us_per_job: 1000.0 },
            (false, true) => Self { jobs_per_second: 1000.0, cpu_us_per_job: 660.0 },
            (false, false) => Self { jobs_per_second: 300.0, cpu_us_per_job: 1000.0 },
        }
    }
}

/// Settlements, and the signed receipts for them.
struct Lot {
    batches: Vec<Vec<Settlement>>,
    receipts: Vec<ReceiptBatch>,
}

/// Makes lots in a thread of its own, so that its CPU can be told from the books'.
struct Mint {
    providers: Vec<Provider>,
    customers: Vec<Customer>,
    templates: Vec<Ticket>,
}

impl Mint {
    async fn new(books: &Books) -> Self {
        let providers: Vec<Provider> = (1..=PROVIDERS as u8).map(Provider::new).collect();
        let (mut customers, mut templates) = (Vec::new(), Vec::new());
        for _ in 0..CUSTOMERS {
            let customer = books.customer("1000").await;
            templates.push(customer.ticket(books, &providers[0]).await);
            customers.push(customer);
        }
        Self { providers, customers, templates }
    }

    fn lot(&self, keys: &lumbung_gateway::store::SigningKeys) -> Lot {
        let settlement = |n: usize| {
            let (which, provider) = (n % self.customers.len(), &self.providers[n % PROVIDERS]);
            let job = JobId::fresh();
            let ticket = Ticket {
                public_id: format!("chatcmpl-{job}"),
                job: job.to_string(),
                provider: provider.id.to_string(),
                ..self.templates[which].clone()
            };
            let came = Some(claims(tokens(10, 20)));
            Settlement { receipt: came, ..self.customers[which].settlement_with(keys, ticket, tokens(10, 20)) }
        };
        let settlements: Vec<Settlement> = (0..PROVIDERS * SIGNED).map(settlement).collect();
        let signed = |(index, provider): (usize, &Provider)| {
            let own = settlements.iter().skip(index).step_by(PROVIDERS);
            ReceiptBatch::sign(&provider.key, own.map(|s| receipt_of(keys, s)).collect(), 1_700_000_000)
        };
        let receipts = self.providers.iter().enumerate().map(signed).collect();
        Lot { batches: settlements.chunks(BATCH).map(<[Settlement]>::to_vec).collect(), receipts }
    }

    /// Lots until nobody takes them any more; returns the CPU time that making them took.
    fn run(self, keys: lumbung_gateway::store::SigningKeys, lots: mpsc::Sender<Lot>) -> Duration {
        while lots.blocking_send(self.lot(&keys)).is_ok() {}
        thread_cpu()
    }
}

on_both! {
    async fn whole_lives_of_jobs_per_second(books: &Books) {
        let full = std::env::var_os("LUMBUNG_TEST_FULL").is_some();
        let (length, promise) = (Duration::from_secs(if full { 20 } else { 3 }), Promise::of(books, full));
        books.survive_power_cuts(true).await;
        let (make, mut lots) = mpsc::channel(2);
        let (mint, keys) = (Mint::new(books).await, books.keys.clone());
        let minting = std::thread::spawn(move || mint.run(keys, make));
        let (hand_in, mut handed_in) = mpsc::channel::<ReceiptBatch>(2 * PROVIDERS);
        let desk = ReceiptDesk::new(books.store.clone(), books.keys.clone());
        let committed = Arc::new(AtomicU64::new(0));
        let count = committed.clone();
        let desk = tokio::spawn(async move {
            let batches = futures_util::stream::poll_fn(|context| handed_in.poll_recv(context));
            let take = async |batch: ReceiptBatch| {
                let verdicts = desk.take(&batch, |_| true).await.expect("the batch is ours").verdicts;
                assert!(verdicts.iter().all(|verdict| *verdict == ReceiptVerdict::Committed), "{verdicts:?}");
                count.fetch_add(verdicts.len() as u64, Ordering::Relaxed);
            };
            batches.for_each_concurrent(AT_THE_DESK, take).await;
        });
        let (over, store) = (Arc::new(AtomicBool::new(false)), books.store.clone());
        let stop = over.clone();
        let tidy = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                store.roll_up().await.expect("answer");
                store.roll_up_usage().await.expect("answer");
            }
        });

        let database = books.database_processes().await;
        let cpu = || (own_cpu(), database.iter().map(|pid| cpu_of(*pid)).sum::<Duration>());
        let (started, cpu_before, mut memory) = (Instant::now(), cpu(), 0);
        while started.elapsed() < length {
            let lot = lots.recv().await.expect("the mint runs");
            for batch in &lot.batches {
                let outcomes = books.settle(batch).await;
                assert!(outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled(_))));
            }
            for batch in lot.receipts {
                hand_in.send(batch).await.expect("the desk is open");
            }
            if memory == 0 && started.elapsed() > length / 3 {
                memory = resident_bytes();
            }
        }
        drop((lots, hand_in));
        desk.await.expect("no receipt is refused");
        let (elapsed, cpu_after) = (started.elapsed(), cpu());
        over.store(true, Ordering::Relaxed);
        tidy.await.expect("rolled up");
        let minted = minting.join().expect("the mint ends");
        books.survive_power_cuts(false).await;

        let jobs = committed.load(Ordering::Relaxed) as f64;
        let per_job = |cpu: Duration| cpu.as_secs_f64() * 1e6 / jobs;
        let (own, theirs) = (per_job(cpu_after.0 - cpu_before.0 - minted), per_job(cpu_after.1 - cpu_before.1));
        let rate = jobs / elapsed.as_secs_f64();
        let grown = resident_bytes().saturating_sub(memory);
        println!(
            "{}: {rate:.0} jobs/s for {:.1} s; CPU per job: {own:.0} µs here, {theirs:.0} µs in the database; memory grew by {:.1} MiB",
            if books.is_postgres() { "Postgres" } else { "SQLite" },
            elapsed.as_secs_f64(),
            grown as f64 / f64::from(1 << 20),
        );
        assert!(rate >= promise.jobs_per_second, "{rate:.0} jobs/s");
        assert!(own + theirs <= promise.cpu_us_per_job, "{:.0} µs of CPU per job", own + theirs);
        assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    }
}
