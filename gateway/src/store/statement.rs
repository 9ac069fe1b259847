//! A provider's statement: where everything it ever earned is, and why, attempt by attempt.

use std::collections::HashMap;
use std::time::Duration;

use lumbung_openapi::earnings::{
    ClawbackLine, EarningState, EarningsLine, EarningsStatement, EarningsTotals, PayoutDetailsSet, PayoutLine,
    PromotionalLine, PromotionalState,
};
use lumbung_openapi::money::NanoUsd;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::payouts::{Payout, PayoutState};
use super::sql::{query, rows_of};
use super::{Result, Store, StoreError, micros};
use crate::domain::ids::ProviderId;

/// Attempts on one page at most.
pub const MAX_PAGE: usize = 500;
/// Payouts that a statement lists.
const MAX_PAYOUTS: usize = 100;

/// Which page of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatementPage {
    /// Attempts settled from then on, Unix microseconds.
    pub since_us: i64,
    /// Those after this one.
    pub after: Option<StatementCursor>,
    /// How many: 1 to [`MAX_PAGE`].
    pub limit: usize,
}

/// A place in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementCursor {
    settled_at: i64,
    job: String,
    attempt: i64,
}

impl std::fmt::Display for StatementCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.settled_at, self.attempt, self.job)
    }
}

impl std::str::FromStr for StatementCursor {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || StoreError::Invalid("not a cursor of a statement");
        let (settled_at, rest) = text.split_once('.').ok_or_else(malformed)?;
        let (attempt, job) = rest.split_once('.').ok_or_else(malformed)?;
        Ok(Self {
            settled_at: settled_at.parse().map_err(|_| malformed())?,
            attempt: attempt.parse().map_err(|_| malformed())?,
            job: job.to_owned(),
        })
    }
}

impl Store {
    /// One page of a provider's statement, oldest attempts first; `holdback` and `cooldown` as this gateway has them.
    pub async fn earnings_statement(
        &self,
        provider: &ProviderId,
        page: &StatementPage,
        holdback: Duration,
        cooldown: Duration,
    ) -> Result<EarningsStatement> {
        let payouts = self.payouts_to(provider).await?;
        let limit = page.limit.clamp(1, MAX_PAGE);
        let mut rows = self.attempts_of(provider, page, limit + 1).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let clawbacks = self.clawbacks_of(&rows).await?;
        let mut data = Vec::with_capacity(rows.len());
        for row in &rows {
            data.push(line(row, &payouts, &clawbacks, holdback)?);
        }
        let next_cursor = match rows.last() {
            Some(row) if has_more => Some(cursor(row)?.to_string()),
            _ => None,
        };
        let details = self.payout_details(provider).await?;
        Ok(EarningsStatement {
            object: "earnings_statement".into(),
            provider: provider.to_string(),
            as_of: secs(self.now_us().await?),
            holdback_secs: holdback.as_secs(),
            totals: self.earnings_totals(provider).await?,
            payout_details: details.map(|details| PayoutDetailsSet {
                version: details.version,
                set_at: secs(details.set_at_us),
                used_from: secs(details.set_at_us.saturating_add(micros(cooldown))),
            }),
            payouts: payouts.iter().rev().take(MAX_PAYOUTS).map(payout_line).collect(),
            data,
            has_more,
            next_cursor,
        })
    }

