//! The client's receipt: what it was charged for a job, and the proofs.

use lumbung_openapi::merkle::{Hash, inclusion_path};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::{AttemptProof, InclusionProof, JobReceipt, Receipt, SettlementRecord};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::tokenizers::read_recount;
use super::{Result, Store, StoreError, compact};
use crate::domain::ids::AccountId;

impl Store {
    /// The receipt of the job that an account's client knows as `public_id`; `None` if the account has no such job, or it
    /// is not settled yet. A provider's proof is missing until its signed batch has come, about a second later.
    pub async fn job_receipt(&self, account: &AccountId, public_id: &str) -> Result<Option<JobReceipt>> {
        // `|| ''`: SQLite would rather go through all that the account ever asked.
        let select = "SELECT a.job, a.model, a.created, a.prompt_tokens, a.completion_tokens, a.charge, a.record,
                a.batch_index, s.jws, s.leaves, a.ticket, a.receipt, a.receipt_index, r.jws, r.leaves,
                c.tokenizer, c.outcome, c.claimed_prompt, c.claimed_completion, c.prompt_tokens, c.completion_tokens,
                a.job, a.attempt, a.provider, a.model, a.fee, a.delivered_sha256
            FROM attempts a JOIN batches s ON s.id = a.batch LEFT JOIN batches r ON r.id = a.receipt_batch
                LEFT JOIN recounts c ON c.job = a.job AND c.attempt = a.attempt
            WHERE a.public_id = $1 AND a.account || '' = $2 ORDER BY a.job, a.attempt";
        let rows = sqlx::query(select).bind(public_id).bind(account.to_string()).fetch_all(&self.reader).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut receipt = JobReceipt {
            id: public_id.to_owned(),
            object: "receipt".into(),
            job: first.try_get(0)?,
            model: first.try_get(1)?,
            created: first.try_get::<i64, _>(2)?.unsigned_abs(),
            prompt_tokens: 0,
            completion_tokens: 0,
            charge: NanoUsd::ZERO,
            attempts: Vec::with_capacity(rows.len()),
        };
        for row in &rows {
            add(&mut receipt, row)?;
        }
        Ok(Some(receipt))
    }
}

fn add(receipt: &mut JobReceipt, row: &AnyRow) -> Result<()> {
    let damaged = || StoreError::corrupt("an attempt's row is malformed");
    let more = |sum: u32, n: i64| u32::try_from(n).ok().and_then(|n| sum.checked_add(n)).ok_or_else(damaged);
    receipt.prompt_tokens = more(receipt.prompt_tokens, row.try_get(3)?)?;
    receipt.completion_tokens = more(receipt.completion_tokens, row.try_get(4)?)?;
    let charge = NanoUsd::from_nanos(row.try_get(5)?);
    receipt.charge = receipt.charge.checked_add(charge).ok_or_else(damaged)?;

    let settlement = proof(row.try_get(8)?, row.try_get(9)?, row.try_get(7)?)?;
    let claims: Option<String> = row.try_get(11)?;
    let signed: Option<String> = row.try_get(13)?;
    let proof = match signed {
        Some(jws) => {
            let index: Option<i64> = row.try_get(12)?;
            let leaves: Option<String> = row.try_get(14)?;
            Some(proof(jws, leaves.ok_or_else(damaged)?, index.ok_or_else(damaged)?)?)
        }
        None => None,
    };
    let ticket = compact::whole(row.try_get(10)?)?;
    let provider_receipt = claims.map(|claims| Receipt { ticket, claims, voucher: None });
    let record = match row.try_get::<String, _>(6)? {
        kept if kept.is_empty() => compact::record_text(&record(&receipt.id, row, 21)?)?,
        kept => kept,
    };
    let recount = read_recount(row, 15)?;
    receipt.attempts.push(AttemptProof { record, settlement, receipt: provider_receipt, proof, recount });
    Ok(())
}

/// What the gateway said of an attempt, from its row: job, attempt, provider, model, fee and hash stand from `first` on.
fn record(public_id: &str, row: &AnyRow, first: usize) -> Result<SettlementRecord> {
    let damaged = || StoreError::corrupt("an attempt's row is malformed");
    let count = |column: usize| -> Result<u32> { u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| damaged()) };
    let delivered: Option<String> = row.try_get(first + 5)?;
    Ok(SettlementRecord {
        id: public_id.to_owned(),
        job: row.try_get(first)?,
        attempt: count(first + 1)?,
        provider: row.try_get(first + 2)?,
        model: row.try_get(first + 3)?,
        prompt_tokens: count(3)?,
        completion_tokens: count(4)?,
        charge: NanoUsd::from_nanos(row.try_get(5)?),
        fee: NanoUsd::from_nanos(row.try_get(first + 4)?),
        delivered_sha256: delivered.map(|hash| hash.parse().map_err(|_| damaged())).transpose()?,
    })
}

/// The way from a leaf to the signed root.
fn proof(jws: String, leaves: String, index: i64) -> Result<InclusionProof> {
    let damaged = || StoreError::corrupt("a batch of leaves is malformed");
    let leaves: Vec<Hash> = leaves.split(' ').map(|leaf| leaf.parse().map_err(|_| damaged())).collect::<Result<_>>()?;
    let index = usize::try_from(index).ok().filter(|index| *index < leaves.len()).ok_or_else(damaged)?;
    Ok(InclusionProof { jws, index, path: inclusion_path(&leaves, index) })
}
