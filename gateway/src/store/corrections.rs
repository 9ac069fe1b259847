//! Attempts whose receipt claims fewer tokens than were charged: the difference goes back to the account, and a new
//! record is signed in place of the one that said more.

use std::collections::BTreeMap;

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::ReceiptClaims;
use lumbung_openapi::ticket::Ticket;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::attempts::{self, Parties};
use super::settle::now;
use super::usage::{self, Use, Used};
use super::{Result, StoreError, compact, ledger, promotional, signing_keys};
use crate::domain::earnings::Funding;
use crate::domain::ids::AccountId;
use crate::domain::posting::{LedgerId, Posting, PostingKind};
use crate::domain::settlement::{Charge, Tokens};

/// An attempt that was charged for more than its provider claims.
pub(super) struct Correction<'a> {
    ticket: &'a Ticket,
    account: AccountId,
    api_key: String,
    was: Charge,
    is: Charge,
    was_given: Funding,
    is_given: Funding,
    record: String,
}

impl<'a> Correction<'a> {
    /// Of an attempt whose row is locked, by its ticket and what the provider claims; `None` where that is as much as was
    /// charged.
    pub async fn read(
        connection: &mut AnyConnection,
        ticket: &'a Ticket,
        claims: &ReceiptClaims,
    ) -> Result<Option<Self>> {
        let select =
            "SELECT account, prompt_tokens, completion_tokens, charge, fee, delivered_sha256, COALESCE(api_key, ''),
                promotional, promotional_share FROM attempts WHERE job = $1 AND attempt = $2";
        let select = sqlx::query(select).bind(ticket.job.as_str()).bind(i64::from(ticket.attempt));
        Self::of(&select.fetch_one(connection).await?, ticket, claims)
    }

    fn of(row: &AnyRow, ticket: &'a Ticket, claims: &ReceiptClaims) -> Result<Option<Self>> {
        let damaged = || StoreError::corrupt("an attempt's row is malformed");
        let count = |n: i64| u32::try_from(n).map_err(|_| damaged());
        let tokens = Tokens { prompt: count(row.try_get(1)?)?, completion: count(row.try_get(2)?)? };
        let (amount, fee) = (NanoUsd::from_nanos(row.try_get(3)?), NanoUsd::from_nanos(row.try_get(4)?));
        let was = Charge { tokens, amount, fee };
        let claimed = tokens.lower(Tokens::from(claims));
        if claimed == tokens {
            return Ok(None);
        }
        // What was charged was within the last ceiling, which only a voucher may know.
        let priced = Ticket { ceiling: amount, ..ticket.clone() };
        let is = Charge::of(&priced, claimed, amount);
        let delivered: Option<String> = row.try_get(5)?;
        let delivered = delivered.map(|hash| hash.parse().map_err(|_| damaged())).transpose()?;
        let record = attempts::record_text(ticket, &is, delivered)?;
        let account = row.try_get::<String, _>(0)?.parse().map_err(|_| damaged())?;
        let api_key = row.try_get(6)?;
        let was_given =
            Funding { promotional: NanoUsd::from_nanos(row.try_get(7)?), share: NanoUsd::from_nanos(row.try_get(8)?) };
        let is_given = was_given.lowered(&was, &is);
        Ok(Some(Self { ticket, account, api_key, was, is, was_given, is_given, record }))
    }

    fn used_less(&self) -> Option<(Use, Used)> {
        let which = Use {
            account: self.account.to_string(),
            api_key: self.api_key.clone(),
            model: self.ticket.model.clone(),
            provider: self.ticket.provider.clone(),
        };
        let less = |was: u32, is: u32| i64::from(is) - i64::from(was);
        let used = Used {
            prompt_tokens: less(self.was.tokens.prompt, self.is.tokens.prompt),
            completion_tokens: less(self.was.tokens.completion, self.is.tokens.completion),
            charge: self.is.amount.checked_sub(self.was.amount)?,
            fee: self.is.fee.checked_sub(self.was.fee)?,
            ..Used::default()
        };
        Some((which, used))
    }

    fn posting(&self) -> Option<Posting> {
        let Parties { pending, promotional, .. } = Parties::of(&self.ticket.allowance, &self.ticket.provider).ok()?;
        let share = self.is.share().checked_sub(self.was.share())?;
        let given = self.is_given.share.checked_sub(self.was_given.share)?;
        let fee = self.is.fee.checked_sub(self.was.fee)?;
        let parts = [(pending, share.checked_sub(given)?), (promotional, given), (LedgerId::revenue(), fee)];
        Posting::from_source(
            PostingKind::Correct,
            attempts::reference(self.ticket),
            LedgerId::credit(self.account),
            parts,
        )
    }
}

/// Posts corrections, and signs new records in the place of those that said more. Returns what of the refunds was
/// promotional credit, by account.
pub(super) async fn correct(
    connection: &mut AnyConnection,
    clock: &str,
    corrections: &[Correction<'_>],
) -> Result<BTreeMap<AccountId, NanoUsd>> {
    let mut restored = BTreeMap::new();
    if corrections.is_empty() {
        return Ok(restored);
    }
    let (now_us, keys) = (now(connection, clock).await?, signing_keys::existing(connection).await?);
    let records: Vec<String> = corrections.iter().map(|correction| correction.record.clone()).collect();
    let batch = attempts::sign(connection, clock, now_us, &records, &keys).await?;
    let is_compact = compact::is_for(connection);
    let (mut postings, mut refunds) = (Vec::new(), BTreeMap::<AccountId, NanoUsd>::new());
    for (index, correction) in corrections.iter().enumerate() {
        let update =
            "UPDATE attempts SET prompt_tokens = $3, completion_tokens = $4, charge = $5, fee = $6, record = $7,
                      batch = $8, batch_index = $9, promotional = $10, promotional_share = $11, corrected_from = $12
                      WHERE job = $1 AND attempt = $2";
        sqlx::query(update)
            .bind(correction.ticket.job.as_str())
            .bind(i64::from(correction.ticket.attempt))
            .bind(i64::from(correction.is.tokens.prompt))
            .bind(i64::from(correction.is.tokens.completion))
            .bind(correction.is.amount.nanos())
            .bind(correction.is.fee.nanos())
            .bind(if is_compact { "" } else { correction.record.as_str() })
            .bind(batch.to_string())
            .bind(index as i64)
            .bind(correction.is_given.promotional.nanos())
            .bind(correction.is_given.share.nanos())
            .bind(correction.was.share().nanos())
            .execute(&mut *connection)
            .await?;
        let given = correction.was_given.promotional.checked_sub(correction.is_given.promotional);
        promotional::add(&mut restored, correction.account, given.ok_or(StoreError::corrupt("a refund overflows"))?)?;
        let too_much = StoreError::Invalid("more money than 64 bits hold");
        let refund = refunds.entry(correction.account).or_default();
        let more = correction.was.amount.checked_sub(correction.is.amount).and_then(|more| refund.checked_add(more));
        let (Some(sum), Some(posting)) = (more, correction.posting()) else { return Err(too_much) };
        *refund = sum;
        postings.push(posting);
    }
    for (account, refund) in refunds {
        ledger::add_credit(connection, &LedgerId::credit(account), refund).await?;
    }
    ledger::write_at(connection, now_us, &postings).await?;
    let less: Option<Vec<_>> = corrections.iter().map(Correction::used_less).collect();
    usage::count(connection, now_us, less.ok_or(StoreError::Invalid("more money than 64 bits hold"))?).await?;
    Ok(restored)
}
