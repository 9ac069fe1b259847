//! Accounts' API keys.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lumbung_openapi::merkle::Hash;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::accounts::{found, parse};
use super::{Result, Store, StoreError, bump_epoch, limits, sql};
use crate::domain::ids::{AccountId, KeyId};
use crate::domain::limits::{LimitOwner, Limits};

/// What every API key begins with.
const KEY_PREFIX: &str = "sk-lumbung-";
/// How much of a key is shown again, so that people can tell their keys apart.
const SHOWN: usize = KEY_PREFIX.len() + 4;
/// The columns of a [`KeyRecord`], of `api_keys k`.
const COLUMNS: &str =
    "k.id, k.account, k.label, k.shown_prefix, k.created_at, k.revoked_at, k.management, k.disabled, k.sha256";
/// How many they are.
const COLUMN_COUNT: usize = 9;

/// An API key. The key itself is nowhere in the books, only its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub account: AccountId,
    /// What its owner calls it.
    pub label: String,
    /// Its first characters.
    pub shown_prefix: String,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// Unix microseconds; null while it is good.
    pub revoked_at_us: Option<i64>,
    /// It makes and changes its account's keys, and cannot ask for completions.
    pub management: bool,
    /// Out of use until it is enabled again.
    pub disabled: bool,
    /// Its SHA-256, base64url: what OpenRouter's API calls a key's hash.
    pub sha256: String,
}

/// A good key with the limits that its requests must pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerRecord {
    /// The key.
    pub key: KeyRecord,
    /// Its own limits.
    pub key_limits: Limits,
    /// Its account's limits.
    pub account_limits: Limits,
}

/// A key that is to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What its owner calls it.
    pub label: String,
    /// Whether it is a management key.
    pub management: bool,
    /// Its limits.
    pub limits: Limits,
}

/// What is to change of a key; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// What its owner calls it.
    pub label: Option<String>,
    /// Whether it is out of use.
    pub disabled: Option<bool>,
    /// Its limits, all of them.
    pub limits: Option<Limits>,
}

impl Store {
    /// Makes an API key without limits. The text is returned once and kept nowhere.
    pub async fn create_key(&self, account: &AccountId, label: &str) -> Result<(KeyRecord, String)> {
        self.create_key_with(account, &NewKey { label: label.to_owned(), ..NewKey::default() }).await
    }

    /// Makes an API key. The text is returned once and kept nowhere. Fails with `Missing` where there is no such open
    /// account, and as [`Store::set_limits`] does.
    pub async fn create_key_with(&self, account: &AccountId, new: &NewKey) -> Result<(KeyRecord, String)> {
        let mut tx = self.transaction().await?;
        let made = make(&mut tx, &self.clock(), account, new).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// An account's keys, or everyone's; oldest first, revoked ones too.
    pub async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>> {
        let select = format!("SELECT {COLUMNS} FROM api_keys k WHERE $1 = '' OR k.account = $1 ORDER BY k.id");
        let account = account.map_or_else(String::new, AccountId::to_string);
        sql::query(select).bind(account).fetch_all(&self.reader).await?.iter().map(key).collect()
    }

    /// One key, revoked or not. Fails with `Missing`.
    pub async fn key(&self, id: &KeyId) -> Result<KeyRecord> {
        read(&mut *self.reader.acquire().await?, id).await
    }

    /// Keys, oldest first, revoked ones too: those of `account` (empty: all), management keys or the others, at most
    /// `limit`, after the one with the id `after` (empty: from the first).
    pub async fn keys_after(
        &self,
        account: &str,
        management: Option<bool>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<KeyRecord>> {
        let select = format!(
            "SELECT {COLUMNS} FROM api_keys k WHERE ($1 = '' OR k.account = $1) AND k.id > $2
               AND ($4 = -1 OR k.management = $4) ORDER BY k.id LIMIT $3"
        );
        let query = sql::query(select).bind(account.to_owned()).bind(after.to_owned()).bind(limit);
        let query = query.bind(management.map_or(-1, i64::from));
        query.fetch_all(&self.reader).await?.iter().map(key).collect()
    }

    /// Some of an account's keys that are not revoked, after the one named, oldest first, with their limits.
    pub async fn account_keys(
        &self,
        account: &AccountId,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Result<Vec<(KeyRecord, Limits)>> {
        let select = format!(
            "SELECT {COLUMNS}, {} FROM api_keys k LEFT JOIN limits l ON l.owner = k.id
             WHERE k.account = $1 AND k.id > $2 AND k.revoked_at IS NULL ORDER BY k.id LIMIT $3",
            limits::columns("l")
        );
        let after = after.map_or_else(String::new, KeyId::to_string);
        let rows = sql::query(select).bind(account.to_string()).bind(after).bind(i64::from(limit));
        rows.fetch_all(&self.reader).await?.iter().map(key_with_limits).collect()
    }

    /// One of an account's keys that is not revoked, by its id or its SHA-256, with its limits.
    pub async fn key_of(&self, account: &AccountId, id_or_sha256: &str) -> Result<Option<(KeyRecord, Limits)>> {
        let select = format!(
            "SELECT {COLUMNS}, {} FROM api_keys k LEFT JOIN limits l ON l.owner = k.id
             WHERE k.account = $1 AND (k.id = $2 OR k.sha256 = $2) AND k.revoked_at IS NULL",
            limits::columns("l")
        );
        let row = sql::query(select).bind(account.to_string()).bind(id_or_sha256).fetch_optional(&self.reader).await?;
        row.as_ref().map(key_with_limits).transpose()
    }

    /// Changes a key. Gateways follow within a second, by the epoch. Fails with `Missing` where the account has no such
    /// key, or a revoked one.
    pub async fn change_key(&self, account: &AccountId, id: &KeyId, change: &KeyChange) -> Result<()> {
        let mut tx = self.transaction().await?;
        self::change(&mut tx, Some(account), id, change).await?;
        Ok(tx.commit().await?)
    }

    /// Revokes a key. Gateways follow within a second, by the epoch.
    pub async fn revoke_key(&self, id: &KeyId) -> Result<()> {
        let mut tx = self.transaction().await?;
        revoke(&mut tx, &self.clock(), id).await?;
        Ok(tx.commit().await?)
    }

    /// The key with this SHA-256, if it is good and its account open.
    pub async fn find_key(&self, sha256: &[u8; 32]) -> Result<Option<KeyRecord>> {
        Ok(self.find_caller(sha256).await?.map(|caller| caller.key))
    }

    /// The key with this SHA-256 and all limits on it, if it is good and its account open.
    pub async fn find_caller(&self, sha256: &[u8; 32]) -> Result<Option<CallerRecord>> {
        let select = format!(
            "SELECT {COLUMNS}, {}, {} FROM api_keys k JOIN accounts a ON a.id = k.account
             LEFT JOIN limits l ON l.owner = k.id LEFT JOIN limits m ON m.owner = k.account
             WHERE k.sha256 = $1 AND k.revoked_at IS NULL AND k.disabled = 0 AND a.closed_at IS NULL",
            limits::columns("l"),
            limits::columns("m")
        );
        let row = sql::query(select).bind(Hash(*sha256).to_string()).fetch_optional(&self.reader).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(CallerRecord {
            key: key(&row)?,
            key_limits: limits::read(&row, COLUMN_COUNT)?,
            account_limits: limits::read(&row, COLUMN_COUNT + limits::COLUMN_COUNT)?,
        }))
    }
}

/// See [`Store::create_key_with`].
pub(super) async fn make(
    connection: &mut AnyConnection,
    clock: &str,
    account: &AccountId,
    new: &NewKey,
) -> Result<(KeyRecord, String)> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error.into())))?;
    let secret = format!("{KEY_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    // An account that is being erased gets no key with a label meanwhile.
    let lock = "UPDATE accounts SET name = name WHERE id = $1 AND closed_at IS NULL";
    sqlx::query(lock).bind(account.to_string()).execute(&mut *connection).await?;
    let insert = format!(
        "INSERT INTO api_keys (id, account, sha256, shown_prefix, label, created_at, management)
         SELECT $1, id, $3, $4, $5, {clock}, $6 FROM accounts WHERE id = $2 AND closed_at IS NULL
         RETURNING id, account, label, shown_prefix, created_at, revoked_at, management, disabled, sha256"
    );
    // A gateway may remember that nobody has this key; nobody could have guessed it, so the epoch stays.
    let row = sql::query(insert)
        .bind(KeyId::fresh().to_string())
        .bind(account.to_string())
        .bind(Hash::of(secret.as_bytes()).to_string())
        .bind(secret[..SHOWN].to_owned())
        .bind(new.label.clone())
        .bind(i64::from(new.management))
        .fetch_optional(&mut *connection)
        .await?;
    let record = key(&row.ok_or(StoreError::Missing("open account"))?)?;
    if new.limits != Limits::default() {
        limits::write(connection, LimitOwner::Key(record.id), &new.limits).await?;
    }
    Ok((record, secret))
}

