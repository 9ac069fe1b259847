//! What an account is told about a month: what it had, what came in, what it used, what is left. Every figure comes from
//! the ledger, or from the usage that is counted with it (`books check` compares the two), so that it adds up to the
//! nano-dollar; and a month that is over stays as it is, because corrections count when they are made.

use lumbung_openapi::money::NanoUsd;
use serde::Serialize;
use sqlx::{AnyConnection, Row};

use super::sql::query;
use super::usage::{USED, Used};
use super::{Result, Store, StoreError};
use crate::domain::calendar::{Day, Month};
use crate::domain::csv::Csv;
use crate::domain::ids::AccountId;
use crate::domain::posting::LedgerId;

/// Single entries that an invoice lists; an account with more gets the sums of the rest.
const MAX_ENTRIES: usize = 1000;

/// An account's invoice of a month: `opening + credits - usage = closing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invoice {
    /// Whose.
    pub account: AccountId,
    /// What the operator calls the account.
    pub name: String,
    /// Which month, UTC.
    pub month: Month,
    /// Whether the month is over, and this will not change.
    pub is_final: bool,
    /// What could be spent when the month began, set aside for replicas or not.
    #[serde(rename = "opening_usd")]
    pub opening: NanoUsd,
    /// What came in or went out, but for usage: payments, promotional credit, refunds.
    pub credits: Vec<InvoiceEntry>,
    /// All of that.
    #[serde(rename = "credits_usd")]
    pub credits_total: NanoUsd,
    /// What was used, by model and key.
    pub usage: Vec<InvoiceUsage>,
    /// What all of that cost.
    #[serde(rename = "usage_usd")]
    pub usage_total: NanoUsd,
    /// What can be spent when the month is over, or now.
    #[serde(rename = "closing_usd")]
    pub closing: NanoUsd,
}

/// Something that came in, or went out (below zero).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvoiceEntry {
    /// When, Unix microseconds; null for several together.
    pub at_us: Option<i64>,
    /// What kind of posting: `credit_paid`, `credit_promotional`, `refund` and so on.
    pub kind: String,
    /// What for: a payment's id.
    pub reference: String,
    /// How much.
    #[serde(rename = "amount_usd")]
    pub amount: NanoUsd,
}

/// What was used of a model with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InvoiceUsage {
    /// The catalogue's model.
    pub model: String,
    /// The key's id; empty where the gateway died before it could say.
    pub key: String,
    /// What its owner calls the key.
    pub label: String,
    /// How much.
    #[serde(flatten)]
    pub used: Used,
}

impl Invoice {
    /// As CSV: one line for each figure, told apart by its first field. The amounts of all lines but `closing` sum to it.
    pub fn to_csv(&self) -> String {
        let head = [
            "line",
            "date",
            "reference",
            "model",
            "key",
            "label",
            "requests",
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "amount_usd",
        ];
        let balance = |csv: Csv, line: &str, day: Day, amount: NanoUsd| {
            let csv = csv.text(line).number(day).text("").text("").text("").text("");
            csv.text("").text("").text("").text("").number(amount).end()
        };
        let mut csv = balance(Csv::new(&head), "opening", self.month.first_day(), self.opening);
        for entry in &self.credits {
            let date = entry.at_us.map_or_else(String::new, |at| Day::of_us(at).to_string());
            csv = csv.text(&entry.kind).number(date).text(&entry.reference).text("").text("").text("");
            csv = csv.text("").text("").text("").text("").number(entry.amount).end();
        }
        for InvoiceUsage { model, key, label, used } in &self.usage {
            csv = csv.text("usage").text("").text("").text(model).text(key).text(label);
            csv = csv.number(used.requests).number(used.prompt_tokens).number(used.cached_tokens);
            csv = csv.number(used.completion_tokens).number(NanoUsd::from_nanos(-used.charge.nanos())).end();
        }
        balance(csv, "closing", self.month.next().first_day(), self.closing).finish()
    }
}

impl Store {
    /// An account's invoice of a month. Fails with `Missing` if there is no such account.
    pub async fn invoice(&self, account: &AccountId, month: Month) -> Result<Invoice> {
        let (from, until) = (month.first_day(), month.next().first_day());
        let record = self.account(account).await?;
        let now_us = self.now_us().await?;
        let mut snapshot = self.snapshot().await?;
        let (before, credits) = credits(&mut snapshot, account, from, until).await?;
        let used_before = used_before(&mut snapshot, account, from).await?;
        let usage = usage(&mut snapshot, account, from, until).await?;
        snapshot.commit().await?;

        let too_much = || StoreError::corrupt("an invoice overflows");
        let opening = before.checked_sub(used_before).ok_or_else(too_much)?;
        let credits_total = sum(credits.iter().map(|entry| entry.amount))?;
        let usage_total = sum(usage.iter().map(|line| line.used.charge))?;
        let closing = opening.checked_add(credits_total).and_then(|sum| sum.checked_sub(usage_total));
        Ok(Invoice {
            account: *account,
            name: record.name,
            month,
            is_final: now_us >= until.start_us(),
            opening,
            credits,
            credits_total,
            usage,
            usage_total,
            closing: closing.ok_or_else(too_much)?,
        })
    }
}

