//! Credit that was given away: spent first, followed from the account to the provider's share of what it paid for, and
//! kept there until the operator decides.
//!
//! What an account can spend is never less than what it has left of such credit: both grow together, a charge takes from
//! both, and a refund returns to both what came from both. `books check` compares them.

use std::collections::{BTreeMap, HashMap};

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::attempts::NewAttempt;
use super::mature::turn;
use super::sql::{pieces, query, values};
use super::{Result, Store, StoreError, ledger, sql};
use crate::domain::earnings::Funding;
use crate::domain::ids::{AccountId, DecisionId, ProviderId};
use crate::domain::posting::{LedgerId, Posting, PostingKind};

/// Attempts that one statement decides about.
const CHUNK: i64 = 5000;

/// Shares that promotional credit of one account paid for at one provider, undecided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldShares {
    /// Who served.
    pub provider: ProviderId,
    /// Whose promotional credit paid.
    pub account: AccountId,
    /// How many attempts that were.
    pub attempts: i64,
    /// The provider's share of them.
    #[serde(rename = "amount_usd")]
    pub amount: NanoUsd,
    /// How much of it can be decided about: the receipts of the rest have not come yet.
    #[serde(rename = "proven_usd")]
    pub proven: NanoUsd,
}

/// What the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The provider may have it: payable at once.
    Approved,
    /// It may not: the money that was given away goes back where it came from.
    Refused,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromotionalDecision {
    /// Its id.
    pub id: DecisionId,
    /// About whose shares.
    pub provider: ProviderId,
    /// Paid for by this account only; null if by any.
    pub account: Option<AccountId>,
    /// What.
    pub verdict: Verdict,
    /// How many attempts that were.
    pub attempts: i64,
    /// How much money.
    #[serde(rename = "amount_usd")]
    pub amount: NanoUsd,
    /// Why.
    pub reason: String,
    /// Unix microseconds.
    pub at_us: i64,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Refused => "refused",
        }
    }
}

impl Store {
    /// Shares that promotional credit paid for and nobody has decided about, by provider and account.
    pub async fn held_shares(&self, provider: Option<&ProviderId>) -> Result<Vec<HeldShares>> {
        let select = "SELECT provider, account, COUNT(*), CAST(SUM(promotional_share) AS BIGINT),
                CAST(SUM(CASE WHEN receipt_batch IS NULL THEN 0 ELSE promotional_share END) AS BIGINT)
            FROM attempts WHERE promotional_state = 'held' AND state = 'settled' AND ($1 = '' OR provider = $1)
            GROUP BY provider, account ORDER BY provider, account";
        let provider = provider.map_or("", ProviderId::as_str);
        sqlx::query(select).bind(provider).fetch_all(&self.reader).await?.iter().map(held).collect()
    }

    /// The same after `after`, a provider and an account, at most `limit` of them.
    pub async fn held_shares_after(
        &self,
        provider: Option<&ProviderId>,
        after: (&str, &str),
        limit: i64,
    ) -> Result<Vec<HeldShares>> {
        let select = "SELECT provider, account, COUNT(*), CAST(SUM(promotional_share) AS BIGINT),
                CAST(SUM(CASE WHEN receipt_batch IS NULL THEN 0 ELSE promotional_share END) AS BIGINT)
            FROM attempts WHERE promotional_state = 'held' AND state = 'settled' AND ($1 = '' OR provider = $1)
                AND (provider, account) > ($2, $3)
            GROUP BY provider, account ORDER BY provider, account LIMIT $4";
        let provider = provider.map_or("", ProviderId::as_str);
        let select = sqlx::query(select).bind(provider).bind(after.0).bind(after.1).bind(limit);
        select.fetch_all(&self.reader).await?.iter().map(held).collect()
    }