/// See [`Store::change_key`]. `account`: only a key of this one.
pub(super) async fn change(
    connection: &mut AnyConnection,
    account: Option<&AccountId>,
    id: &KeyId,
    change: &KeyChange,
) -> Result<()> {
    bump_epoch(connection).await?;
    let update = "UPDATE api_keys SET label = COALESCE($3, label), disabled = COALESCE($4, disabled)
                  WHERE id = $1 AND ($2 = '' OR account = $2) AND revoked_at IS NULL";
    let account = account.map_or_else(String::new, AccountId::to_string);
    let update = sqlx::query(update).bind(id.to_string()).bind(account);
    let update = update.bind(change.label.as_deref()).bind(change.disabled.map(i64::from));
    found(update.execute(&mut *connection).await?.rows_affected(), "key")?;
    match &change.limits {
        Some(limits) => limits::write(connection, LimitOwner::Key(*id), limits).await,
        None => Ok(()),
    }
}

pub(super) async fn revoke(connection: &mut AnyConnection, clock: &str, id: &KeyId) -> Result<()> {
    bump_epoch(connection).await?;
    let revoke = format!("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, {clock}) WHERE id = $1");
    found(sql::query(revoke).bind(id.to_string()).execute(connection).await?.rows_affected(), "key")
}

pub(super) async fn read(connection: &mut AnyConnection, id: &KeyId) -> Result<KeyRecord> {
    let select = format!("SELECT {COLUMNS} FROM api_keys k WHERE k.id = $1");
    let row = sql::query(select).bind(id.to_string()).fetch_optional(connection).await?;
    key(&row.ok_or(StoreError::Missing("key"))?)
}

fn key_with_limits(row: &AnyRow) -> Result<(KeyRecord, Limits)> {
    Ok((key(row)?, limits::read(row, COLUMN_COUNT)?))
}

fn key(row: &AnyRow) -> Result<KeyRecord> {
    Ok(KeyRecord {
        id: parse(row.try_get(0)?)?,
        account: parse(row.try_get(1)?)?,
        label: row.try_get(2)?,
        shown_prefix: row.try_get(3)?,
        created_at_us: row.try_get(4)?,
        revoked_at_us: row.try_get(5)?,
        management: row.try_get::<i64, _>(6)? != 0,
        disabled: row.try_get::<i64, _>(7)? != 0,
        sha256: row.try_get(8)?,
    })
}