    /// Where everything is that a provider ever earned.
    pub async fn earnings_totals(&self, provider: &ProviderId) -> Result<EarningsTotals> {
        // One statement, so that it sees one moment.
        let select = "SELECT balances.kind, CAST(COALESCE(SUM(balances.amount), 0) AS BIGINT) FROM (
                SELECT 'pending' AS kind, balance AS amount FROM ledger_accounts WHERE id = 'pending:' || $1
                UNION ALL SELECT 'pending', amount FROM unrolled WHERE account = 'pending:' || $1
                UNION ALL SELECT 'promotional', balance FROM ledger_accounts WHERE id = 'promotional:' || $1
                UNION ALL SELECT 'promotional', amount FROM unrolled WHERE account = 'promotional:' || $1
                UNION ALL SELECT 'payable', balance FROM ledger_accounts WHERE id = 'payable:' || $1
                UNION ALL SELECT state, amount FROM payouts WHERE provider = $1
                UNION ALL SELECT 'withheld', charge - fee FROM attempts WHERE provider = $1 AND state = 'withheld'
                UNION ALL SELECT 'clawed_back', amount FROM clawbacks WHERE provider = $1
                UNION ALL SELECT verdict, amount FROM promotional_decisions WHERE provider = $1
            ) balances GROUP BY balances.kind";
        let mut totals = EarningsTotals::default();
        let mut earned = NanoUsd::ZERO;
        for row in sqlx::query(select).bind(provider.as_str()).fetch_all(&self.reader).await? {
            let amount = NanoUsd::from_nanos(row.try_get(1)?);
            let place = match row.try_get::<String, _>(0)?.as_str() {
                "pending" => &mut totals.pending,
                "promotional" => &mut totals.promotional,
                "payable" => &mut totals.payable,
                "in_transit" => &mut totals.in_transit,
                "confirmed" => &mut totals.paid,
                "withheld" => &mut totals.withheld,
                "clawed_back" => &mut totals.clawed_back,
                "refused" => &mut totals.refused,
                _ => continue, // reversed, approved: in the payable balance
            };
            *place = amount;
            earned = earned.checked_add(amount).ok_or(StoreError::corrupt("earnings overflow"))?;
        }
        totals.earned = earned;
        Ok(totals)
    }

    async fn attempts_of(&self, provider: &ProviderId, page: &StatementPage, limit: usize) -> Result<Vec<AnyRow>> {
        let select = "SELECT a.job, a.attempt, a.settled_at, a.model, a.prompt_tokens, a.completion_tokens, a.charge,
                a.fee, a.state, a.receipt_batch, a.claim_by, a.promotional_share, a.promotional_state,
                a.promotional_decided_at, a.clawed_back, a.matured_at, a.corrected_from, d.reason
            FROM attempts a LEFT JOIN promotional_decisions d ON d.id = a.promotional_decision
            WHERE a.provider = $1 AND a.settled_at >= $2 AND (a.settled_at, a.job, a.attempt) > ($3, $4, $5)
              AND (a.charge > 0 OR a.corrected_from > 0)
            ORDER BY a.settled_at, a.job, a.attempt LIMIT $6";
        let start = StatementCursor { settled_at: i64::MIN, job: String::new(), attempt: 0 };
        let after = page.after.as_ref().unwrap_or(&start);
        let rows = sqlx::query(select)
            .bind(provider.as_str())
            .bind(page.since_us.max(after.settled_at))
            .bind(after.settled_at)
            .bind(after.job.as_str())
            .bind(after.attempt)
            .bind(limit as i64)
            .fetch_all(&self.reader)
            .await?;
        Ok(rows)
    }

    async fn clawbacks_of(&self, rows: &[AnyRow]) -> Result<HashMap<(String, i64), Vec<ClawbackLine>>> {
        let mut clawed: Vec<(String, i64)> = Vec::new();
        for row in rows {
            if row.try_get::<i64, _>("clawed_back")? > 0 {
                clawed.push((row.try_get("job")?, row.try_get("attempt")?));
            }
        }
        let mut found: HashMap<(String, i64), Vec<ClawbackLine>> = HashMap::new();
        if clawed.is_empty() {
            return Ok(found);
        }
        let mut select = query(format!(
            "WITH wanted(id, number) AS (VALUES {})
             SELECT i.job, i.attempt, c.id, i.amount, c.reason, c.evidence, c.at FROM wanted
             JOIN clawback_items i ON i.job = wanted.id AND i.attempt = wanted.number
             JOIN clawbacks c ON c.id = i.clawback ORDER BY c.at, c.id",
            rows_of(2, clawed.len(), 1)
        ));
        for (job, attempt) in &clawed {
            select = select.bind(job.as_str()).bind(*attempt);
        }
        for row in select.fetch_all(&self.reader).await? {
            found.entry((row.try_get(0)?, row.try_get(1)?)).or_default().push(ClawbackLine {
                id: row.try_get(2)?,
                amount: NanoUsd::from_nanos(row.try_get(3)?),
                reason: row.try_get(4)?,
                evidence: row.try_get(5)?,
                at: secs(row.try_get(6)?),
            });
        }
        Ok(found)
    }
}

