//! Writing settled attempts down: their rows, the gateway's signed root over their records, and the posting of all of them.

use std::collections::{BTreeMap, HashSet};

use lumbung_openapi::merkle::{self, Hash};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::RootClaims;
use lumbung_openapi::ticket::Ticket;
use sqlx::{AnyConnection, Row};

use super::sql::{pieces, query, values};
use super::usage::{self, Use, Used};
use super::{Result, SigningKeys, StoreError, compact, ledger, promotional};
use crate::domain::earnings::Funding;
use crate::domain::ids::{AccountId, AllowanceId, BatchId, KeyId, ProviderId};
use crate::domain::posting::{LedgerId, Posting, PostingKind};
use crate::domain::refusal::claim_by_us;
use crate::domain::settlement::{Charge, Counted};

/// An attempt that is to be written down. What it costs has been taken from its allowance already.
pub(super) struct NewAttempt<'a> {
    pub ticket: &'a Ticket,
    pub ticket_text: &'a str,
    pub account: AccountId,
    pub key: Option<KeyId>,
    /// `None` where the gateway is gone and a receipt stands alone.
    pub counted: Option<&'a Counted>,
    /// The provider's claims, as text.
    pub receipt: Option<&'a str>,
    /// Where in which of the provider's signed batches they stand.
    pub proof: Option<(BatchId, usize)>,
    pub charge: Charge,
}

impl NewAttempt<'_> {
    /// Prompt tokens charged that came from a prefix cache.
    fn cached_tokens(&self) -> i64 {
        self.counted.map_or(0, |counted| i64::from(counted.cached_tokens.min(self.charge.tokens.prompt)))
    }
}

/// An attempt's primary key.
pub(super) type AttemptKey = (String, u32);

pub(super) fn attempt_key(ticket: &Ticket) -> AttemptKey {
    (ticket.job.clone(), ticket.attempt)
}

/// What postings of one attempt, those after its settlement, refer to it by; `books check` compares by it.
pub(super) fn reference(ticket: &Ticket) -> String {
    format!("{}/{}", ticket.job, ticket.attempt)
}

const COLUMNS: [&str; 33] = [
    "job",
    "attempt",
    "account",
    "api_key",
    "replica",
    "allowance",
    "provider",
    "model",
    "public_id",
    "created",
    "first_token",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "ceiling",
    "charge",
    "fee",
    "delivered_sha256",
    "finish_reason",
    "received_at",
    "started_at",
    "first_token_at",
    "finished_at",
    "settled_at",
    "claim_by",
    "ticket",
    "record",
    "batch",
    "batch_index",
    "receipt",
    "receipt_batch",
    "receipt_index",
    "state",
];

