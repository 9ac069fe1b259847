//! Books of one's own, and the people in them.

use std::time::Duration;

use lumbung_gateway::domain::ids::{AccountId, AllowanceId, JobId, KeyId, ProviderId, ReplicaId};
use lumbung_gateway::domain::posting::LedgerId;
use lumbung_gateway::domain::role::{Actor, Role};
use lumbung_gateway::domain::settlement::{Charge, Counted, Tokens};
use lumbung_gateway::store::{
    ActRequest, AuditLine, Begun, CreditKind, Lease, SettleOutcome, Settlement, SigningKeys, Store, StoreError,
};
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptClaims, ReceiptVerdict};
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::voucher::Voucher;
use sqlx::{AnyPool, AssertSqlSafe, Row};

/// Declares tests that run on both databases and end with a check of the books.
#[macro_export]
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($books:ident: &Books) $body:block)+) => {
        $(
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                async fn body($books: &$crate::support::Books) $body

                $(#[$meta])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    let books = $crate::support::Books::sqlite().await;
                    body(&books).await;
                    books.finish().await;
                }

                $(#[$meta])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    let books = $crate::support::Books::postgres().await;
                    body(&books).await;
                    books.finish().await;
                }
            }
        )+
    };
}

pub fn usd(text: &str) -> NanoUsd {
    text.parse().expect("an amount")
}

pub fn nanos(nanos: i64) -> NanoUsd {
    NanoUsd::from_nanos(nanos)
}

/// How long the leases of these tests run.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long receipts may be offered after a replica's lease has ended.
pub const CLAIM_WINDOW: Duration = Duration::from_secs(600);

pub struct Books {
    pub store: Store,
    pub url: String,
    pub keys: SigningKeys,
    server: Option<(String, String)>,
    _folder: Option<tempfile::TempDir>,
}

impl Books {
    pub async fn sqlite() -> Self {
        // In memory where there is such a folder: nothing here outlives a power cut, and a commit then costs no disk.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("books.db").display());
        Self::open(url, None, Some(folder)).await
    }

    pub async fn postgres() -> Self {
        let server = std::env::var("LUMBUNG_TEST_POSTGRES")
            .expect("LUMBUNG_TEST_POSTGRES names no server: run these tests through `make test`");
        let name = format!("books_{}", JobId::fresh()).to_lowercase();
        execute(&server, format!("CREATE DATABASE {name}")).await;
        let at = server.rfind('/').expect("a database in the URL");
        let parameters = server[at..].find('?').map_or("", |question| &server[at + question..]);
        let url = format!("{}/{name}{parameters}", &server[..at]);
        Self::open(url, Some((server, name)), None).await
    }

    async fn open(url: String, server: Option<(String, String)>, folder: Option<tempfile::TempDir>) -> Self {
        let store = Store::open(&url).await.expect("the books open");
        let keys = store.signing_keys().await.expect("signing keys");
        Self { store, url, keys, server, _folder: folder }
    }

    /// Checks the books and takes them away.
    pub async fn finish(self) {
        self.assert_right().await;
        self.remove().await;
    }