fn line(
    row: &AnyRow,
    payouts: &[Payout],
    clawbacks: &HashMap<(String, i64), Vec<ClawbackLine>>,
    holdback: Duration,
) -> Result<EarningsLine> {
    let damaged = || StoreError::corrupt("an attempt's row is malformed");
    let count = |n: i64| u32::try_from(n).map_err(|_| damaged());
    let amount = |column: &str| -> Result<NanoUsd> { Ok(NanoUsd::from_nanos(row.try_get(column)?)) };
    let less = |from: NanoUsd, what: NanoUsd| from.checked_sub(what).ok_or_else(damaged);
    let (job, attempt): (String, i64) = (row.try_get("job")?, row.try_get("attempt")?);
    let (settled_us, claim_by_us): (i64, i64) = (row.try_get("settled_at")?, row.try_get("claim_by")?);
    let matured_us: Option<i64> = row.try_get("matured_at")?;
    let is_withheld = row.try_get::<String, _>("state")? == "withheld";
    let is_proven = row.try_get::<Option<String>, _>("receipt_batch")?.is_some();
    let share = less(amount("charge")?, amount("fee")?)?;
    let given = amount("promotional_share")?;
    let net = match is_withheld {
        true => NanoUsd::ZERO,
        false => less(less(share, given)?, amount("clawed_back")?)?,
    };
    let payout = matured_us.and_then(|matured_us| went_out(payouts, matured_us));
    let state = match (is_withheld, is_proven, matured_us, payout) {
        (true, ..) => EarningState::Withheld,
        (_, false, ..) => EarningState::AwaitingReceipt,
        (_, _, None, _) => EarningState::Pending,
        (_, _, Some(_), None) => EarningState::Payable,
        (_, _, Some(_), Some(payout)) if payout.state == PayoutState::Confirmed => EarningState::Paid,
        (_, _, Some(_), Some(_)) => EarningState::InTransit,
    };
    let is_open = matches!(state, EarningState::AwaitingReceipt | EarningState::Pending);
    Ok(EarningsLine {
        attempt: count(attempt)?,
        model: row.try_get("model")?,
        settled_at: secs(settled_us),
        prompt_tokens: count(row.try_get("prompt_tokens")?)?,
        completion_tokens: count(row.try_get("completion_tokens")?)?,
        gross: amount("charge")?,
        fee: amount("fee")?,
        share,
        corrected_from: row.try_get::<Option<i64>, _>("corrected_from")?.map(NanoUsd::from_nanos),
        net,
        state,
        payable_from: is_open.then(|| secs(settled_us.saturating_add(micros(holdback)))),
        receipt_by: (!is_proven).then(|| secs(claim_by_us)),
        payout: payout.map(|payout| payout.id.to_string()),
        promotional: match given > NanoUsd::ZERO {
            true => Some(promotional(row, given, is_withheld, payouts)?),
            false => None,
        },
        clawbacks: clawbacks.get(&(job.clone(), attempt)).cloned().unwrap_or_default(),
        job,
    })
}

fn promotional(row: &AnyRow, share: NanoUsd, is_withheld: bool, payouts: &[Payout]) -> Result<PromotionalLine> {
    let decided_us: Option<i64> = row.try_get("promotional_decided_at")?;
    let verdict: String = row.try_get("promotional_state")?;
    let payout = match verdict.as_str() {
        "approved" => decided_us.and_then(|decided_us| went_out(payouts, decided_us)),
        _ => None,
    };
    let state = match (verdict.as_str(), payout) {
        _ if is_withheld => PromotionalState::Withheld,
        ("approved", None) => PromotionalState::Payable,
        ("approved", Some(payout)) if payout.state == PayoutState::Confirmed => PromotionalState::Paid,
        ("approved", Some(_)) => PromotionalState::InTransit,
        ("refused", _) => PromotionalState::Refused,
        _ => PromotionalState::Held,
    };
    Ok(PromotionalLine { share, state, reason: row.try_get("reason")?, payout: payout.map(|p| p.id.to_string()) })
}

/// The payout that took what became payable then. Each payout takes all that is payable, and these times are in the order
/// in which it happened; what a reversed payout had taken goes out with the next one.
fn went_out(payouts: &[Payout], payable_us: i64) -> Option<&Payout> {
    payouts.iter().find(|payout| payout.state != PayoutState::Reversed && payout.created_at_us > payable_us)
}

fn payout_line(payout: &Payout) -> PayoutLine {
    PayoutLine {
        id: payout.id.to_string(),
        run: payout.run.to_string(),
        amount: payout.amount,
        state: payout.state.as_str().to_owned(),
        reference: payout.reference.clone(),
        created_at: secs(payout.created_at_us),
    }
}

fn cursor(row: &AnyRow) -> Result<StatementCursor> {
    Ok(StatementCursor {
        settled_at: row.try_get("settled_at")?,
        job: row.try_get("job")?,
        attempt: row.try_get("attempt")?,
    })
}

fn secs(us: i64) -> u64 {
    us.max(0).unsigned_abs() / 1_000_000
}