    /// Decides about a provider's shares that promotional credit (of one account, or of any) paid for: all whose receipts
    /// have come. Fails with `Conflict` if there are none, and with `Invalid` for a reason that is empty or too long.
    pub async fn decide_promotional(
        &self,
        provider: &ProviderId,
        account: Option<&AccountId>,
        verdict: Verdict,
        reason: &str,
    ) -> Result<PromotionalDecision> {
        sql::retrying(|| async {
            let mut tx = self.transaction().await?;
            let done = decide(&mut tx, &self.clock(), provider, account, verdict, reason).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }
}

/// Decides within a transaction: see [`Store::decide_promotional`].
pub(super) async fn decide(
    connection: &mut AnyConnection,
    clock: &str,
    provider: &ProviderId,
    account: Option<&AccountId>,
    verdict: Verdict,
    reason: &str,
) -> Result<PromotionalDecision> {
    super::clawback::valid_reason(reason)?;
    let id = DecisionId::fresh();
    let payer = account.map(AccountId::to_string);
    let at_us = turn(connection, clock).await?;
    let undecided = "promotional_state = 'held' AND state = 'settled' AND receipt_batch IS NOT NULL
                     AND provider = $1 AND ($2 = '' OR account = $2)";
    let update = format!(
        "UPDATE attempts SET promotional_state = $3, promotional_decision = $4, promotional_decided_at = $5
         WHERE {undecided} AND (job, attempt) IN
            (SELECT job, attempt FROM attempts WHERE {undecided} LIMIT {CHUNK}) RETURNING promotional_share"
    );
    let (mut attempts, mut amount) = (0, NanoUsd::ZERO);
    loop {
        let decided = query(update.clone())
            .bind(provider.as_str())
            .bind(payer.as_deref().unwrap_or(""))
            .bind(verdict.as_str())
            .bind(id.to_string())
            .bind(at_us)
            .fetch_all(&mut *connection)
            .await?;
        for row in &decided {
            let share = NanoUsd::from_nanos(row.try_get(0)?);
            amount = amount.checked_add(share).ok_or(StoreError::corrupt("shares overflow"))?;
        }
        attempts += decided.len() as i64;
        if (decided.len() as i64) < CHUNK {
            break;
        }
    }
    if amount == NanoUsd::ZERO {
        return Err(StoreError::Conflict("nothing of this provider's waits for a decision".into()));
    }
    let promotional = LedgerId::provider_promotional(provider);
    let (kind, to) = match verdict {
        Verdict::Approved => (PostingKind::PromotionalApproved, LedgerId::provider_payable(provider)),
        Verdict::Refused => (PostingKind::PromotionalRefused, LedgerId::outside()),
    };
    if verdict == Verdict::Approved {
        ledger::add_payable(connection, &to, amount).await?;
    }
    let posting = Posting::from_source(kind, id.to_string(), promotional, [(to, amount)])
        .ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
    ledger::write(connection, clock, &[posting]).await?;
    let record = "INSERT INTO promotional_decisions (id, provider, account, verdict, amount, attempts, reason, at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(record)
        .bind(id.to_string())
        .bind(provider.as_str())
        .bind(payer)
        .bind(verdict.as_str())
        .bind(amount.nanos())
        .bind(attempts)
        .bind(reason)
        .bind(at_us)
        .execute(&mut *connection)
        .await?;
    let (provider, account, reason) = (provider.clone(), account.copied(), reason.to_owned());
    Ok(PromotionalDecision { id, provider, account, verdict, attempts, amount, reason, at_us })
}

/// Counts credit that was just given away. The credit's row is locked.
pub(super) async fn give(connection: &mut AnyConnection, account: &AccountId, amount: NanoUsd) -> Result<()> {
    if amount == NanoUsd::ZERO {
        return Ok(());
    }
    let add = "INSERT INTO promotional_credit (account, remaining) VALUES ($1, $2)
               ON CONFLICT (account) DO UPDATE SET remaining = promotional_credit.remaining + excluded.remaining";
    sqlx::query(add).bind(account.to_string()).bind(amount.nanos()).execute(connection).await?;
    Ok(())
}

/// Locks an account's promotional credit, if it ever had any.
pub(super) async fn lock(connection: &mut AnyConnection, account: &AccountId) -> Result<()> {
    let lock = "UPDATE promotional_credit SET remaining = remaining WHERE account = $1";
    sqlx::query(lock).bind(account.to_string()).execute(connection).await?;
    Ok(())
}

/// Takes the promotional part of new charges, the first of an account's first, after their allowances: money that came
/// from promotional credit is seen here before it could be spent. One statement that finds no row where accounts have none.
pub(super) async fn spend(connection: &mut AnyConnection, attempts: &[NewAttempt<'_>]) -> Result<Vec<Funding>> {
    let mut totals: BTreeMap<AccountId, NanoUsd> = BTreeMap::new();
    for new in attempts {
        add(&mut totals, new.account, new.charge.amount)?;
    }
    let totals: Vec<(AccountId, NanoUsd)> = totals.into_iter().collect();
    let mut taken: HashMap<AccountId, NanoUsd> = HashMap::new();
    for piece in pieces(&totals) {
        let rows = values(connection, 2, piece.len());
        let amount = "CASE WHEN remaining < spent.amount THEN remaining ELSE spent.amount END";
        let mut take = query(format!(
            "WITH spent(payer, amount) AS (VALUES {rows})
             UPDATE promotional_credit SET last_move = {amount}, remaining = remaining - {amount} FROM spent
             WHERE account = spent.payer AND remaining > 0 RETURNING account, last_move"
        ));
        for (account, amount) in piece {
            take = take.bind(account.to_string()).bind(amount.nanos());
        }
        for row in take.fetch_all(&mut *connection).await? {
            taken.insert(parse(row.try_get(0)?)?, NanoUsd::from_nanos(row.try_get(1)?));
        }
    }
    let mut fund = |new: &NewAttempt<'_>| {
        let Some(left) = taken.get_mut(&new.account) else { return Ok(Funding::default()) };
        let part = new.charge.amount.min(*left);
        *left = left.checked_sub(part).ok_or(StoreError::corrupt("promotional credit overflows"))?;
        Ok(Funding::of(&new.charge, part))
    };
    attempts.iter().map(&mut fund).collect()
}

/// Writes the promotional parts of new attempts beside them; nothing where there are none.
pub(super) async fn mark(
    connection: &mut AnyConnection,
    attempts: &[NewAttempt<'_>],
    funding: &[Funding],
) -> Result<()> {
    let funded: Vec<(&NewAttempt<'_>, &Funding)> =
        attempts.iter().zip(funding).filter(|(_, funding)| funding.promotional > NanoUsd::ZERO).collect();
    for piece in pieces(&funded) {
        let rows = values(connection, 4, piece.len());
        let mut update = query(format!(
            "WITH funded(id, number, given, share) AS (VALUES {rows})
             UPDATE attempts SET promotional = funded.given, promotional_share = funded.share,
                promotional_state = CASE WHEN funded.share > 0 THEN 'held' ELSE 'none' END
             FROM funded WHERE job = funded.id AND attempt = funded.number"
        ));
        for (new, funding) in piece {
            update = update
                .bind(new.ticket.job.as_str())
                .bind(i64::from(new.ticket.attempt))
                .bind(funding.promotional.nanos())
                .bind(funding.share.nanos());
        }
        update.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Returns what came from promotional credit; the refunds themselves are in the accounts' credit by now.
pub(super) async fn restore(connection: &mut AnyConnection, amounts: &BTreeMap<AccountId, NanoUsd>) -> Result<()> {
    for (account, amount) in amounts {
        give(connection, account, *amount).await?;
    }
    Ok(())
}

/// Adds to an account's sum, leaving out nothing at all.
pub(super) fn add(sums: &mut BTreeMap<AccountId, NanoUsd>, account: AccountId, amount: NanoUsd) -> Result<()> {
    if amount != NanoUsd::ZERO {
        let sum = sums.entry(account).or_default();
        *sum = sum.checked_add(amount).ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
    }
    Ok(())
}

fn held(row: &AnyRow) -> Result<HeldShares> {
    Ok(HeldShares {
        provider: parse(row.try_get(0)?)?,
        account: parse(row.try_get(1)?)?,
        attempts: row.try_get(2)?,
        amount: NanoUsd::from_nanos(row.try_get(3)?),
        proven: NanoUsd::from_nanos(row.try_get(4)?),
    })
}

fn parse<T: std::str::FromStr>(text: String) -> Result<T> {
    text.parse().map_err(|_| StoreError::corrupt("an id is malformed"))
}