    pub async fn remove(self) {
        self.store.close().await;
        if let Some((server, name)) = &self.server {
            execute(server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }

    pub async fn assert_right(&self) {
        let report = self.store.books_check().await.expect("a report");
        assert_eq!(report.differences, Vec::<String>::new());
    }

    /// Another process on the same books.
    pub async fn other_process(&self) -> Store {
        Store::open(&self.url).await.expect("the books open")
    }

    pub fn is_postgres(&self) -> bool {
        self.server.is_some()
    }

    /// Every process of the database's, but for those that serve other databases; none for SQLite.
    pub async fn database_processes(&self) -> Vec<i64> {
        if !self.is_postgres() {
            return Vec::new();
        }
        let pool = AnyPool::connect(&self.url).await.expect("a connection");
        let pids =
            "SELECT CAST(pid AS BIGINT) FROM pg_stat_activity WHERE datname IS NULL OR datname = current_database()";
        let rows = sqlx::query(pids).fetch_all(&pool).await.expect("answer");
        pool.close().await;
        rows.iter().map(|row| row.try_get(0).expect("a number")).collect()
    }

    /// Whether what is committed survives a power cut, as it does in operation; the tests' Postgres need not, to be quicker.
    /// For the whole server.
    pub async fn survive_power_cuts(&self, survive: bool) {
        if self.is_postgres() {
            self.sql(if survive { "ALTER SYSTEM SET fsync = on" } else { "ALTER SYSTEM RESET fsync" }).await;
            self.sql("SELECT pg_reload_conf()").await;
        }
    }

    /// SQL past the store, for tests that damage the books or look at them.
    pub async fn sql(&self, sql: &str) {
        execute(&self.url, sql.to_owned()).await;
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let pool = AnyPool::connect(&self.url).await.expect("a connection");
        let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&pool).await.expect("one row");
        let number = row.try_get(0).expect("a number");
        pool.close().await;
        number
    }

    pub async fn account_with(&self, credit: NanoUsd) -> AccountId {
        let account = self.store.create_account("someone").await.expect("an account");
        self.store.add_credit(&account.id, credit, CreditKind::Paid, "").await.expect("credit");
        account.id
    }

    /// Pays credit back, as an operator does.
    pub async fn refund(&self, account: &AccountId, amount: NanoUsd) -> Result<(), StoreError> {
        let actor = Actor { subject: "ana".into(), issuer: "here".into(), role: Role::Billing };
        let [method, route, resource, request_id, idempotency_key] = std::array::from_fn(|_| String::new());
        let line = AuditLine { actor, method, route, resource, status: 0, request_id, idempotency_key };
        let request = ActRequest { line, fingerprint: Hash::of(b"request") };
        let Begun::Fresh(mut act) = self.store.begin(request).await? else {
            panic!("without an idempotency key every act is fresh");
        };
        act.refund(account, amount, "").await?;
        act.finish(201, "", "{}").await
    }

    pub async fn spendable(&self, account: &AccountId) -> NanoUsd {
        self.store.account_balance(account).await.expect("a balance").spendable
    }

    pub async fn replica(&self) -> Lease {
        let acquired = self.store.acquire_lease(&ReplicaId::fresh(), LEASE, false).await.expect("the books answer");
        acquired.expect("no exclusive lease is in the way")
    }

    pub async fn pending(&self, provider: &Provider) -> NanoUsd {
        self.store.earnings(&provider.id).await.expect("earnings").pending
    }

    pub async fn revenue(&self) -> NanoUsd {
        self.store.balance(&LedgerId::revenue()).await.expect("a balance")
    }

    /// A customer with `credit` who has set some of it aside at a running replica.
    pub async fn customer(&self, credit: &str) -> Customer {
        let account = self.account_with(usd(credit)).await;
        let (key, _) = self.store.create_key(&account, "test").await.expect("a key");
        let lease = self.replica().await;
        let need = nanos(usd(credit).nanos() / 2);
        let reserved =
            self.store.reserve(&account, &lease.replica, need, NanoUsd::ZERO).await.expect("the books answer");
        let allowance = reserved.expect("enough credit").allowance;
        Customer { account, key: key.id, lease, allowance }
    }

    pub async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.store.settle(batch, &self.keys).await.expect("the books answer")
    }

    /// Offers receipts as the gateway's desk does: the tickets verified.
    pub async fn offer(&self, provider: &Provider, receipts: Vec<Receipt>) -> Vec<ReceiptVerdict> {
        self.take(provider, &provider.signed(receipts)).await
    }

    /// Takes a signed batch as the desk does.
    pub async fn take(&self, provider: &Provider, batch: &ReceiptBatch) -> Vec<ReceiptVerdict> {
        let (_, leaves) = batch.verify().expect("signed just now");
        let backings: Vec<_> = batch.receipts.iter().map(|receipt| self.keys.backing(receipt)).collect();
        self.store.commit_receipts(&provider.id, batch, &leaves, &backings).await.expect("the books answer")
    }

    pub async fn now_secs(&self) -> u64 {
        self.store.now_us().await.expect("the clock").unsigned_abs() / 1_000_000
    }
}

async fn execute(url: &str, sql: String) {
    sqlx::any::install_default_drivers();
    let pool = AnyPool::connect(url).await.expect("the database answers");
    sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.expect("the statement runs");
    pool.close().await;
}

pub struct Customer {
    pub account: AccountId,
    pub key: KeyId,
    pub lease: Lease,
    pub allowance: AllowanceId,
}

