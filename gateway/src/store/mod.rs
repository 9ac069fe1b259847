//! The books: the only place that knows the database. One SQL text serves SQLite and Postgres, through sqlx's `Any`.
//!
//! Every write is one transaction that begins with a write (SQLite cannot turn a reader into a writer once another
//! process has written). Rows are locked in one order: idempotency key, counter, replica, attempt, credit, allowance,
//! promotional credit, payable, each kind by id.

mod accounts;
mod act;
mod allowances;
mod attempts;
mod audit;
mod bus;
mod catalogue;
mod challenges;
mod check;
mod check_earnings;
mod clawback;
mod compact;
mod corrections;
mod counters;
mod entries;
mod erasing;
mod error;
mod generation;
mod invoices;
mod keys;
pub mod lease;
mod ledger;
mod limits;
mod mature;
mod migrate;
mod operator;
mod outbox;
mod payout_details;
mod payouts;
mod prices;
mod promotional;
mod proofs;
mod providers;
mod receipts;
mod redis;
pub mod registry;
mod responses;
mod settle;
mod signing_keys;
mod sql;
mod statement;
mod tokenizers;
mod usage;
mod usage_query;
mod webhooks;
mod withheld;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions, Connection, Executor, Row, Transaction};

pub use self::redis::Redis;
pub use accounts::{AccountRecord, Balance, CreditKind};
pub use act::{Act, ActRequest, Begun, StoredAnswer};
pub use allowances::Reserved;
pub use audit::{AuditFilter, AuditLine, AuditRecord};
pub use bus::Bus;
pub use check::BooksReport;
pub use clawback::{Claw, Clawback};
pub use counters::{Counters, CountersAway, Reading};
pub use entries::{EntriesPage, EntryFilter, EntryRecord};
pub use erasing::{Erasure, Leftover};
pub use error::{StoreError, StoreErrorKind};
pub use generation::GenerationRecord;
pub use invoices::{Invoice, InvoiceEntry, InvoiceUsage};
pub use keys::{CallerRecord, KeyChange, KeyRecord, NewKey};
pub use lease::{Lease, LeaseGuard, LeaseHeld};
pub use limits::{SpentLine, SpentSince};
#[doc(hidden)]
pub use migrate::Step;
pub use outbox::DueDelivery;
pub use payout_details::{MAX_DETAILS, PayoutDetails};
pub use payouts::{Payout, PayoutRun, PayoutState, PayoutTerms};
pub use promotional::{HeldShares, PromotionalDecision, Verdict};
pub use providers::Earnings;
pub use responses::{KeptResponse, Turn};
pub use settle::{SettleOutcome, Settlement};
pub use signing_keys::SigningKeys;
pub use statement::{MAX_PAGE, StatementCursor, StatementPage};
pub use tokenizers::RecountSummary;
pub use usage::Used;
pub use usage_query::{MAX_USAGE_LINES, UsageBy, UsageCursor, UsageLine, UsagePage, UsageQuestion, usage_csv};
pub use webhooks::{DeliveryRecord, WebhookRecord};

/// What the store answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// How long a statement waits for a connection, or for SQLite's lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an idle one may take to say that it is there: one whose host vanished never says anything.
const PONG_WITHIN: Duration = Duration::from_secs(2);
/// Connections to Postgres.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Readers of a SQLite file, beside its one writer.
const SQLITE_READERS: u32 = 4;
/// What every connection to a SQLite file begins with. The log is written into the file every 32 MiB instead of every 4, and 8
/// MiB of pages are kept instead of 2: an attempt's page is written when it is settled and again when its receipt comes,
/// about a second later, and need be moved and read only once.
const SQLITE_SETTINGS: [&str; 5] = [
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 8192",
    "PRAGMA cache_size = -8192",
];

/// What the writer of a SQLite file has besides. A statement of many rows keeps a copy of every page that it changes, in
/// case it fails in the middle: half of all the bytes that a settlement wrote went into that file, which nobody ever reads.
/// Readers keep theirs, and migrations too: what they sort may be larger than memory.
const SQLITE_WRITER_SETTING: &str = "PRAGMA temp_store = MEMORY";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

