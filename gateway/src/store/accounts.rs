//! Customers' accounts and their credit.

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{Result, Store, StoreError, bump_epoch, erasing, ledger, promotional, sql};
use crate::domain::ids::AccountId;
use crate::domain::posting::{LedgerId, Posting, PostingKind};

/// The most that is credited at once: far from where 64 bits end.
const MAX_CREDIT: NanoUsd = NanoUsd::from_nanos(1_000_000_000_000_000_000);

/// A customer's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountRecord {
    /// Its id.
    pub id: AccountId,
    /// What the operator calls it.
    pub name: String,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// Unix microseconds; null while it is open.
    pub closed_at_us: Option<i64>,
    /// When all that was personal of it was erased, Unix microseconds; null if it was not.
    pub erased_at_us: Option<i64>,
}

/// The columns of an [`AccountRecord`].
const COLUMNS: &str = "id, name, created_at, closed_at, erased_at";

/// What an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Not set aside for any replica.
    #[serde(rename = "credit_usd")]
    pub credit: NanoUsd,
    /// Set aside for replicas, or held for what they are serving.
    #[serde(rename = "allowances_usd")]
    pub allowances: NanoUsd,
    /// Both together.
    #[serde(rename = "spendable_usd")]
    pub spendable: NanoUsd,
    /// How much of that was given away, not paid for; it is spent first.
    #[serde(rename = "promotional_usd")]
    pub promotional: NanoUsd,
}

/// Where credit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditKind {
    /// Paid for.
    Paid,
    /// Given by the operator.
    Promotional,
}

impl Store {
    /// Opens an account without credit.
    pub async fn create_account(&self, name: &str) -> Result<AccountRecord> {
        let mut tx = self.transaction().await?;
        let record = open(&mut tx, &self.clock(), name).await?;
        tx.commit().await?;
        Ok(record)
    }

    /// Every account, oldest first.
    pub async fn accounts(&self) -> Result<Vec<AccountRecord>> {
        let select = format!("SELECT {COLUMNS} FROM accounts ORDER BY id");
        sql::query(select).fetch_all(&self.reader).await?.iter().map(account).collect()
    }

    /// One account. Fails with `Missing` if there is none.
    pub async fn account(&self, id: &AccountId) -> Result<AccountRecord> {
        read(&mut *self.reader.acquire().await?, id).await
    }

    /// Accounts and what they have, oldest first: at most `limit`, after the one with the id `after` (empty: from the
    /// first).
    pub async fn accounts_after(&self, after: &str, limit: i64) -> Result<Vec<(AccountRecord, Balance)>> {
        let mut connection = self.reader.acquire().await?;
        let select = format!("SELECT {COLUMNS} FROM accounts WHERE id > $1 ORDER BY id LIMIT $2");
        let rows = sql::query(select).bind(after.to_owned()).bind(limit).fetch_all(&mut *connection).await?;
        let mut accounts = Vec::with_capacity(rows.len());
        for row in &rows {
            let record = account(row)?;
            let balance = balance(&mut connection, &record.id).await?;
            accounts.push((record, balance));
        }
        Ok(accounts)
    }

    /// Closes an account: its keys are good no more. What it has stays in the books.
    pub async fn close_account(&self, id: &AccountId) -> Result<()> {
        let mut tx = self.transaction().await?;
        close(&mut tx, &self.clock(), id).await?;
        Ok(tx.commit().await?)
    }

    /// What an account has. Fails with `Missing` if there is none.
    pub async fn account_balance(&self, id: &AccountId) -> Result<Balance> {
        balance(&mut *self.reader.acquire().await?, id).await
    }

    /// Adds credit. `reference` says what for (a payment's id); the same one twice is a `Conflict`, an empty one is not
    /// compared. Fails with `Invalid` for an amount that is not above zero, or above a billion dollars, and with `Conflict`
    /// for an account that was erased.
    pub async fn add_credit(
        &self,
        id: &AccountId,
        amount: NanoUsd,
        kind: CreditKind,
        reference: &str,
    ) -> Result<Balance> {
        let add = async || {
            let mut tx = self.transaction().await?;
            credit(&mut tx, &self.clock(), id, amount, kind, reference).await?;
            Ok(tx.commit().await?)
        };
        sql::retrying(add).await?;
        self.account_balance(id).await
    }
}

pub(super) async fn open(connection: &mut AnyConnection, clock: &str, name: &str) -> Result<AccountRecord> {
    let id = AccountId::fresh();
    let insert = format!("INSERT INTO accounts (id, name, created_at) VALUES ($1, $2, {clock}) RETURNING {COLUMNS}");
    let row = sql::query(insert).bind(id.to_string()).bind(name).fetch_one(&mut *connection).await?;
    let credit = LedgerId::credit(id);
    sqlx::query("INSERT INTO ledger_accounts (id, kind, owner) VALUES ($1, $2, $3)")
        .bind(credit.as_str())
        .bind(credit.kind().as_str())
        .bind(credit.owner())
        .execute(connection)
        .await?;
    account(&row)
}

