//! Writing postings down, and rolling busy accounts up.

use std::collections::BTreeMap;

use lumbung_openapi::money::NanoUsd;
use sqlx::{AnyConnection, Row};
use ulid::Ulid;

use super::sql::{pieces, query, values};
use super::{Result, Store, StoreError, lock, sql};
use crate::domain::ids::PostingId;
use crate::domain::posting::{LedgerId, LedgerKind, Posting};

/// Writes postings and their entries, dated by the database's clock. Balances of busy accounts are queued here; those of
/// all others the caller has moved in the same transaction, by an UPDATE that could refuse.
pub(super) async fn write(connection: &mut AnyConnection, clock: &str, postings: &[Posting]) -> Result<()> {
    write_dated(connection, At::Clock(clock), postings).await
}

/// As [`write()`] does, for a transaction that has read the clock already: everything in it has one date.
pub(super) async fn write_at(connection: &mut AnyConnection, now_us: i64, postings: &[Posting]) -> Result<()> {
    write_dated(connection, At::Us(now_us), postings).await
}

#[derive(Clone, Copy)]
enum At<'a> {
    Clock(&'a str),
    Us(i64),
}

async fn write_dated(connection: &mut AnyConnection, at: At<'_>, postings: &[Posting]) -> Result<()> {
    let postings: Vec<(String, &Posting)> =
        postings.iter().filter(|posting| !posting.is_empty()).map(|posting| (id_of(posting), posting)).collect();
    for piece in pieces(&postings) {
        let rows = values(connection, 3, piece.len());
        let dated = match at {
            At::Clock(clock) => clock.to_owned(),
            At::Us(_) => format!("${}", 3 * piece.len() + 1),
        };
        let mut insert = query(format!(
            "WITH new(id, kind, reference) AS (VALUES {rows})
             INSERT INTO postings (id, kind, reference, at) SELECT id, kind, reference, {dated} FROM new"
        ));
        for (id, posting) in piece {
            insert = insert.bind(id.as_str()).bind(posting.kind().as_str()).bind(posting.reference());
        }
        if let At::Us(us) = at {
            insert = insert.bind(us);
        }
        insert.execute(&mut *connection).await?;
    }
    let entries: Vec<(&str, &LedgerId, NanoUsd)> = postings
        .iter()
        .flat_map(|(id, posting)| posting.entries().map(|(account, amount)| (id.as_str(), account, amount)))
        .collect();
    for piece in pieces(&entries) {
        let rows = values(connection, 3, piece.len());
        let mut insert = query(format!("INSERT INTO entries (posting, account, amount) VALUES {rows}"));
        for (posting, account, amount) in piece {
            insert = insert.bind(*posting).bind(account.as_str()).bind(amount.nanos());
        }
        insert.execute(&mut *connection).await?;
    }
    queue(connection, &entries).await
}

/// Queues what busy accounts gained or lost, one row per account.
async fn queue(connection: &mut AnyConnection, entries: &[(&str, &LedgerId, NanoUsd)]) -> Result<()> {
    let mut sums: BTreeMap<&LedgerId, NanoUsd> = BTreeMap::new();
    for (_, account, amount) in entries.iter().filter(|(_, account, _)| account.kind().is_busy()) {
        let sum = sums.entry(account).or_default();
        *sum = sum.checked_add(*amount).ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
    }
    let sums: Vec<(&LedgerId, NanoUsd)> = sums.into_iter().filter(|(_, sum)| *sum != NanoUsd::ZERO).collect();
    for piece in pieces(&sums) {
        let rows = values(connection, 3, piece.len());
        let mut insert = query(format!("INSERT INTO unrolled (id, account, amount) VALUES {rows}"));
        for (account, sum) in piece {
            insert = insert.bind(Ulid::generate().to_string()).bind(account.as_str()).bind(sum.nanos());
        }
        insert.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Adds `amount`, zero or more, to an account's credit, which exists as long as its account does.
pub(super) async fn add_credit(connection: &mut AnyConnection, credit: &LedgerId, amount: NanoUsd) -> Result<()> {
    let add = "UPDATE ledger_accounts SET balance = balance + $2 WHERE id = $1";
    let done = sqlx::query(add).bind(credit.as_str()).bind(amount.nanos()).execute(connection).await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Missing("account")),
    }
}

