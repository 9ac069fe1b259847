//! Settling on the gateway's own count: a whole batch in one transaction, each attempt once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::Recount;
use lumbung_openapi::ticket::Ticket;
use sqlx::{AnyConnection, Row};

use super::attempts::{self, AttemptKey, JobSoFar, NewAttempt, attempt_key};
use super::sql::{pieces, query, values};
use super::tokenizers::write_recounts;
use super::{Result, SigningKeys, Store, StoreError, sql};
use crate::domain::ids::{AccountId, KeyId};
use crate::domain::refusal::Refusal;
use crate::domain::settlement::{Charge, Counted};

/// One attempt to settle.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The ticket.
    pub ticket: Ticket,
    /// The ticket as it was signed.
    pub ticket_text: String,
    /// Who pays.
    pub account: AccountId,
    /// With which key it was asked.
    pub key: KeyId,
    /// What the gateway saw.
    pub counted: Counted,
    /// The provider's claims (JSON text) as they came with the answer, not signed yet.
    pub receipt: Option<String>,
    /// What it costs, as the gateway worked it out.
    pub charge: Charge,
    /// What was found when its tokens were counted again, if they were.
    pub recount: Option<Recount>,
}

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// In the books now, at this charge.
    Settled(Charge),
    /// It was in the books already.
    Already,
    /// The allowance did not have the money any more (it was released while the replica was frozen): in the books now,
    /// at no charge.
    Uncovered,
}

impl Store {
    /// Settles a batch: all of it or, on an error, nothing. Offering an attempt again changes nothing. The gateway's
    /// root over the records of what is new is signed with `keys`. Outcomes come in the batch's order.
    pub async fn settle(&self, batch: &[Settlement], keys: &SigningKeys) -> Result<Vec<SettleOutcome>> {
        let mut known: HashSet<AttemptKey> = HashSet::new();
        loop {
            let mut seen = known.clone();
            let fresh: Vec<&Settlement> = batch.iter().filter(|s| seen.insert(attempt_key(&s.ticket))).collect();
            match sql::retrying(|| self.try_settle(&fresh, keys)).await? {
                Ok(outcomes) => {
                    let mut outcomes: HashMap<AttemptKey, SettleOutcome> =
                        fresh.iter().map(|s| attempt_key(&s.ticket)).zip(outcomes).collect();
                    let outcome = |s: &Settlement| outcomes.remove(&attempt_key(&s.ticket));
                    return Ok(batch.iter().map(outcome).map(|o| o.unwrap_or(SettleOutcome::Already)).collect());
                }
                // Rare, and cheaper than asking each time. Every turn knows at least one more, so this ends.
                Err(settled) => known.extend(settled),
            }
        }
    }

    async fn try_settle(
        &self,
        batch: &[&Settlement],
        keys: &SigningKeys,
    ) -> Result<std::result::Result<Vec<SettleOutcome>, HashSet<AttemptKey>>> {
        if batch.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let clock = self.clock();
        let mut tx = self.transaction().await?;
        let replicas: BTreeSet<&str> = batch.iter().map(|s| s.ticket.replica.as_str()).collect();
        let (mut now_us, mut late) = (0, false);
        for replica in replicas {
            let turn = touch(&mut tx, &clock, replica).await?;
            now_us = now_us.max(turn.now_us);
            late |= !turn.is_running;
        }
        // A running replica knows what it has charged for its own jobs' first attempts: nothing. Otherwise the books know.
        let jobs: BTreeSet<&str> =
            batch.iter().filter(|s| late || s.ticket.attempt > 1).map(|s| s.ticket.job.as_str()).collect();
        let mut jobs = so_far(&mut tx, &jobs).await?;
        let mut charges = Vec::with_capacity(batch.len());
        for settlement in batch {
            let job = jobs.entry(settlement.ticket.job.clone()).or_default();
            let left = job.left(&settlement.ticket).min(settlement.charge.amount);
            let charge = Charge::of(&settlement.ticket, settlement.charge.tokens, left);
            job.add(&settlement.ticket, &charge)?;
            charges.push(charge);
        }
        let covered = spend(&mut tx, batch, &mut charges).await?;
        let new: Vec<NewAttempt<'_>> = batch.iter().zip(&charges).map(|(s, charge)| new_attempt(s, *charge)).collect();
        if let Err(settled) = attempts::write(&mut tx, &clock, now_us, &new, keys).await? {
            tx.rollback().await?;
            return Ok(Err(settled));
        }
        write_recounts(&mut tx, now_us, batch).await?;
        tx.commit().await?;
        let outcome = |(charge, covered): (Charge, bool)| match covered {
            true => SettleOutcome::Settled(charge),
            false => SettleOutcome::Uncovered,
        };
        Ok(Ok(charges.into_iter().zip(covered).map(outcome).collect()))
    }
}

