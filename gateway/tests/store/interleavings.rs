//! Gateways on one set of books, with everything that can happen to them in random order: jobs that are admitted, settled
//! or left by their client, receipts that are late, inflated or repeated, replicas that crash or freeze, leases that end,
//! credit bought, given and paid back, earnings that mature, are clawed back, paid out and reversed. After every step the books balance, nobody is below zero, no job was charged twice, above
//! its ceiling or for more than was delivered, and all the money that came in is still somewhere.
//!
//! What a gateway spends from memory is the real thing here: [`Allowances`], with Redis between two gateways on Postgres.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lumbung_gateway::chat::allowance::{Allowances, Hold, HoldError};
use lumbung_gateway::domain::ids::{AccountId, KeyId, ReplicaId};
use lumbung_gateway::domain::posting::LedgerId;
use lumbung_gateway::domain::settlement::Tokens;
use lumbung_gateway::store::{
    Bus, Claw, CreditKind, Lease, PayoutTerms, Redis, SettleOutcome, Settlement, StoreErrorKind, Verdict,
};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::ReceiptVerdict;
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::voucher::Voucher;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{AnyPool, Row};

use crate::support::{Books, CLAIM_WINDOW, Customer, LEASE, Provider, claims, nanos, tokens};

/// Interleavings that share a set of books, each with its own people: making books takes longer than an interleaving.
const PER_BOOKS: u64 = 10;
const STEPS: usize = 25;
const ACCOUNTS: usize = 2;
const CREDIT: i64 = 2_000_000;
/// Promotional credit beside it, which is spent first.
const GIFT: i64 = 300_000;
/// How long earnings stay pending.
const HOLDBACK: Duration = Duration::from_secs(60);

/// How many in all: half of them on each database.
fn interleavings() -> u64 {
    match std::env::var_os("LUMBUNG_TEST_FULL") {
        Some(_) => 10_000,
        None => 1_000,
    }
}

/// A gateway, as far as money is concerned.
struct Replica {
    lease: Lease,
    allowances: Arc<Allowances>,
    /// It does not renew its lease, and comes to itself at some later step.
    frozen: bool,
    /// Where the world's clock stands when its lease ends, as far as it knows.
    until: u64,
    recalls: Option<tokio::task::JoinHandle<()>>,
}

impl Replica {
    async fn start(books: &Books, redis: Option<&str>, now: u64) -> Self {
        let lease = books.replica().await;
        let bus = match redis {
            Some(url) => {
                let redis = Redis::open(url, None).expect("a Redis");
                Some(Arc::new(Bus::open(redis, &books.store, lease.replica).await.expect("a bus")))
            }
            None => None,
        };
        let allowances = Arc::new(Allowances::new(books.store.clone(), bus.clone(), lease.replica));
        let recalls = bus.map(|bus| {
            let allowances = allowances.clone();
            tokio::spawn(async move {
                bus.serve(|account: AccountId| {
                    let allowances = allowances.clone();
                    async move { allowances.give_back_of(&account).await.expect("given back") }
                })
                .await;
            })
        });
        Self { lease, allowances, frozen: false, until: now + LEASE.as_secs(), recalls }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(recalls) = &self.recalls {
            recalls.abort();
        }
    }
}

/// A job and all that is known of it from outside.
struct Job {
    ticket: Ticket,
    account: usize,
    provider: usize,
    /// Which replica runs it, and the money that it holds there; none once it is over.
    running: Option<(ReplicaId, Hold)>,
    /// What the gateway wrote down, where it lived to do so.
    settlement: Option<Settlement>,
    /// What the gateway received and the client got.
    delivered: Tokens,
    /// Completion tokens in the last voucher.
    vouched: Option<u32>,
}

struct World<'a> {
    books: &'a Books,
    /// For looks past the store.
    sql: &'a AnyPool,
    redis: Option<&'a str>,
    random: StdRng,
    /// Seconds by which the databases' clock runs ahead.
    now: u64,
    accounts: Vec<AccountId>,
    providers: Vec<Provider>,
    replicas: Vec<Replica>,
    jobs: Vec<Job>,
    paid_in: i64,
    /// By what was done; so that a test that does nothing is noticed.
    done: HashMap<&'static str, u64>,
}