/// Writes attempts, their batch and its posting. `Err` in the inner result: those that are in the books already, in
/// which case the transaction must be rolled back, for the batch's root is over all.
pub(super) async fn write(
    connection: &mut AnyConnection,
    clock: &str,
    now_us: i64,
    attempts: &[NewAttempt<'_>],
    keys: &SigningKeys,
) -> Result<std::result::Result<(), HashSet<AttemptKey>>> {
    if attempts.is_empty() {
        return Ok(Ok(()));
    }
    let funding = promotional::spend(connection, attempts).await?;
    let records: Vec<String> = attempts.iter().map(record).collect::<Result<_>>()?;
    let batch = sign(connection, clock, now_us, &records, keys).await?;
    let is_compact = compact::is_for(connection);
    let (mut written, mut numbered) = (0, records.iter().enumerate());
    for piece in pieces(attempts) {
        let rows = values(connection, COLUMNS.len(), piece.len());
        let mut insert = query(format!(
            "INSERT INTO attempts ({}) VALUES {rows} ON CONFLICT (job, attempt) DO NOTHING",
            COLUMNS.join(", ")
        ));
        for (new, (index, record)) in piece.iter().zip(&mut numbered) {
            let NewAttempt { ticket, counted, charge, .. } = new;
            let short = if is_compact { compact::shortened(new.ticket_text) } else { None };
            insert = insert
                .bind(ticket.job.as_str())
                .bind(i64::from(ticket.attempt))
                .bind(new.account.to_string())
                .bind(new.key.map(|key| key.to_string()))
                .bind(ticket.replica.as_str())
                .bind(ticket.allowance.as_str())
                .bind(ticket.provider.as_str())
                .bind(ticket.model.as_str())
                .bind(ticket.public_id.as_str())
                .bind(i64::try_from(ticket.created).unwrap_or(0))
                .bind(i64::from(ticket.first_token))
                .bind(i64::from(charge.tokens.prompt))
                .bind(new.cached_tokens())
                .bind(i64::from(charge.tokens.completion))
                .bind(ticket.ceiling.nanos().max(0))
                .bind(charge.amount.nanos())
                .bind(charge.fee.nanos())
                .bind(counted.and_then(|c| c.delivered_sha256).map(|hash| hash.to_string()))
                .bind(counted.map_or("", |c| c.finish_reason.as_str()))
                .bind(counted.map(|c| c.received_us))
                .bind(counted.map(|c| c.started_us))
                .bind(counted.and_then(|c| c.first_token_us))
                .bind(counted.map(|c| c.finished_us))
                .bind(now_us)
                .bind(claim_by_us(ticket))
                .bind(short.unwrap_or_else(|| new.ticket_text.to_owned()))
                .bind(if is_compact { "" } else { record.as_str() })
                .bind(batch.to_string())
                .bind(index as i64)
                .bind(new.receipt)
                .bind(new.proof.map(|(batch, _)| batch.to_string()))
                .bind(new.proof.map(|(_, index)| index as i64))
                .bind("settled");
        }
        written += insert.execute(&mut *connection).await?.rows_affected();
    }
    if written < attempts.len() as u64 {
        return Ok(Err(written_before(connection, attempts, batch).await?));
    }
    promotional::mark(connection, attempts, &funding).await?;
    ledger::write_at(connection, now_us, &[posting(batch, attempts, &funding)?]).await?;
    usage::count(connection, now_us, attempts.iter().map(used)).await?;
    Ok(Ok(()))
}

/// Those of the attempts that were in the books before this batch, of which there is one at least.
async fn written_before(
    connection: &mut AnyConnection,
    attempts: &[NewAttempt<'_>],
    batch: BatchId,
) -> Result<HashSet<AttemptKey>> {
    let mut known = HashSet::new();
    for piece in pieces(attempts) {
        let (rows, last) = (values(connection, 2, piece.len()), 2 * piece.len() + 1);
        let mut select = query(format!(
            "WITH wanted(id, number) AS (VALUES {rows}) SELECT a.job, a.attempt
             FROM wanted JOIN attempts a ON a.job = wanted.id AND a.attempt = wanted.number WHERE a.batch <> ${last}"
        ));
        for NewAttempt { ticket, .. } in piece {
            select = select.bind(ticket.job.as_str()).bind(i64::from(ticket.attempt));
        }
        for row in select.bind(batch.to_string()).fetch_all(&mut *connection).await? {
            known.insert((row.try_get(0)?, row.try_get::<i64, _>(1)? as u32));
        }
    }
    match known.is_empty() {
        true => Err(StoreError::corrupt("an attempt is in the books and cannot be found")),
        false => Ok(known),
    }
}

/// Signs a Merkle root over settlement records and writes it down; the batch's id.
pub(super) async fn sign(
    connection: &mut AnyConnection,
    clock: &str,
    now_us: i64,
    records: &[String],
    keys: &SigningKeys,
) -> Result<BatchId> {
    let leaves: Vec<Hash> = records.iter().map(|record| Hash::of_leaf(&[record.as_bytes()])).collect();
    let claims = RootClaims {
        root: merkle::root(&leaves),
        count: leaves.len(),
        iat: u64::try_from(now_us / 1_000_000).unwrap_or(0),
    };
    let jws = keys.sign_settlements(&claims);
    write_batch(connection, clock, "settlements", &jws, &leaves).await
}

/// Writes a signed root and its leaves down.
pub(super) async fn write_batch(
    connection: &mut AnyConnection,
    clock: &str,
    kind: &'static str,
    jws: &str,
    leaves: &[Hash],
) -> Result<BatchId> {
    let id = BatchId::fresh();
    let leaves: Vec<String> = leaves.iter().map(Hash::to_string).collect();
    query(format!("INSERT INTO batches (id, kind, jws, leaves, at) VALUES ($1, $2, $3, $4, {clock})"))
        .bind(id.to_string())
        .bind(kind)
        .bind(jws)
        .bind(leaves.join(" "))
        .execute(connection)
        .await?;
    Ok(id)
}

fn record(new: &NewAttempt<'_>) -> Result<String> {
    record_text(new.ticket, &new.charge, new.counted.and_then(|counted| counted.delivered_sha256))
}

/// The text that the gateway signs of an attempt.
pub(super) fn record_text(ticket: &Ticket, charge: &Charge, delivered: Option<Hash>) -> Result<String> {
    compact::record_text(&charge.record(ticket, delivered))
}

fn used(new: &NewAttempt<'_>) -> (Use, Used) {
    let NewAttempt { ticket, charge, .. } = new;
    let which = Use {
        account: new.account.to_string(),
        api_key: new.key.map_or_else(String::new, |key| key.to_string()),
        model: ticket.model.clone(),
        provider: ticket.provider.clone(),
    };
    let used = Used {
        requests: i64::from(ticket.attempt == 1),
        attempts: 1,
        prompt_tokens: i64::from(charge.tokens.prompt),
        cached_tokens: new.cached_tokens(),
        completion_tokens: i64::from(charge.tokens.completion),
        charge: charge.amount,
        fee: charge.fee,
    };
    (which, used)
}

/// What the attempts of a batch move, in one posting: what each of them moves is in its row, and it is dated as they are.
fn posting(batch: BatchId, attempts: &[NewAttempt<'_>], funding: &[Funding]) -> Result<Posting> {
    let too_much = || StoreError::Invalid("more money than 64 bits hold");
    let mut sums: BTreeMap<(&str, &str), [NanoUsd; 3]> = BTreeMap::new();
    for (NewAttempt { ticket, charge, .. }, funding) in attempts.iter().zip(funding) {
        let sums = sums.entry((&ticket.allowance, &ticket.provider)).or_default();
        let paid = charge.share().checked_sub(funding.share).ok_or_else(too_much)?;
        for (sum, amount) in sums.iter_mut().zip([paid, funding.share, charge.fee]) {
            *sum = sum.checked_add(amount).ok_or_else(too_much)?;
        }
    }
    let mut moves = Vec::with_capacity(3 * sums.len());
    for ((allowance, provider), [paid, given, fee]) in sums {
        let Parties { allowance, pending, promotional } = Parties::of(allowance, provider)?;
        for (to, amount) in [(pending, paid), (promotional, given), (LedgerId::revenue(), fee)] {
            moves.push((allowance.clone(), to, amount));
        }
    }
    Posting::of_moves(PostingKind::Settle, batch.to_string(), moves).ok_or_else(too_much)
}

/// The ledger accounts that a ticket names.
pub(super) struct Parties {
    pub allowance: LedgerId,
    pub pending: LedgerId,
    pub promotional: LedgerId,
}

impl Parties {
    pub fn of(allowance: &str, provider: &str) -> Result<Self> {
        let malformed = || StoreError::corrupt("a ticket of ours names what has no id");
        let allowance: AllowanceId = allowance.parse().map_err(|_| malformed())?;
        let provider: ProviderId = provider.parse().map_err(|_| malformed())?;
        Ok(Self {
            allowance: LedgerId::allowance(allowance),
            pending: LedgerId::provider_pending(&provider),
            promotional: LedgerId::provider_promotional(&provider),
        })
    }
}

/// What the books already hold of one job, and what may still be charged for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JobSoFar {
    pub charged: NanoUsd,
    /// The highest of its attempts' ceilings: each says what the whole job may cost at that attempt's ask.
    pub ceiling: NanoUsd,
}

impl JobSoFar {
    /// What is left once a ticket of this job raises the ceiling to its own.
    pub fn left(&self, ticket: &Ticket) -> NanoUsd {
        self.ceiling.max(ticket.ceiling).checked_sub(self.charged).unwrap_or(NanoUsd::ZERO)
    }

    /// Counts an attempt in.
    pub fn add(&mut self, ticket: &Ticket, charge: &Charge) -> Result<()> {
        self.ceiling = self.ceiling.max(ticket.ceiling);
        self.charged =
            self.charged.checked_add(charge.amount).ok_or(StoreError::Invalid("more money than 64 bits hold"))?;
        Ok(())
    }
}