fn new_attempt(settlement: &Settlement, charge: Charge) -> NewAttempt<'_> {
    NewAttempt {
        ticket: &settlement.ticket,
        ticket_text: &settlement.ticket_text,
        account: settlement.account,
        key: Some(settlement.key),
        counted: Some(&settlement.counted),
        receipt: settlement.receipt.as_deref().filter(|claims| is_acceptable(&settlement.ticket, claims)),
        proof: None,
        charge,
    }
}

/// Whether claims that came with the answer can ever be paid: others are as good as none.
fn is_acceptable(ticket: &Ticket, claims: &str) -> bool {
    ticket.provider.parse().is_ok_and(|provider| Refusal::of_text(ticket, &provider, claims).is_ok())
}

/// A replica's row, locked until the transaction ends.
pub(super) struct Turn {
    /// Whether its lease runs; an unknown replica's does not.
    pub is_running: bool,
    /// The database's clock, Unix microseconds.
    pub now_us: i64,
}

/// Waits for this replica's turn: whoever spends its allowances holds its row.
pub(super) async fn touch(connection: &mut AnyConnection, clock: &str, replica: &str) -> Result<Turn> {
    let touch = format!("UPDATE replicas SET touched = touched + 1 WHERE id = $1 RETURNING {clock}, ends_at");
    let Some(row) = query(touch).bind(replica).fetch_optional(&mut *connection).await? else {
        return Ok(Turn { is_running: false, now_us: now(connection, clock).await? });
    };
    let (now_us, ends_at): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Turn { is_running: ends_at > now_us, now_us })
}

/// The database's clock, Unix microseconds, inside a transaction.
pub(super) async fn now(connection: &mut AnyConnection, clock: &str) -> Result<i64> {
    Ok(query(format!("SELECT {clock}")).fetch_one(connection).await?.try_get(0)?)
}

/// What the books hold of these jobs.
async fn so_far(connection: &mut AnyConnection, jobs: &BTreeSet<&str>) -> Result<HashMap<String, JobSoFar>> {
    let jobs: Vec<&str> = jobs.iter().copied().collect();
    let mut found = HashMap::new();
    for piece in pieces(&jobs) {
        let rows = values(connection, 1, piece.len());
        let mut select = query(format!(
            "WITH wanted(id) AS (VALUES {rows}) SELECT a.job, CAST(SUM(a.charge) AS BIGINT), MAX(a.ceiling)
             FROM wanted JOIN attempts a ON a.job = wanted.id GROUP BY a.job"
        ));
        for job in piece {
            select = select.bind(*job);
        }
        for row in select.fetch_all(&mut *connection).await? {
            let (charged, ceiling) = (NanoUsd::from_nanos(row.try_get(1)?), NanoUsd::from_nanos(row.try_get(2)?));
            found.insert(row.try_get(0)?, JobSoFar { charged, ceiling });
        }
    }
    Ok(found)
}

/// Takes the charges from their allowances. Where one has too little, its attempts are charged in order as long as it
/// lasts, and the rest nothing. Says for each attempt whether it was covered.
async fn spend(connection: &mut AnyConnection, batch: &[&Settlement], charges: &mut [Charge]) -> Result<Vec<bool>> {
    let mut totals: BTreeMap<&str, NanoUsd> = BTreeMap::new();
    for (settlement, charge) in batch.iter().zip(charges.iter()).filter(|(_, charge)| charge.amount > NanoUsd::ZERO) {
        let total = totals.entry(&settlement.ticket.allowance).or_default();
        *total = total.checked_add(charge.amount).ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
    }
    let mut short: HashSet<&str> = totals.keys().copied().collect();
    let totals: Vec<(&str, NanoUsd)> = totals.into_iter().collect();
    for piece in pieces(&totals) {
        for id in take_all(connection, piece).await? {
            short.remove(id.as_str());
        }
    }
    let mut covered = vec![true; batch.len()];
    for ((settlement, charge), covered) in batch.iter().zip(charges).zip(&mut covered) {
        let allowance = settlement.ticket.allowance.as_str();
        if charge.amount > NanoUsd::ZERO && short.contains(allowance) {
            *covered = take(connection, allowance, charge.amount).await?;
            if !*covered {
                *charge = Charge::default();
            }
        }
    }
    Ok(covered)
}

/// Takes each amount from its allowance, from all that have as much; their ids.
async fn take_all(connection: &mut AnyConnection, totals: &[(&str, NanoUsd)]) -> Result<Vec<String>> {
    let rows = values(connection, 2, totals.len());
    let mut update = query(format!(
        "WITH spent(allowance, amount) AS (VALUES {rows})
         UPDATE ledger_accounts SET balance = balance - spent.amount FROM spent
         WHERE id = spent.allowance AND kind = 'allowance' AND balance >= spent.amount RETURNING id"
    ));
    for (allowance, amount) in totals {
        update = update.bind(*allowance).bind(amount.nanos());
    }
    let rows = update.fetch_all(connection).await?;
    rows.into_iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Takes an amount from an allowance, if it has as much.
pub(super) async fn take(connection: &mut AnyConnection, allowance: &str, amount: NanoUsd) -> Result<bool> {
    Ok(!take_all(connection, &[(allowance, amount)]).await?.is_empty())
}