impl<'a> World<'a> {
    async fn new(
        books: &'a Books,
        sql: &'a AnyPool,
        redis: Option<&'a str>,
        replicas: usize,
        seed: u64,
        paid_before: i64,
    ) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let (mut accounts, mut running) = (Vec::new(), Vec::new());
        for _ in 0..ACCOUNTS {
            let account = books.account_with(nanos(CREDIT)).await;
            books.store.add_credit(&account, nanos(GIFT), CreditKind::Promotional, "").await.expect("credit");
            accounts.push(account);
        }
        for _ in 0..replicas {
            running.push(Replica::start(books, redis, 0).await);
        }
        let providers: Vec<Provider> = (0..2).map(|number| Provider::new((2 * seed + number) as u8)).collect();
        for provider in &providers {
            books.store.register_provider(&provider.id).await.expect("joined");
            books.store.set_payout_details(&provider.id, "an account").await.expect("details");
        }
        let paid_in = paid_before + (CREDIT + GIFT) * ACCOUNTS as i64;
        let (jobs, done) = (Vec::new(), HashMap::new());
        Self { books, sql, redis, random, now: 0, accounts, providers, replicas: running, jobs, paid_in, done }
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.admit().await,
            30..50 => self.end_job().await,
            50..68 => self.offer().await,
            68..74 => self.let_time_pass().await,
            74..78 => self.crash().await,
            78..81 => self.freeze(),
            81..83 => self.thaw(),
            83..85 => self.add_credit().await,
            85..86 => self.refund().await,
            86..88 => self.give_back_idle().await,
            88..89 => self.count("release", self.books.store.release_ended(CLAIM_WINDOW).await.expect("an answer")),
            89..91 => self.count("reclaim", self.books.store.reclaim_withheld().await.expect("an answer")),
            91..92 => self.count("mature", self.books.store.mature(HOLDBACK).await.expect("an answer")),
            92..94 => self.claw_back().await,
            94..97 => self.decide_promotional().await,
            97..98 => self.pay_out().await,
            _ => self.count("roll_up", self.books.store.roll_up().await.expect("an answer")),
        }
    }

    fn count(&mut self, what: &'static str, times: u64) {
        *self.done.entry(what).or_default() += times;
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random.random_range(0..below)
    }

    /// A request comes in, at a replica that admits.
    async fn admit(&mut self) {
        let (at, account, provider) =
            (self.pick(self.replicas.len()), self.pick(ACCOUNTS), self.pick(self.providers.len()));
        let replica = &self.replicas[at];
        if replica.frozen || self.now >= replica.until {
            return self.count("not admitted", 1);
        }
        let allowances = replica.allowances.clone();
        let allowance = allowances.of(&self.accounts[account]);
        let ceiling = nanos(self.random.random_range(1..700_000));
        let hold = match allowances.hold(&allowance, ceiling).await {
            Ok(hold) => hold,
            Err(HoldError::InsufficientCredit) => {
                let balance = self.books.store.account_balance(&self.accounts[account]).await.expect("a balance");
                assert!(balance.credit < ceiling, "{} would have been enough for {ceiling}", balance.credit);
                return self.count("refused", 1);
            }
            Err(HoldError::Store(error)) => panic!("{error}"),
        };
        let customer = Customer {
            account: self.accounts[account],
            key: KeyId::fresh(),
            lease: self.replicas[at].lease.clone(),
            allowance: *hold.allowance(),
        };
        let ticket = customer.ticket(self.books, &self.providers[provider]).await;
        let ticket = Ticket { ceiling: ceiling.min(ticket.ceiling), ..ticket };
        let delivered = tokens(self.random.random_range(0..=100), self.random.random_range(0..=200));
        let vouched = self.random.random_bool(0.8).then(|| self.random.random_range(0..=delivered.completion));
        let running = Some((self.replicas[at].lease.replica, hold));
        self.jobs.push(Job { ticket, account, provider, running, settlement: None, delivered, vouched });
        self.count("admitted", 1);
    }

    /// A running job ends: whole, or cut off by its client. A frozen replica's jobs end when it is itself again.
    async fn end_job(&mut self) {
        let awake = |job: &Job| {
            let running = job.running.as_ref().map(|(replica, _)| *replica);
            running.is_some_and(|id| self.replicas.iter().any(|r| r.lease.replica == id && !r.frozen))
        };
        let candidates: Vec<usize> = (0..self.jobs.len()).filter(|at| awake(&self.jobs[*at])).collect();
        if candidates.is_empty() {
            return;
        }
        let at = candidates[self.pick(candidates.len())];
        let with_receipt = self.random.random_bool(0.5);
        let account = self.accounts[self.jobs[at].account];
        let job = &mut self.jobs[at];
        let receipt = with_receipt.then(|| claims(job.delivered));
        let (_, hold) = job.running.take().expect("it runs");
        let key = KeyId::fresh();
        let customer = Customer { account, key, lease: self.replicas[0].lease.clone(), allowance: *hold.allowance() };
        let settlement = Settlement { receipt, ..customer.settlement(self.books, job.ticket.clone(), job.delivered) };
        hold.spend(settlement.charge.amount);
        job.settlement = Some(settlement.clone());
        let outcomes = self.books.settle(&[settlement.clone(), settlement]).await;
        assert_eq!(outcomes[1], SettleOutcome::Already, "the same attempt in one batch");
        self.count("settled", 1);
        self.count("uncovered", u64::from(outcomes[0] == SettleOutcome::Uncovered));
    }

    /// A receipt is handed in: in time or late, once or again, true or inflated; or a gateway settles a job again.
    async fn offer(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let at = self.pick(self.jobs.len());
        if self.random.random_bool(0.2)
            && let Some(settlement) = self.jobs[at].settlement.clone()
        {
            let outcomes = self.books.settle(&[settlement]).await;
            assert_eq!(outcomes, [SettleOutcome::Already]);
            return self.count("settled again", 1);
        }
        let job = &self.jobs[at];
        let inflation = [100, 100, 105, 200][self.random.random_range(0..4)];
        // The prompt is the provider's word, within the ticket; the completion is not.
        let claimed = tokens(job.delivered.prompt, (job.delivered.completion * inflation / 100).min(200));
        let provider = &self.providers[job.provider];
        let mut receipt = provider.receipt(self.books, &job.ticket, claimed);
        receipt.voucher = job.vouched.map(|tokens| {
            let Ticket { job, attempt, ceiling, .. } = job.ticket.clone();
            self.books.keys.sign_voucher(&Voucher { job, attempt, tokens, ceiling })
        });
        let verdicts = self.books.offer(provider, vec![receipt.clone(), receipt]).await;
        assert_eq!(verdicts[0], verdicts[1], "the same receipt twice in a batch");
        let is_settled = self.charges().await.contains_key(&job.ticket.job);
        match &verdicts[0] {
            ReceiptVerdict::Committed => assert!(is_settled),
            ReceiptVerdict::Pending => assert!(!is_settled, "only a job that may still be settled is left open"),
            ReceiptVerdict::Refused { .. } => {}
        }
        self.count("offered", 1);
    }

    /// What has been charged, by job.
    async fn charges(&self) -> HashMap<String, i64> {
        let select = "SELECT job, CAST(SUM(charge) AS BIGINT) FROM attempts GROUP BY job";
        let rows = sqlx::query(select).fetch_all(self.sql).await.expect("rows");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// The databases' clock moves on; replicas that are awake renew their leases, or find them lost and start again.
    async fn let_time_pass(&mut self) {
        let secs = [1, 3, 8, 40, 700][self.random.random_range(0..5)];
        self.books.store.shift_clock(Duration::from_secs(secs));
        self.now += secs;
        for at in 0..self.replicas.len() {
            let replica = &mut self.replicas[at];
            if replica.frozen {
                continue;
            }
            match self.books.store.renew_lease(&mut replica.lease).await.expect("an answer") {
                true => replica.until = self.now + LEASE.as_secs(),
                false => self.restart(at).await,
            }
        }
        self.count("time", 1);
    }

    /// The process is gone, with all it knew.
    async fn crash(&mut self) {
        let at = self.pick(self.replicas.len());
        let gone = self.replicas[at].lease.replica;
        for job in &mut self.jobs {
            job.running.take_if(|(replica, _)| *replica == gone);
        }
        self.restart(at).await;
        self.count("crash", 1);
    }

    async fn restart(&mut self, at: usize) {
        self.replicas[at] = Replica::start(self.books, self.redis, self.now).await;
    }

    fn freeze(&mut self) {
        let at = self.pick(self.replicas.len());
        self.replicas[at].frozen = true;
        self.count("frozen", 1);
    }

    /// It goes on where it was. Its own clock tells it whether its lease still runs.
    fn thaw(&mut self) {
        let at = self.pick(self.replicas.len());
        self.replicas[at].frozen = false;
    }

    async fn add_credit(&mut self) {
        let (account, amount) = (self.pick(ACCOUNTS), self.random.random_range(1..1_000_000));
        let account = self.accounts[account];
        let kind = if self.random.random_bool(0.5) { CreditKind::Paid } else { CreditKind::Promotional };
        self.books.store.add_credit(&account, nanos(amount), kind, "").await.expect("credit");
        self.paid_in += amount;
        self.count("credit", 1);
    }

    async fn refund(&mut self) {
        let (account, amount) = (self.pick(ACCOUNTS), self.random.random_range(1..500_000));
        match self.books.refund(&self.accounts[account], nanos(amount)).await {
            Ok(()) => {
                self.paid_in -= amount;
                self.count("refund", 1);
            }
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
    }

    async fn claw_back(&mut self) {
        let (provider, amount) = (self.pick(self.providers.len()), self.random.random_range(1..15_000));
        let claw = Claw::Amount(nanos(amount));
        match self.books.store.claw_back(&self.providers[provider].id, &claw, "tested", "").await {
            Ok(_) => self.count("clawback", 1),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
    }

    async fn decide_promotional(&mut self) {
        let provider = self.pick(self.providers.len());
        let verdict = if self.random.random_bool(0.5) { Verdict::Approved } else { Verdict::Refused };
        match self.books.store.decide_promotional(&self.providers[provider].id, None, verdict, "tested").await {
            Ok(decision) => {
                // What is refused is no money that was ever there: it goes back where gifts come from.
                self.paid_in -= if verdict == Verdict::Refused { decision.amount.nanos() } else { 0 };
                self.count("decision", 1);
            }
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
    }

    /// A run; each of its payouts arrives, comes back, or stays on its way.
    async fn pay_out(&mut self) {
        let store = &self.books.store;
        let terms = PayoutTerms { minimum: nanos(1), cooldown: Duration::ZERO, reference: String::new() };
        let run = store.create_payouts(&terms).await.expect("a run");
        let mut paid = 0;
        for payout in store.payouts_of(&run.id).await.expect("payouts") {
            paid += 1;
            match self.random.random_range(0..3) {
                0 => drop(store.reverse_payout(&payout.id).await.expect("reversed")),
                1 => {
                    store.confirm_payout(&payout.id, "transfer").await.expect("confirmed");
                    store.confirm_payout(&payout.id, "transfer").await.expect("confirmed again");
                    assert!(store.reverse_payout(&payout.id).await.is_err(), "what has arrived does not come back");
                    self.paid_in -= payout.amount.nanos();
                }
                _ => {}
            }
        }
        self.count("payout", paid);
    }

    async fn give_back_idle(&mut self) {
        let (at, account) = (self.pick(self.replicas.len()), self.pick(ACCOUNTS));
        if !self.replicas[at].frozen {
            self.replicas[at].allowances.give_back_of(&self.accounts[account]).await.expect("given back");
            self.count("given back", 1);
        }
    }

    async fn assert_sound(&self) {
        self.books.assert_right().await;
        let outside = self.books.store.balance(&LedgerId::outside()).await.expect("a balance");
        assert_eq!(outside.nanos(), -self.paid_in, "what came in is what is there");
        let charges = self.charges().await;
        for job in &self.jobs {
            let Some(charged) = charges.get(&job.ticket.job).map(|charged| nanos(*charged)) else { continue };
            let most = job.ticket.price.cost(job.delivered.prompt, job.delivered.completion).expect("a cost");
            assert!(charged <= most.min(job.ticket.ceiling), "{charged} charged, {most} at most");
        }
    }

    /// Long after everything has ended, all that was not charged is the accounts' credit again.
    async fn come_home(&mut self) {
        let store = &self.books.store;
        store.shift_clock(CLAIM_WINDOW + LEASE + Duration::from_secs(1));
        store.release_ended(CLAIM_WINDOW).await.expect("an answer");
        store.reclaim_withheld().await.expect("an answer");
        for account in &self.accounts {
            let balance = store.account_balance(account).await.expect("a balance");
            assert_eq!(balance.allowances, NanoUsd::ZERO, "nothing stays set aside");
        }
        self.assert_sound().await;
    }
}

async fn run(books: impl AsyncFn() -> Books, redis: Option<&str>, replicas: usize) {
    let mut done = HashMap::<&str, u64>::new();
    let mut left = interleavings() / 2;
    while left > 0 {
        let books = books().await;
        let sql = AnyPool::connect(&books.url).await.expect("the database answers");
        let mut paid_in = 0;
        for _ in 0..PER_BOOKS.min(left) {
            // The seed is in every message of a failure, because the test prints it first.
            eprintln!("interleaving {left}");
            let mut world = World::new(&books, &sql, redis, replicas, left, paid_in).await;
            for _ in 0..STEPS {
                world.step().await;
                world.assert_sound().await;
            }
            world.come_home().await;
            paid_in = world.paid_in;
            world.done.iter().for_each(|(what, times)| *done.entry(what).or_default() += times);
            left -= 1;
        }
        sql.close().await;
        books.finish().await;
    }
    eprintln!("{done:?}");
    for what in [
        "admitted",
        "refused",
        "not admitted",
        "settled",
        "settled again",
        "offered",
        "crash",
        "frozen",
        "release",
        "reclaim",
        "refund",
        "mature",
        "clawback",
        "decision",
        "payout",
    ] {
        assert!(done.get(what).is_some_and(|times| *times > 3), "hardly ever: {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_on_sqlite_keeps_right_books_whatever_happens() {
    run(Books::sqlite, None, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_postgres_keep_right_books_whatever_happens() {
    let redis = std::env::var("LUMBUNG_TEST_REDIS").expect("LUMBUNG_TEST_REDIS: run through `make test`");
    run(Books::postgres, Some(&redis), 2).await;
}
