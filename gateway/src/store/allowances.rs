//! Allowances: credit set aside for one replica, which spends it from memory. Each is a ledger account of its own.

use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use sqlx::{AnyConnection, Row};

use super::accounts::owner_of;
use super::{Result, Store, StoreError, ledger, sql};
use crate::domain::ids::{AccountId, AllowanceId, PostingId, ReplicaId};
use crate::domain::posting::{LedgerId, Posting, PostingKind};

/// What has been set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The account's allowance at that replica; the same one each time.
    pub allowance: AllowanceId,
    /// How much was added to it.
    pub amount: NanoUsd,
}

impl Store {
    /// Moves at least `need` from an account's credit to its allowance at `replica`: `slice` where that is more, but of
    /// what is not needed at once never above a tenth of the credit. `None`: the credit is less than `need`.
    pub async fn reserve(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        need: NanoUsd,
        slice: NanoUsd,
    ) -> Result<Option<Reserved>> {
        self.reserve_once(account, replica, need, slice, PostingId::fresh(), false).await
    }

    /// The same, under an id of the caller's: done `again` after an error, it happens once, and what was moved is told.
    pub async fn reserve_once(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        need: NanoUsd,
        slice: NanoUsd,
        posting: PostingId,
        again: bool,
    ) -> Result<Option<Reserved>> {
        if need < NanoUsd::ZERO || slice < NanoUsd::ZERO {
            return Err(StoreError::Invalid("an amount must not be below zero"));
        }
        let earlier = again.then_some(posting);
        sql::retrying(|| self.try_reserve(account, replica, need, slice, posting, earlier)).await
    }

    /// What was moved under an id, if it was.
    pub async fn reservation(&self, posting: PostingId) -> Result<Option<Reserved>> {
        reservation(&mut *self.reader.acquire().await?, posting).await
    }

    async fn try_reserve(
        &self,
        account: &AccountId,
        replica: &ReplicaId,
        need: NanoUsd,
        slice: NanoUsd,
        posting: PostingId,
        earlier: Option<PostingId>,
    ) -> Result<Option<Reserved>> {
        let credit = LedgerId::credit(*account);
        let mut tx = self.transaction().await?;
        // Also a lock: two who do the same take turns.
        let taken = take_credit(&mut tx, &credit, need, slice).await?;
        if let Some(posting) = earlier
            && let Some(earlier) = reservation(&mut tx, posting).await?
        {
            tx.rollback().await?;
            return Ok(Some(earlier));
        }
        let Some(amount) = taken else { return Ok(None) };
        let open = "INSERT INTO ledger_accounts (id, kind, owner, replica, balance) VALUES ($1, 'allowance', $2, $3, $4)
                    ON CONFLICT (kind, owner, replica) DO UPDATE SET balance = ledger_accounts.balance + excluded.balance
                    RETURNING id";
        let row = sqlx::query(open)
            .bind(AllowanceId::fresh().to_string())
            .bind(credit.owner())
            .bind(replica.to_string())
            .bind(amount.nanos())
            .fetch_one(&mut *tx)
            .await?;
        let allowance: AllowanceId = parse(&row.try_get::<String, _>(0)?)?;
        let to = LedgerId::allowance(allowance);
        self.write_move(&mut tx, PostingKind::Reserve, credit, to, amount, posting).await?;
        tx.commit().await?;
        Ok(Some(Reserved { allowance, amount }))
    }

    /// Moves what a replica does not need from its allowance back to the account's credit. `false`: the allowance has
    /// less than that (it was released), and nothing moved.
    pub async fn give_back(&self, allowance: &AllowanceId, amount: NanoUsd) -> Result<bool> {
        self.give_back_once(allowance, amount, PostingId::fresh()).await
    }

    /// The same, under an id of the caller's: done again after an error, it happens once.
    pub async fn give_back_once(&self, allowance: &AllowanceId, amount: NanoUsd, posting: PostingId) -> Result<bool> {
        if amount < NanoUsd::ZERO {
            return Err(StoreError::Invalid("an amount must not be below zero"));
        }
        // Read outside the transaction, which must begin with a write; an allowance never changes hands.
        let owner = owner_of(&mut *self.reader.acquire().await?, &allowance.to_string()).await?;
        let credit = LedgerId::credit(owner.ok_or(StoreError::Missing("allowance"))?);
        sql::retrying(|| self.try_give_back(*allowance, &credit, amount, posting)).await
    }

    /// What is set aside of an account's money at other replicas, in use or not.
    pub async fn set_aside_elsewhere(&self, account: &AccountId, replica: &ReplicaId) -> Result<NanoUsd> {
        let select = "SELECT CAST(COALESCE(SUM(balance), 0) AS BIGINT) FROM ledger_accounts
                      WHERE kind = 'allowance' AND owner = $1 AND replica <> $2";
        let row =
            sqlx::query(select).bind(account.to_string()).bind(replica.to_string()).fetch_one(&self.reader).await?;
        Ok(NanoUsd::from_nanos(row.try_get(0)?))
    }