pub(super) async fn read(connection: &mut AnyConnection, id: &AccountId) -> Result<AccountRecord> {
    let select = format!("SELECT {COLUMNS} FROM accounts WHERE id = $1");
    let row = sql::query(select).bind(id.to_string()).fetch_optional(connection).await?;
    account(&row.ok_or(StoreError::Missing("account"))?)
}

pub(super) async fn close(connection: &mut AnyConnection, clock: &str, id: &AccountId) -> Result<()> {
    bump_epoch(connection).await?;
    let close = format!("UPDATE accounts SET closed_at = COALESCE(closed_at, {clock}) WHERE id = $1");
    found(sql::query(close).bind(id.to_string()).execute(connection).await?.rows_affected(), "account")
}

pub(super) async fn balance(connection: &mut AnyConnection, id: &AccountId) -> Result<Balance> {
    let select = "SELECT balance, CAST(COALESCE(
                (SELECT SUM(a.balance) FROM ledger_accounts a WHERE a.kind = 'allowance' AND a.owner = $2), 0) AS BIGINT),
                COALESCE((SELECT p.remaining FROM promotional_credit p WHERE p.account = $2), 0)
            FROM ledger_accounts WHERE id = $1";
    let credit = LedgerId::credit(*id);
    let row = sqlx::query(select).bind(credit.as_str()).bind(credit.owner()).fetch_optional(connection).await?;
    let row = row.ok_or(StoreError::Missing("account"))?;
    let (credit, allowances): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let spendable = credit.checked_add(allowances).ok_or(StoreError::corrupt("a balance overflows"))?;
    Ok(Balance {
        credit: NanoUsd::from_nanos(credit),
        allowances: NanoUsd::from_nanos(allowances),
        spendable: NanoUsd::from_nanos(spendable),
        promotional: NanoUsd::from_nanos(row.try_get(2)?),
    })
}

/// See [`Store::add_credit`].
pub(super) async fn credit(
    connection: &mut AnyConnection,
    clock: &str,
    id: &AccountId,
    amount: NanoUsd,
    kind: CreditKind,
    reference: &str,
) -> Result<()> {
    if amount <= NanoUsd::ZERO || amount > MAX_CREDIT {
        return Err(StoreError::Invalid("credit must be above zero, and a billion dollars at most"));
    }
    let given = match kind {
        CreditKind::Paid => NanoUsd::ZERO,
        CreditKind::Promotional => amount,
    };
    let kind = match kind {
        CreditKind::Paid => PostingKind::CreditPaid,
        CreditKind::Promotional => PostingKind::CreditPromotional,
    };
    let posting = Posting::from_source(kind, reference, LedgerId::outside(), [(LedgerId::credit(*id), amount)])
        .ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
    ledger::add_credit(connection, &LedgerId::credit(*id), amount).await?;
    if read(connection, id).await?.erased_at_us.is_some() {
        return Err(StoreError::Conflict("the account was erased".into()));
    }
    erasing::not_again(connection, kind, reference, "this payment has been credited already").await?;
    promotional::give(connection, id, given).await?;
    ledger::write(connection, clock, std::slice::from_ref(&posting)).await.map_err(|error| match error {
        StoreError::Conflict(_) => StoreError::Conflict("this payment has been credited already".into()),
        other => other,
    })
}

/// Whose credit an allowance is a part of; `None` if there is no such allowance.
pub(super) async fn owner_of(connection: &mut AnyConnection, allowance: &str) -> Result<Option<AccountId>> {
    let select = "SELECT owner FROM ledger_accounts WHERE id = $1 AND kind = 'allowance'";
    let row = sqlx::query(select).bind(allowance).fetch_optional(connection).await?;
    row.map(|row| parse(row.try_get(0)?)).transpose()
}

pub(super) fn found(rows: u64, what: &'static str) -> Result<()> {
    if rows == 0 { Err(StoreError::Missing(what)) } else { Ok(()) }
}

pub(super) fn parse<T: std::str::FromStr>(text: String) -> Result<T> {
    text.parse().map_err(|_| StoreError::corrupt("an id is malformed"))
}

fn account(row: &AnyRow) -> Result<AccountRecord> {
    Ok(AccountRecord {
        id: parse(row.try_get(0)?)?,
        name: row.try_get(1)?,
        created_at_us: row.try_get(2)?,
        closed_at_us: row.try_get(3)?,
        erased_at_us: row.try_get(4)?,
    })
}