/// The books. Clones share the connections.
#[derive(Clone)]
pub struct Store {
    dialect: Dialect,
    writer: AnyPool,
    reader: AnyPool,
    /// Shifts the database's clock, for tests.
    clock_offset_us: Arc<AtomicI64>,
}

impl Store {
    /// Opens `sqlite:/path/books.db` (created where it is missing) or `postgres://…`, and brings the schema up to date.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, &[]).await
    }

    /// The same, with migrations of a later release: for tests only.
    #[doc(hidden)]
    pub async fn open_with(url: &str, more: &[Step]) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let dialect = if url.starts_with("sqlite:") { Dialect::Sqlite } else { Dialect::Postgres };
        let (writer, reader) = match dialect {
            Dialect::Sqlite => {
                create_private(url)?;
                let writer = sqlite_pool(1, &[SQLITE_WRITER_SETTING]).connect_with(options(url, "mode=rwc")?).await?;
                let reader = sqlite_pool(SQLITE_READERS, &[]).connect_with(options(url, "mode=rw")?).await?;
                (writer, reader)
            }
            Dialect::Postgres => {
                let pool = postgres_pool().connect_with(options(url, "")?).await?;
                (pool.clone(), pool)
            }
        };
        migrate::run(&writer, more).await?;
        Ok(Self { dialect, writer, reader, clock_offset_us: Arc::default() })
    }

    /// Has new connections go by this URL, once that works: the same books, as somebody else or with another password. Those
    /// that are open stay. Fails with `Conflict` for other books.
    pub async fn move_to(&self, url: &str) -> Result<()> {
        if url.starts_with("sqlite:") != (self.dialect == Dialect::Sqlite) {
            return Err(StoreError::Conflict("it leads to another kind of database".into()));
        }
        let options = options(url, if self.dialect == Dialect::Sqlite { "mode=rw" } else { "" })?;
        let trying = async {
            let mut connection = options.connect().await?;
            let id = first_signing_key(&mut connection).await?;
            connection.close().await?;
            Ok::<_, StoreError>(id)
        };
        let id = tokio::time::timeout(PATIENCE, trying).await.unwrap_or(Err(StoreError::Silent))?;
        if id != self.id().await? {
            return Err(StoreError::Conflict("it leads to other books".into()));
        }
        self.writer.set_connect_options(options.clone());
        self.reader.set_connect_options(options);
        Ok(())
    }

    /// Closes every connection; whoever still holds a clone gets [`StoreError::Unavailable`].
    pub async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }

    /// A name that only these books have: their first signing key's id, which stays when keys rotate.
    pub async fn id(&self) -> Result<String> {
        self.signing_keys().await?; // made when they are first asked for
        first_signing_key(&mut *self.reader.acquire().await?).await
    }

    /// A number that goes up with every change that gateways cache: keys, accounts, the catalogue, providers' standings;
    /// also when a price begins that was set before.
    pub async fn epoch(&self) -> Result<i64> {
        let select = format!(
            "SELECT value + (SELECT COUNT(*) FROM model_prices WHERE valid_from <= {}) FROM counters WHERE name = 'epoch'",
            self.clock()
        );
        let row = sql::query(select).fetch_one(&self.reader).await?;
        Ok(row.try_get(0)?)
    }

    /// The database's clock, Unix microseconds. Replicas' own clocks may differ, so leases and claims go by this one.
    pub async fn now_us(&self) -> Result<i64> {
        let row = sql::query(format!("SELECT {}", self.clock())).fetch_one(&self.reader).await?;
        Ok(row.try_get(0)?)
    }

    /// Lets the database's clock run ahead for this store and its clones: for tests only.
    #[doc(hidden)]
    pub fn shift_clock(&self, ahead: Duration) {
        self.clock_offset_us.fetch_add(ahead.as_micros() as i64, Ordering::Relaxed);
    }

    /// A transaction. Its first statement must be a write.
    async fn transaction(&self) -> Result<Transaction<'static, Any>> {
        begin(self.writer.clone(), "BEGIN").await
    }

    /// A transaction that sees the books as they are when it first looks, and changes nothing.
    async fn snapshot(&self) -> Result<Transaction<'static, Any>> {
        let statement = match self.dialect {
            Dialect::Sqlite => "BEGIN",
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        begin(self.reader.clone(), statement).await
    }

    /// The database's clock as an SQL expression: the one text that differs between the databases. Read when the
    /// statement runs, not when the transaction began.
    fn clock(&self) -> String {
        let micros = match self.dialect {
            Dialect::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS BIGINT)",
            Dialect::Postgres => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
        };
        format!("({micros} + {})", self.clock_offset_us.load(Ordering::Relaxed))
    }
}

