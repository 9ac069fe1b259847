//! Ten thousand accounts and a million jobs in the books (a hundred thousand without `LUMBUNG_TEST_FULL=1`): questions
//! about usage and invoices answer within a second, the check finds nothing wrong, and what requests wait for costs what
//! it cost in empty books.

use std::time::{Duration, Instant};

use lumbung_gateway::domain::calendar::Day;
use lumbung_gateway::domain::ids::JobId;
use lumbung_gateway::store::{SettleOutcome, Settlement, UsageBy, UsageLine, UsageQuestion};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;

use crate::fill::{answer, busiest, fill, quietest};
use crate::support::{Books, Customer, Provider, tokens, usd};

const ACCOUNTS: i64 = 10_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_on_sqlite() {
    let (empty, full) = (Books::sqlite().await, Books::sqlite().await);
    many_jobs(empty, full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_on_postgres() {
    let (empty, full) = (Books::postgres().await, Books::postgres().await);
    many_jobs(empty, full).await;
}

async fn many_jobs(empty: Books, full: Books) {
    let jobs = if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { 1_000_000 } else { 100_000 };
    let started = Instant::now();
    fill(&full, ACCOUNTS, jobs).await;
    println!("filled with {jobs} jobs in {:.1} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    full.assert_right().await;
    println!("checked in {:.1} s", started.elapsed().as_secs_f64());
    questions(&full, jobs).await;
    invoices(&full).await;
    answers(&full).await;
    hot_path(&empty, &full).await;
    full.assert_right().await;
    full.remove().await;
    empty.finish().await;
}

/// One page of an answer, in time.
async fn ask(books: &Books, what: &str, question: &UsageQuestion) -> Vec<UsageLine> {
    let started = Instant::now();
    let page = books.store.usage(question).await.expect("an answer");
    let took = started.elapsed();
    println!("usage {what}: {} lines in {} ms", page.lines.len(), took.as_millis());
    assert!(took < ANSWER_WITHIN, "usage {what} took {took:?}");
    page.lines
}

async fn questions(books: &Books, jobs: i64) {
    use UsageBy::{Account, Day as ByDay, Key, Model, Provider};
    let by = |by: &[UsageBy]| UsageQuestion { by: by.to_vec(), ..Default::default() };
    let whole = ask(books, "of all", &by(&[])).await[0].used;
    assert_eq!(whole.requests, jobs);
    for (what, columns) in [
        ("by day", &[ByDay][..]),
        ("by model", &[Model]),
        ("by provider", &[Provider]),
        ("by model and day", &[Model, ByDay]),
    ] {
        let lines = ask(books, what, &by(columns)).await;
        let sum = |of: &dyn Fn(&UsageLine) -> i64| lines.iter().map(of).sum::<i64>();
        let charge = whole.charge.nanos();
        assert_eq!((sum(&|line| line.used.requests), sum(&|line| line.used.charge.nanos())), (jobs, charge), "{what}");
    }
    for (what, columns) in [
        ("by account", &[Account][..]),
        ("by account and day", &[Account, ByDay]),
        ("by key and model", &[Key, Model]),
        ("by account and provider", &[Account, Provider]),
        ("by everything", &[Account, Key, Model, Provider, ByDay]),
    ] {
        let first = UsageQuestion { limit: 1000, ..by(columns) };
        let page = books.store.usage(&first).await.expect("an answer");
        assert_eq!(ask(books, what, &first).await.len(), 1000);
        ask(books, &format!("{what}, the next page"), &UsageQuestion { after: page.next, ..first }).await;
    }
    let today = Day::of_us(books.store.now_us().await.expect("the clock"));
    let week = UsageQuestion { from: Some(Day::from_number(today.number() - 7)), until: Some(today), ..by(&[Account]) };
    ask(books, "by account, a week", &week).await;
    let provider = crate::support::Provider::new(103).id;
    ask(books, "by account, at one provider", &UsageQuestion { provider: Some(provider), ..by(&[Account]) }).await;
    let own = UsageQuestion { account: Some(busiest()), ..by(&[Key, Model, Provider, ByDay]) };
    assert!(!ask(books, "of the busiest account, by everything", &own).await.is_empty());
}

async fn invoices(books: &Books) {
    let month = Day::of_us(books.store.now_us().await.expect("the clock")).month();
    for account in [busiest(), quietest(ACCOUNTS)] {
        let started = Instant::now();
        let invoice = books.store.invoice(&account, month).await.expect("an invoice");
        let took = started.elapsed();
        println!("invoice over {} lines of usage in {} ms", invoice.usage.len(), took.as_millis());
        assert!(took < ANSWER_WITHIN, "an invoice took {took:?}");
        assert_eq!(invoice.closing, books.spendable(&account).await);
    }
}

/// One answer is found as quickly among the many of a busy account as among the few of another.
async fn answers(books: &Books) {
    let mut ratios = Vec::new();
    for _ in 0..4 {
        let [mut among_many, mut among_few] = [Vec::new(), Vec::new()];
        for _ in 0..31 {
            for (job, times) in [(0, &mut among_many), (1, &mut among_few)] {
                let (account, id) = answer(job, ACCOUNTS);
                let started = Instant::now();
                let found = books.store.generation(&account, &id).await.expect("an answer");
                drop(books.store.job_receipt(&account, &id).await); // looked up the same way; these have no proofs
                times.push(started.elapsed());
                assert!(found.is_some(), "{id}");
            }
        }
        let (many, few) = (median(&among_many), median(&among_few));
        println!("an answer and its receipt: {} µs among many, {} among few", many.as_micros(), few.as_micros());
        ratios.push(many.as_secs_f64() / few.as_secs_f64());
        if ratios.iter().any(|ratio| *ratio < 3.0) {
            assert_eq!(answer(0, ACCOUNTS).0, busiest());
            return;
        }
    }
    panic!("slower in a busy account: {ratios:?}");
}

/// What requests wait for, or what is done for each of them.
struct Hot<'a> {
    books: &'a Books,
    customer: Customer,
    template: Ticket,
}

/// How long each took.
#[derive(Clone, Debug, Default)]
struct Took {
    settle: Vec<Duration>,
    find_key: Vec<Duration>,
    reserve: Vec<Duration>,
}

impl<'a> Hot<'a> {
    async fn on(books: &'a Books) -> Self {
        let customer = books.customer("100000").await;
        let template = customer.ticket(books, &Provider::new(1)).await;
        Self { books, customer, template }
    }

    async fn turn(&self, took: &mut Took) {
        let settlement = |_| {
            let ticket = Ticket { job: JobId::fresh().to_string(), ..self.template.clone() };
            self.customer.settlement(self.books, ticket, tokens(10, 20))
        };
        let batch: Vec<Settlement> = (0..256).map(settlement).collect();
        let started = Instant::now();
        let outcomes = self.books.settle(&batch).await;
        took.settle.push(started.elapsed());
        assert!(outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled(_))));
        for _ in 0..20 {
            let started = Instant::now();
            assert_eq!(self.books.store.find_key(&[7; 32]).await.expect("answer"), None);
            took.find_key.push(started.elapsed());
            let started = Instant::now();
            let (account, replica) = (&self.customer.account, &self.customer.lease.replica);
            let reserved = self.books.store.reserve(account, replica, usd("0.01"), NanoUsd::ZERO).await;
            took.reserve.push(started.elapsed());
            assert!(reserved.expect("answer").is_some());
        }
    }
}