/// Adds `amount`, zero or more, to what a provider can be paid.
pub(super) async fn add_payable(connection: &mut AnyConnection, payable: &LedgerId, amount: NanoUsd) -> Result<()> {
    let add = "INSERT INTO ledger_accounts (id, kind, owner, balance) VALUES ($1, $2, $3, $4)
               ON CONFLICT (id) DO UPDATE SET balance = ledger_accounts.balance + excluded.balance";
    let add = sqlx::query(add).bind(payable.as_str()).bind(payable.kind().as_str()).bind(payable.owner());
    add.bind(amount.nanos()).execute(connection).await?;
    Ok(())
}

/// Locks an account's credit row, where it will be changed only after a row that comes later in the locking order.
pub(super) async fn lock_credit(connection: &mut AnyConnection, credit: &LedgerId) -> Result<()> {
    add_credit(connection, credit, NanoUsd::ZERO).await
}

impl Store {
    /// Adds what is queued for busy accounts to their balances. Returns how many queued rows went in; callers may run at
    /// the same time, each row counts once.
    pub async fn roll_up(&self) -> Result<u64> {
        sql::retrying(|| self.try_roll_up()).await
    }

    async fn try_roll_up(&self) -> Result<u64> {
        let mut tx = self.transaction().await?;
        lock(&mut tx, "roll_up").await?;
        let rows = sqlx::query("DELETE FROM unrolled RETURNING account, amount").fetch_all(&mut *tx).await?;
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for row in &rows {
            let sum = sums.entry(row.try_get(0)?).or_default();
            *sum = sum.checked_add(row.try_get(1)?).ok_or(StoreError::corrupt("a roll-up overflows"))?;
        }
        for (account, sum) in &sums {
            let (kind, owner) = split(account)?;
            let open = "INSERT INTO ledger_accounts (id, kind, owner) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            sqlx::query(open).bind(account.as_str()).bind(kind.as_str()).bind(owner).execute(&mut *tx).await?;
            let add = "UPDATE ledger_accounts SET balance = balance + $2 WHERE id = $1";
            sqlx::query(add).bind(account.as_str()).bind(*sum).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(rows.len() as u64)
    }

    /// An account's balance: what has been rolled up and what is queued. Zero for one that has never been touched.
    pub async fn balance(&self, account: &LedgerId) -> Result<NanoUsd> {
        let balance = "SELECT CAST(
                COALESCE((SELECT balance FROM ledger_accounts WHERE id = $1), 0)
              + COALESCE((SELECT SUM(amount) FROM unrolled WHERE account = $1), 0) AS BIGINT)";
        let row = sqlx::query(balance).bind(account.as_str()).fetch_one(&self.reader).await?;
        Ok(NanoUsd::from_nanos(row.try_get(0)?))
    }
}

/// Kind and owner of a busy account, from its id.
fn split(account: &str) -> Result<(LedgerKind, &str)> {
    match account.split_once(':') {
        Some(("pending", owner)) => Ok((LedgerKind::ProviderPending, owner)),
        Some(("promotional", owner)) => Ok((LedgerKind::ProviderPromotional, owner)),
        None if account == "revenue" => Ok((LedgerKind::Revenue, "")),
        None if account == "outside" => Ok((LedgerKind::Outside, "")),
        _ => Err(StoreError::corrupt("an account is queued that is not a busy one")),
    }
}

fn id_of(posting: &Posting) -> String {
    posting.id().unwrap_or_else(PostingId::fresh).to_string()
}