/// Begins a transaction, in a task of its own: a caller that is dropped in the middle of `BEGIN` would put a connection
/// back into the pool that is inside a transaction nobody knows of, and what is written there next is never committed
/// (sqlx 0.9 counts a transaction only once `BEGIN` was answered, and rolls back only what it has counted).
async fn begin(pool: AnyPool, statement: &'static str) -> Result<Transaction<'static, Any>> {
    match tokio::spawn(async move { pool.begin_with(statement).await }).await {
        Ok(begun) => Ok(begun?),
        Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolClosed)), // the runtime is shutting down
    }
}

async fn first_signing_key(connection: &mut AnyConnection) -> Result<String> {
    let first = "SELECT id FROM signing_keys ORDER BY created_at, id LIMIT 1";
    let row = sqlx::query(first).fetch_optional(connection).await?;
    Ok(row.ok_or(StoreError::Missing("signing key"))?.try_get(0)?)
}

/// Tells every gateway to forget what it has cached. Also a lock: changes of cached things come one after the other.
async fn bump_epoch(connection: &mut AnyConnection) -> Result<()> {
    lock(connection, "epoch").await
}

/// Locks a counter's row until the transaction ends.
async fn lock(connection: &mut AnyConnection, counter: &'static str) -> Result<()> {
    sqlx::query("UPDATE counters SET value = value + 1 WHERE name = $1").bind(counter).execute(connection).await?;
    Ok(())
}

/// A length of time as the books count it, in microseconds; "for ever" for what 64 bits do not hold.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 2)
}

/// Makes the file before SQLite does: it holds the signing keys, so nobody but its owner may read it. (SQLite gives its
/// other files the same mode.)
fn create_private(url: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = SqliteConnectOptions::from_str(url)?.get_filename().to_owned();
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(sqlx::Error::Io(error).into()),
        _ => Ok(()),
    }
}

fn options(url: &str, parameters: &str) -> Result<AnyConnectOptions> {
    let separator = if parameters.is_empty() {
        ""
    } else if url.contains('?') {
        "&"
    } else {
        "?"
    };
    let options: AnyConnectOptions = format!("{url}{separator}{parameters}").parse()?;
    Ok(options.disable_statement_logging())
}

fn pool(connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE)
}

fn postgres_pool() -> AnyPoolOptions {
    let pool = pool(POSTGRES_CONNECTIONS).after_connect(|connection, _| {
        Box::pin(async move {
            // A plan made while a table was almost empty reads all of it, and would be kept while the table grows.
            connection.execute("SET plan_cache_mode = force_custom_plan").await?;
            Ok(())
        })
    });
    pool.test_before_acquire(false).before_acquire(|connection, _| {
        Box::pin(async move {
            let pong = tokio::time::timeout(PONG_WITHIN, connection.ping()).await;
            Ok(pong.is_ok_and(|pong| pong.is_ok()))
        })
    })
}

fn sqlite_pool(connections: u32, more: &'static [&'static str]) -> AnyPoolOptions {
    pool(connections).after_connect(move |connection, _| {
        Box::pin(async move {
            let patience = format!("PRAGMA busy_timeout = {}", PATIENCE.as_millis());
            sql::query(patience).execute(&mut *connection).await?;
            for pragma in SQLITE_SETTINGS.iter().chain(more) {
                connection.execute(*pragma).await?;
            }
            Ok(())
        })
    })
}