/// In turns, so that whatever else the machine does meets both; and once more where it met only one.
async fn hot_path(empty: &Books, full: &Books) {
    let (empty, full) = (Hot::on(empty).await, Hot::on(full).await);
    let mut ratios = Vec::new();
    for _ in 0..4 {
        let (mut in_empty, mut in_full) = (Took::default(), Took::default());
        for turn in 0..17 {
            let (mut warm_up, mut other) = (Took::default(), Took::default());
            let is_warm = turn > 1;
            empty.turn(if is_warm { &mut in_empty } else { &mut warm_up }).await;
            full.turn(if is_warm { &mut in_full } else { &mut other }).await;
        }
        let ratio =
            |of: fn(&Took) -> &[Duration]| median(of(&in_full)).as_secs_f64() / median(of(&in_empty)).as_secs_f64();
        ratios = vec![ratio(|t| &t.settle), ratio(|t| &t.find_key), ratio(|t| &t.reserve)];
        println!(
            "settle 256 jobs: {:.1} ms ({:.2} of empty books), find a key: {} µs ({:.2}), reserve: {} µs ({:.2})",
            median(&in_full.settle).as_secs_f64() * 1e3,
            ratios[0],
            median(&in_full.find_key).as_micros(),
            ratios[1],
            median(&in_full.reserve).as_micros(),
            ratios[2],
        );
        if ratios.iter().all(|ratio| *ratio <= 1.3) {
            return;
        }
    }
    panic!("slower than in empty books: {ratios:?}");
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}