    async fn try_give_back(
        &self,
        allowance: AllowanceId,
        credit: &LedgerId,
        amount: NanoUsd,
        posting: PostingId,
    ) -> Result<bool> {
        let allowance = LedgerId::allowance(allowance);
        let mut tx = self.transaction().await?;
        ledger::add_credit(&mut tx, credit, amount).await?; // also a lock: two who do the same take turns
        let known = "SELECT id FROM postings WHERE id = $1";
        if sqlx::query(known).bind(posting.to_string()).fetch_optional(&mut *tx).await?.is_some() {
            tx.rollback().await?;
            return Ok(true);
        }
        let take = "UPDATE ledger_accounts SET balance = balance - $2 WHERE id = $1 AND balance >= $2";
        let taken = sqlx::query(take).bind(allowance.as_str()).bind(amount.nanos()).execute(&mut *tx).await?;
        if taken.rows_affected() == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        self.write_move(&mut tx, PostingKind::GiveBack, allowance, credit.clone(), amount, posting).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Returns to the accounts' credit what replicas have left whose lease ended more than `claim_window` ago, when no
    /// provider can claim on it any more. Returns how many allowances that were; callers may run at the same time.
    pub async fn release_ended(&self, claim_window: Duration) -> Result<u64> {
        // Also those released before: a replica that was frozen in the middle of a reservation may have added to it since.
        let ended = format!(
            "SELECT DISTINCT r.id FROM replicas r WHERE r.ends_at < {} - $1 AND (r.released_at IS NULL OR EXISTS
                (SELECT 1 FROM ledger_accounts a WHERE a.kind = 'allowance' AND a.replica = r.id AND a.balance > 0))
             ORDER BY r.id",
            self.clock()
        );
        let window_us = i64::try_from(claim_window.as_micros()).unwrap_or(i64::MAX / 2);
        let rows = sql::query(ended).bind(window_us).fetch_all(&self.reader).await?;
        let mut released = 0;
        for row in rows {
            let replica: String = row.try_get(0)?;
            released += sql::retrying(|| self.release(&replica, window_us)).await?;
        }
        Ok(released)
    }

    async fn release(&self, replica: &str, window_us: i64) -> Result<u64> {
        let clock = self.clock();
        let mut tx = self.transaction().await?;
        let mark = format!(
            "UPDATE replicas SET touched = touched + 1, released_at = COALESCE(released_at, {clock})
             WHERE id = $1 AND ends_at < {clock} - $2"
        );
        if sql::query(mark).bind(replica).bind(window_us).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(0);
        }
        let left = "SELECT id, owner FROM ledger_accounts WHERE kind = 'allowance' AND replica = $1 AND balance > 0
                    ORDER BY owner";
        let mut released = 0;
        for row in sqlx::query(left).bind(replica).fetch_all(&mut *tx).await? {
            let allowance: AllowanceId = parse(&row.try_get::<String, _>(0)?)?;
            let account: AccountId = parse(&row.try_get::<String, _>(1)?)?;
            let (allowance, credit) = (LedgerId::allowance(allowance), LedgerId::credit(account));
            ledger::lock_credit(&mut tx, &credit).await?;
            let empty = "UPDATE ledger_accounts SET last_move = balance, balance = 0 WHERE id = $1 AND balance > 0
                         RETURNING last_move";
            let Some(row) = sqlx::query(empty).bind(allowance.as_str()).fetch_optional(&mut *tx).await? else {
                continue; // given back meanwhile
            };
            let amount = NanoUsd::from_nanos(row.try_get(0)?);
            ledger::add_credit(&mut tx, &credit, amount).await?;
            self.write_move(&mut tx, PostingKind::Release, allowance, credit, amount, PostingId::fresh()).await?;
            released += 1;
        }
        tx.commit().await?;
        Ok(released)
    }

    async fn write_move(
        &self,
        connection: &mut AnyConnection,
        kind: PostingKind,
        from: LedgerId,
        to: LedgerId,
        amount: NanoUsd,
        id: PostingId,
    ) -> Result<()> {
        let posting = Posting::from_source(kind, "", from, [(to, amount)])
            .ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
        ledger::write(connection, &self.clock(), &[posting.with_id(id)]).await
    }
}

async fn reservation(connection: &mut AnyConnection, posting: PostingId) -> Result<Option<Reserved>> {
    let select = "SELECT account, amount FROM entries WHERE posting = $1 AND amount > 0";
    let row = sqlx::query(select).bind(posting.to_string()).fetch_optional(connection).await?;
    row.map(|row| {
        let (allowance, amount) = (parse(&row.try_get::<String, _>(0)?)?, NanoUsd::from_nanos(row.try_get(1)?));
        Ok(Reserved { allowance, amount })
    })
    .transpose()
}

/// Takes from the credit what is needed and what may be set aside on top, in one statement; `None` if it is too little.
async fn take_credit(
    connection: &mut AnyConnection,
    credit: &LedgerId,
    need: NanoUsd,
    slice: NanoUsd,
) -> Result<Option<NanoUsd>> {
    // Every right-hand side sees the balance as it was. (MAX and MIN of two values have no common spelling.)
    let spare = "CASE WHEN balance / 10 < $3 THEN balance / 10 ELSE $3 END";
    let amount = format!("CASE WHEN {spare} > $2 THEN {spare} ELSE $2 END");
    let take = format!(
        "UPDATE ledger_accounts SET last_move = {amount}, balance = balance - {amount}
         WHERE id = $1 AND balance >= $2 RETURNING last_move"
    );
    let row = sql::query(take)
        .bind(credit.as_str())
        .bind(need.nanos())
        .bind(slice.nanos())
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok(NanoUsd::from_nanos(row.try_get(0)?))).transpose()
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| StoreError::corrupt("an id is malformed"))
}