impl Customer {
    /// A ticket for 100 prompt and 200 completion tokens at 1 and 2 dollars per million, a tenth for the operator.
    pub async fn ticket(&self, books: &Books, provider: &Provider) -> Ticket {
        let price = TokenPrice { prompt: usd("1"), completion: usd("2") };
        let now = books.now_secs().await;
        let job = JobId::fresh();
        Ticket {
            replica: self.lease.replica.to_string(),
            allowance: self.allowance.to_string(),
            job: job.to_string(),
            attempt: 1,
            first_token: 0,
            provider: provider.id.to_string(),
            model: "tiny".into(),
            digests: vec![],
            price,
            fee_bps: 1000,
            max_prompt_tokens: 100,
            max_completion_tokens: 200,
            whole: false,
            ceiling: price.cost(100, 200).expect("a cost"),
            request_sha256: Hash::of(b"request"),
            public_id: format!("chatcmpl-{job}"),
            public_model: "tiny".into(),
            created: now,
            start_by: now + 10,
            claim_by: now + 300,
        }
    }

    /// What the gateway hands to the books when an attempt is over, without the provider's receipt.
    pub fn settlement(&self, books: &Books, ticket: Ticket, tokens: Tokens) -> Settlement {
        self.settlement_with(&books.keys, ticket, tokens)
    }

    pub fn settlement_with(&self, keys: &SigningKeys, ticket: Ticket, tokens: Tokens) -> Settlement {
        let charge = Charge::of(&ticket, tokens, NanoUsd::MAX);
        Settlement {
            ticket_text: keys.sign_ticket(&ticket),
            account: self.account,
            key: self.key,
            counted: Counted {
                prompt_tokens: tokens.prompt,
                cached_tokens: 0,
                completion_tokens: tokens.completion,
                delivered_sha256: Some(delivered(tokens)),
                finish_reason: "stop".into(),
                received_us: 0,
                started_us: 1,
                first_token_us: Some(2),
                finished_us: 2,
            },
            receipt: None,
            charge,
            recount: None,
            ticket,
        }
    }
}

pub struct Provider {
    pub key: SigningKey,
    pub id: ProviderId,
}

impl Provider {
    pub fn new(seed: u8) -> Self {
        let key = SigningKey::from_seed(&[seed; 32]);
        Self { id: ProviderId::from(key.public()), key }
    }

    /// A receipt for a ticket.
    pub fn receipt(&self, books: &Books, ticket: &Ticket, tokens: Tokens) -> Receipt {
        Receipt { ticket: books.keys.sign_ticket(ticket), claims: claims(tokens), voucher: None }
    }

    /// Receipts under its signature.
    pub fn signed(&self, receipts: Vec<Receipt>) -> ReceiptBatch {
        ReceiptBatch::sign(&self.key, receipts, 1_700_000_000)
    }

    /// A receipt, and the gateway's word that so many tokens arrived.
    pub fn vouched_receipt(&self, books: &Books, ticket: &Ticket, tokens: Tokens) -> Receipt {
        let voucher = Some(voucher(&books.keys, ticket, tokens));
        Receipt { voucher, ..self.receipt(books, ticket, tokens) }
    }
}

/// The receipt that came with an answer, with its last voucher.
pub fn receipt_of(keys: &SigningKeys, settlement: &Settlement) -> Receipt {
    let counted = tokens(settlement.counted.prompt_tokens, settlement.counted.completion_tokens);
    Receipt {
        ticket: settlement.ticket_text.clone(),
        claims: settlement.receipt.clone().expect("it came with the answer"),
        voucher: Some(voucher(keys, &settlement.ticket, counted)),
    }
}

fn voucher(keys: &SigningKeys, ticket: &Ticket, tokens: Tokens) -> String {
    let (job, attempt) = (ticket.job.clone(), ticket.attempt);
    keys.sign_voucher(&Voucher { job, attempt, tokens: tokens.completion, ceiling: ticket.ceiling })
}

pub fn claims(tokens: Tokens) -> String {
    let claims = ReceiptClaims {
        weights_digest: "sha256:a".into(),
        prompt_tokens: tokens.prompt,
        cached_tokens: 0,
        completion_tokens: tokens.completion,
        delivered_sha256: delivered(tokens),
    };
    serde_json::to_string(&claims).expect("JSON")
}

pub fn tokens(prompt: u32, completion: u32) -> Tokens {
    Tokens { prompt, completion }
}

fn delivered(tokens: Tokens) -> Hash {
    Hash::of(&tokens.completion.to_be_bytes())
}
