//! Receipts that providers hand in, signed: each is attached to its settled attempt, or settles it where the gateway that
//! should have is gone.

use std::collections::{BTreeMap, HashMap, HashSet};

use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptClaims, ReceiptVerdict};
use lumbung_openapi::ticket::Ticket;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::accounts::owner_of;
use super::attempts::{self, AttemptKey, JobSoFar, NewAttempt, attempt_key};
use super::corrections::{Correction, correct};
use super::settle::{now, take, touch};
use super::sql::{pieces, query, values};
use super::{Result, Store, StoreError, compact, promotional, signing_keys, sql};
use crate::domain::backing::Backing;
use crate::domain::ids::{AccountId, BatchId, ProviderId};
use crate::domain::refusal::Refusal;
use crate::domain::settlement::{Charge, Tokens};

/// How often a batch is looked at afresh when attempts change under it; what is then still undecided is offered again.
const TURNS: usize = 4;

/// A receipt that its ticket allows.
struct Offered<'a> {
    index: usize,
    ticket: &'a Ticket,
    receipt: &'a Receipt,
    claims: ReceiptClaims,
    /// What it is worth without the gateway's own count.
    vouched: Tokens,
}

/// What the books say to a receipt.
enum Finding {
    Decided(ReceiptVerdict),
    /// Its attempt is settled and has no signed receipt.
    Attach,
    /// Its attempt is not settled, and its replica's lease has ended.
    Alone,
}