fn sum(mut amounts: impl Iterator<Item = NanoUsd>) -> Result<NanoUsd> {
    amounts.try_fold(NanoUsd::ZERO, NanoUsd::checked_add).ok_or(StoreError::corrupt("an invoice overflows"))
}

/// What moved the account's credit beside what is only set aside (which moves within the account) and what is counted as
/// usage: the sum of all before the month, and the entries of the month.
async fn credits(
    connection: &mut AnyConnection,
    account: &AccountId,
    from: Day,
    until: Day,
) -> Result<(NanoUsd, Vec<InvoiceEntry>)> {
    const MOVED: &str = "entries e JOIN postings p ON p.id = e.posting
        WHERE e.account = $1 AND e.account LIKE 'credit:%'
          AND p.kind NOT IN ('reserve', 'give_back', 'release', 'settle', 'correct', 'withheld')";
    let credit = LedgerId::credit(*account);
    let before = format!("SELECT CAST(COALESCE(SUM(e.amount), 0) AS BIGINT) FROM {MOVED} AND p.at < $2");
    let row = query(before).bind(credit.as_str()).bind(from.start_us()).fetch_one(&mut *connection).await?;
    let before = NanoUsd::from_nanos(row.try_get(0)?);
    let listed = format!(
        "SELECT p.at, p.kind, p.reference, e.amount FROM {MOVED} AND p.at >= $2 AND p.at < $3 ORDER BY p.at, p.id LIMIT {}",
        MAX_ENTRIES + 1
    );
    let bounds = |sql: String| query(sql).bind(credit.as_str().to_owned()).bind(from.start_us()).bind(until.start_us());
    let rows = bounds(listed).fetch_all(&mut *connection).await?;
    let entry = |row: &sqlx::any::AnyRow| -> Result<InvoiceEntry> {
        let amount = NanoUsd::from_nanos(row.try_get(3)?);
        Ok(InvoiceEntry { at_us: row.try_get(0)?, kind: row.try_get(1)?, reference: row.try_get(2)?, amount })
    };
    if rows.len() <= MAX_ENTRIES {
        return Ok((before, rows.iter().map(entry).collect::<Result<_>>()?));
    }
    let summed = format!(
        "SELECT CAST(NULL AS BIGINT), p.kind, '', CAST(SUM(e.amount) AS BIGINT) FROM {MOVED}
         AND p.at >= $2 AND p.at < $3 GROUP BY p.kind ORDER BY p.kind"
    );
    let rows = bounds(summed).fetch_all(connection).await?;
    Ok((before, rows.iter().map(entry).collect::<Result<_>>()?))
}

async fn used_before(connection: &mut AnyConnection, account: &AccountId, from: Day) -> Result<NanoUsd> {
    let select = "SELECT CAST(COALESCE(SUM(charge), 0) AS BIGINT) FROM
            (SELECT charge FROM usage_daily WHERE account = $1 AND day < $2
             UNION ALL SELECT charge FROM usage_unrolled WHERE account = $1 AND day < $2) used";
    let row = sqlx::query(select).bind(account.to_string()).bind(from.number()).fetch_one(connection).await?;
    Ok(NanoUsd::from_nanos(row.try_get(0)?))
}

async fn usage(
    connection: &mut AnyConnection,
    account: &AccountId,
    from: Day,
    until: Day,
) -> Result<Vec<InvoiceUsage>> {
    let wanted = "WHERE account = $1 AND day >= $2 AND day < $3";
    let sums: Vec<String> = USED.split(", ").map(|name| format!("CAST(SUM({name}) AS BIGINT)")).collect();
    let select = format!(
        "SELECT used.model, used.api_key, COALESCE(MAX(k.label), ''), {} FROM
            (SELECT model, api_key, {USED} FROM usage_daily {wanted}
             UNION ALL SELECT model, api_key, {USED} FROM usage_unrolled {wanted}) used
         LEFT JOIN api_keys k ON k.id = used.api_key
         GROUP BY used.model, used.api_key ORDER BY used.model, used.api_key",
        sums.join(", ")
    );
    let select = query(select).bind(account.to_string()).bind(from.number()).bind(until.number());
    let rows = select.fetch_all(connection).await?;
    let line = |row: &sqlx::any::AnyRow| -> Result<InvoiceUsage> {
        let used = Used::read(row, 3)?;
        Ok(InvoiceUsage { model: row.try_get(0)?, key: row.try_get(1)?, label: row.try_get(2)?, used })
    };
    rows.iter().map(line).collect()
}