impl Store {
    /// Takes a provider's receipts. The caller has verified that `provider` signed the batch over these `leaves`, and what
    /// each receipt rests on: ticket and voucher of each, in order, or why it is refused. Offering a receipt again changes
    /// nothing.
    pub async fn commit_receipts(
        &self,
        provider: &ProviderId,
        batch: &ReceiptBatch,
        leaves: &[Hash],
        backings: &[std::result::Result<Backing, Refusal>],
    ) -> Result<Vec<ReceiptVerdict>> {
        let mut verdicts: Vec<Option<ReceiptVerdict>> = vec![None; batch.receipts.len()];
        let mut offered: BTreeMap<AttemptKey, Offered<'_>> = BTreeMap::new();
        let mut again = Vec::new();
        for (index, (receipt, backing)) in batch.receipts.iter().zip(backings).enumerate() {
            let judge = |backing: &Backing| Refusal::of_text(&backing.ticket, provider, &receipt.claims);
            match backing.as_ref().map_err(|refusal| *refusal).and_then(|backing| Ok((backing, judge(backing)?))) {
                Err(refusal) => verdicts[index] = Some(refused(refusal)),
                Ok((backing, claims)) => {
                    let (ticket, vouched) = (&backing.ticket, backing.vouched(&claims));
                    match offered.get(&attempt_key(ticket)) {
                        Some(first) if first.receipt == receipt => again.push((index, first.index)),
                        Some(_) => verdicts[index] = Some(refused(Refusal::AnotherReceipt)),
                        None => {
                            offered.insert(attempt_key(ticket), Offered { index, ticket, receipt, claims, vouched });
                        }
                    }
                }
            }
        }
        for _ in 0..TURNS {
            let open: Vec<&Offered<'_>> = offered.values().filter(|o| verdicts[o.index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            for (index, verdict) in sql::retrying(|| self.try_commit(batch, leaves, &open)).await? {
                verdicts[index] = Some(verdict);
            }
        }
        for (index, first) in again {
            verdicts[index] = verdicts[first].clone();
        }
        Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or(ReceiptVerdict::Pending)).collect())
    }

    /// One turn: decides what can be decided, leaving out what changed meanwhile.
    async fn try_commit(
        &self,
        batch: &ReceiptBatch,
        leaves: &[Hash],
        open: &[&Offered<'_>],
    ) -> Result<Vec<(usize, ReceiptVerdict)>> {
        // Almost every receipt belongs to an attempt that is settled: that is tried before anything is looked up.
        let attached = self.attach(batch, leaves, open).await?;
        let mut verdicts: Vec<_> = attached.iter().map(|index| (*index, ReceiptVerdict::Committed)).collect();
        let open: Vec<&Offered<'_>> = open.iter().filter(|o| !attached.contains(&o.index)).copied().collect();
        if open.is_empty() {
            return Ok(verdicts);
        }
        let mut alone = BTreeMap::<&str, Vec<&Offered<'_>>>::new();
        for (offered, finding) in open.iter().zip(self.look_up(&open).await?) {
            match finding {
                Finding::Decided(verdict) => verdicts.push((offered.index, verdict)),
                Finding::Attach => {} // settled meanwhile: the next turn attaches it
                Finding::Alone => alone.entry(&offered.ticket.replica).or_default().push(*offered),
            }
        }
        if !alone.is_empty() {
            verdicts.extend(self.try_charge(batch, leaves, alone).await?);
        }
        Ok(verdicts)
    }

    /// Attaches what can be attached to settled attempts; the receipts' places.
    async fn attach(&self, batch: &ReceiptBatch, leaves: &[Hash], open: &[&Offered<'_>]) -> Result<HashSet<usize>> {
        let clock = self.clock();
        let mut tx = self.transaction().await?;
        let proof = attempts::write_batch(&mut tx, &clock, "receipts", &batch.jws, leaves).await?;
        let (places, restored) = attach_all(&mut tx, &clock, open, proof).await?;
        promotional::restore(&mut tx, &restored).await?;
        match places.is_empty() {
            true => tx.rollback().await?, // no receipt refers to this batch
            false => tx.commit().await?,
        }
        Ok(places)
    }

    /// Settles attempts, by replica, whose gateway is gone.
    async fn try_charge(
        &self,
        batch: &ReceiptBatch,
        leaves: &[Hash],
        alone: BTreeMap<&str, Vec<&Offered<'_>>>,
    ) -> Result<Vec<(usize, ReceiptVerdict)>> {
        let clock = self.clock();
        let mut tx = self.transaction().await?;
        for replica in alone.keys() {
            touch(&mut tx, &clock, replica).await?;
        }
        let proof = attempts::write_batch(&mut tx, &clock, "receipts", &batch.jws, leaves).await?;
        let (mut new, mut verdicts) = (Vec::new(), Vec::new());
        for offered in alone.into_values().flatten() {
            match charge_alone(&mut tx, offered, &new).await? {
                Ok((account, charge)) => new.push(NewAttempt {
                    ticket: offered.ticket,
                    ticket_text: &offered.receipt.ticket,
                    account,
                    key: None,
                    counted: None,
                    receipt: Some(&offered.receipt.claims),
                    proof: Some((proof, offered.index)),
                    charge,
                }),
                Err(refusal) => verdicts.push((offered.index, refused(refusal))),
            }
        }
        if new.is_empty() {
            tx.rollback().await?; // no receipt refers to this batch
            return Ok(verdicts);
        }
        let (now_us, keys) = (now(&mut tx, &clock).await?, signing_keys::existing(&mut tx).await?);
        if attempts::write(&mut tx, &clock, now_us, &new, &keys).await?.is_err() {
            tx.rollback().await?; // settled meanwhile: the next turn sees it
            return Ok(Vec::new());
        }
        tx.commit().await?;
        let committed = new.iter().filter_map(|new| new.proof).map(|(_, index)| (index, ReceiptVerdict::Committed));
        Ok(verdicts.into_iter().chain(committed).collect())
    }

    async fn look_up(&self, open: &[&Offered<'_>]) -> Result<Vec<Finding>> {
        let mut known: HashMap<AttemptKey, AnyRow> = HashMap::new();
        let mut reader = self.reader.acquire().await?;
        for piece in pieces(open) {
            let rows = values(&reader, 2, piece.len());
            let mut select = query(format!(
                "WITH wanted(id, number) AS (VALUES {rows})
                 SELECT a.job, a.attempt, a.state, a.ticket, a.receipt, a.receipt_batch
                 FROM wanted JOIN attempts a ON a.job = wanted.id AND a.attempt = wanted.number"
            ));
            for offered in piece {
                select = select.bind(offered.ticket.job.as_str()).bind(i64::from(offered.ticket.attempt));
            }
            for row in select.fetch_all(&mut *reader).await? {
                known.insert((row.try_get(0)?, row.try_get::<i64, _>(1)? as u32), row);
            }
        }
        drop(reader);
        let now_us = if known.len() < open.len() { self.now_us().await? } else { 0 }; // nobody asks what time it is
        let mut running: HashMap<&str, bool> = HashMap::new();
        let mut findings = Vec::with_capacity(open.len());
        for offered in open {
            findings.push(match known.get(&attempt_key(offered.ticket)) {
                Some(row) => settled(row, offered)?,
                None if Refusal::too_late(offered.ticket, now_us) => Finding::Decided(refused(Refusal::TooLate)),
                None => {
                    let replica = offered.ticket.replica.as_str();
                    let is_running = match running.get(replica) {
                        Some(known) => *known,
                        None => self.is_running(replica, now_us).await?,
                    };
                    running.insert(replica, is_running);
                    if is_running { Finding::Decided(ReceiptVerdict::Pending) } else { Finding::Alone }
                }
            });
        }
        Ok(findings)
    }

    async fn is_running(&self, replica: &str, now_us: i64) -> Result<bool> {
        let select = "SELECT id FROM replicas WHERE id = $1 AND ends_at > $2";
        Ok(sqlx::query(select).bind(replica).bind(now_us).fetch_optional(&self.reader).await?.is_some())
    }
}

fn refused(refusal: Refusal) -> ReceiptVerdict {
    ReceiptVerdict::Refused { reason: refusal.to_string() }
}

/// What there is to do with a receipt whose attempt is settled.
fn settled(row: &AnyRow, offered: &Offered<'_>) -> Result<Finding> {
    let (state, ticket): (String, String) = (row.try_get(2)?, compact::whole(row.try_get(3)?)?);
    let (receipt, batch): (Option<String>, Option<String>) = (row.try_get(4)?, row.try_get(5)?);
    let is_another = receipt.is_some_and(|known| known != offered.receipt.claims) || ticket != offered.receipt.ticket;
    Ok(match (is_another, batch) {
        (true, _) => Finding::Decided(refused(Refusal::AnotherReceipt)),
        (false, Some(_)) => Finding::Decided(ReceiptVerdict::Committed),
        (false, None) if state == "withheld" => Finding::Decided(refused(Refusal::TooLate)),
        (false, None) => Finding::Attach,
    })
}

/// The end of a ticket, by which it is known: however a row keeps it, it ends with its HMAC-SHA256, of 43 characters, and the
/// HMACs of what is offered have been verified.
const SIGNATURE: &str = "substr(attempts.ticket, length(attempts.ticket) - 42)";

fn signature(ticket: &str) -> &str {
    ticket.rsplit_once('.').map_or(ticket, |(_, signature)| signature)
}

/// Attaches receipts to their settled attempts; those that have none, or another receipt, are left out. Where a receipt
/// claims fewer tokens than were charged, the difference goes back to the account. Returns the receipts' places, and what of
/// the refunds was promotional credit.
async fn attach_all(
    connection: &mut AnyConnection,
    clock: &str,
    open: &[&Offered<'_>],
    proof: BatchId,
) -> Result<(HashSet<usize>, BTreeMap<AccountId, NanoUsd>)> {
    let (mut places, mut corrections) = (HashSet::with_capacity(open.len()), Vec::new());
    for piece in pieces(open) {
        // Almost all claim what was charged, or more: how many rows changed says it all, and none need be handed back.
        let attached = attach_covered(connection, piece, proof).await?;
        if attached == piece.len() as u64 {
            places.extend(piece.iter().map(|offered| offered.index));
            continue;
        }
        for (offered, is_attached) in settled_of(connection, piece, proof).await? {
            if is_attached {
                places.insert(offered.index);
            } else if attach_lower(connection, offered, proof).await? {
                places.insert(offered.index);
                corrections.extend(Correction::read(connection, offered.ticket, &offered.claims).await?);
            }
        }
    }
    let restored = correct(connection, clock, &corrections).await?;
    Ok((places, restored))
}

/// What an attempt must be for a receipt to be attached to it, beside what it claims.
fn attachable() -> String {
    format!(
        "job = offered.id AND attempt = offered.number AND receipt_batch IS NULL AND state = 'settled'
         AND (receipt IS NULL OR receipt = offered.claims) AND {SIGNATURE} = offered.signature"
    )
}

/// Attaches those of the receipts that claim as many tokens as were charged, or more. Returns how many.
async fn attach_covered(connection: &mut AnyConnection, piece: &[&Offered<'_>], proof: BatchId) -> Result<u64> {
    let (rows, batch) = (values(connection, 7, piece.len()), 7 * piece.len() + 1);
    let mut update = query(format!(
        "WITH offered(id, number, signature, claims, place, prompt, completion) AS (VALUES {rows})
         UPDATE attempts SET receipt = offered.claims, receipt_batch = ${batch}, receipt_index = offered.place
         FROM offered WHERE {} AND prompt_tokens <= offered.prompt AND completion_tokens <= offered.completion",
        attachable()
    ));
    for offered in piece {
        update = update
            .bind(offered.ticket.job.as_str())
            .bind(i64::from(offered.ticket.attempt))
            .bind(signature(&offered.receipt.ticket))
            .bind(offered.receipt.claims.as_str())
            .bind(offered.index as i64)
            .bind(i64::from(offered.claims.prompt_tokens))
            .bind(i64::from(offered.claims.completion_tokens));
    }
    Ok(update.bind(proof.to_string()).execute(connection).await?.rows_affected())
}

/// Those of the receipts whose attempts are in the books, and have none or this batch's, and whether they have.
async fn settled_of<'a, 'o>(
    connection: &mut AnyConnection,
    piece: &'a [&'o Offered<'o>],
    proof: BatchId,
) -> Result<Vec<(&'a Offered<'o>, bool)>> {
    let (rows, batch) = (values(connection, 3, piece.len()), 3 * piece.len() + 1);
    let mut select = query(format!(
        "WITH wanted(id, number, place) AS (VALUES {rows})
         SELECT wanted.place, CAST(CASE WHEN a.receipt_batch IS NULL THEN 0 ELSE 1 END AS BIGINT)
         FROM wanted JOIN attempts a ON a.job = wanted.id AND a.attempt = wanted.number
         WHERE a.receipt_batch IS NULL OR a.receipt_batch = ${batch}"
    ));
    for (place, offered) in (0i64..).zip(piece) {
        select = select.bind(offered.ticket.job.as_str()).bind(i64::from(offered.ticket.attempt)).bind(place);
    }
    let mut settled = Vec::new();
    for row in select.bind(proof.to_string()).fetch_all(connection).await? {
        let (place, is_attached): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let offered = usize::try_from(place).ok().and_then(|place| piece.get(place));
        settled.push((
            *offered.ok_or(StoreError::corrupt("an attempt answers that was not asked for"))?,
            is_attached != 0,
        ));
    }
    Ok(settled)
}

/// Attaches a receipt that may claim fewer tokens than were charged. Returns whether its attempt was there to have it.
async fn attach_lower(connection: &mut AnyConnection, offered: &Offered<'_>, proof: BatchId) -> Result<bool> {
    let update = query(format!(
        "WITH offered(id, number, signature, claims) AS (VALUES {})
         UPDATE attempts SET receipt = offered.claims, receipt_batch = $5, receipt_index = $6 FROM offered WHERE {}",
        values(connection, 4, 1),
        attachable()
    ));
    let update = update
        .bind(offered.ticket.job.as_str())
        .bind(i64::from(offered.ticket.attempt))
        .bind(signature(&offered.receipt.ticket))
        .bind(offered.receipt.claims.as_str())
        .bind(proof.to_string())
        .bind(offered.index as i64);
    Ok(update.execute(connection).await?.rows_affected() > 0)
}

/// What an attempt costs whose gateway is gone, by its receipt and the last voucher; taken from the allowance, which has
/// its account's money until the claim window has passed. The replica's row is locked.
async fn charge_alone(
    connection: &mut AnyConnection,
    offered: &Offered<'_>,
    new: &[NewAttempt<'_>],
) -> Result<std::result::Result<(AccountId, Charge), Refusal>> {
    let ticket = offered.ticket;
    let Some(account) = owner_of(connection, &ticket.allowance).await? else { return Ok(Err(Refusal::NoTicket)) };
    let mut job = JobSoFar::default();
    let mut tokens = offered.vouched;
    // What a later attempt went on from is all that an earlier one delivered.
    let mut later = |attempt: u32, first_token: u32| {
        if attempt > ticket.attempt {
            tokens.completion = tokens.completion.min(first_token.saturating_sub(ticket.first_token));
        }
    };
    for other in new.iter().filter(|other| other.ticket.job == ticket.job) {
        later(other.ticket.attempt, other.ticket.first_token);
        job.add(other.ticket, &other.charge)?;
    }
    let others = "SELECT attempt, first_token, charge, ceiling FROM attempts WHERE job = $1";
    for row in sqlx::query(others).bind(ticket.job.as_str()).fetch_all(&mut *connection).await? {
        later(row.try_get::<i64, _>(0)? as u32, row.try_get::<i64, _>(1)? as u32);
        let charge = NanoUsd::from_nanos(row.try_get(2)?);
        job.charged = job.charged.checked_add(charge).ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
        job.ceiling = job.ceiling.max(NanoUsd::from_nanos(row.try_get(3)?));
    }
    let charge = Charge::of(ticket, tokens, job.left(ticket));
    if charge.amount > NanoUsd::ZERO && !take(connection, &ticket.allowance, charge.amount).await? {
        return Ok(Err(Refusal::Released));
    }
    Ok(Ok((account, charge)))
}
