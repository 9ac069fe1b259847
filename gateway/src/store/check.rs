//! Recomputing the books: every balance from its entries, all attempts from their postings.

use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::Row;

use super::{Result, Store, check_earnings};

/// Differences that are listed at most.
const MAX_LISTED: usize = 1000;

/// What a check of the books found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BooksReport {
    /// Ledger accounts that were checked.
    pub accounts: i64,
    /// Postings that were checked.
    pub postings: i64,
    /// Settled attempts that were checked.
    pub attempts: i64,
    /// What is wrong, the first thousand; empty if the books are right.
    pub differences: Vec<String>,
}

impl BooksReport {
    /// Whether nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Every statement yields what is wrong, with what, what was found, and what should have been. Each reads its tables once
/// and groups them: a check takes as long as the ledger is, and never the square of that.
const STATEMENTS: [&str; 6] = [POSTINGS, BALANCES, ATTEMPTS, JOBS, USAGE, check_earnings::STATEMENT];

const POSTINGS: &str = "
SELECT CASE WHEN p.id IS NULL THEN 'entries of no posting' ELSE 'posting does not sum to zero' END,
       e.posting, e.total, CAST(0 AS BIGINT)
FROM (SELECT posting, CAST(SUM(amount) AS BIGINT) AS total FROM entries GROUP BY posting) e
LEFT JOIN postings p ON p.id = e.posting WHERE p.id IS NULL OR e.total <> 0
UNION ALL SELECT 'posting without entries', p.id, CAST(0 AS BIGINT), CAST(0 AS BIGINT)
FROM postings p LEFT JOIN (SELECT DISTINCT posting FROM entries) e ON e.posting = p.id WHERE e.posting IS NULL
";

const BALANCES: &str = "
WITH balances AS (
    SELECT id, CAST(SUM(balance) AS BIGINT) AS balance, CAST(SUM(total) AS BIGINT) AS total,
           MAX(may_go_negative) AS may_go_negative
    FROM (SELECT id, balance, CAST(0 AS BIGINT) AS total, may_go_negative FROM ledger_accounts
          UNION ALL SELECT account, amount, 0, 0 FROM unrolled
          UNION ALL SELECT account, 0, amount, 0 FROM entries) b GROUP BY id
)
SELECT 'balance is not the sum of its entries', id, balance, total FROM balances WHERE balance <> total
UNION ALL SELECT 'balance below zero', id, balance, CAST(0 AS BIGINT) FROM balances
    WHERE balance < 0 AND may_go_negative = 0
UNION ALL SELECT 'balances do not sum to zero', 'all', CAST(SUM(balance) AS BIGINT), CAST(0 AS BIGINT) FROM balances
    HAVING SUM(balance) <> 0
";

/// What each party to the attempts is due, beside what postings moved. The client is one party, whichever of its ledger
/// accounts paid. Attempts that were settled together have one posting, dated as they are: what each of them is due, less what
/// postings of its own moved (a correction, a refund), must sum up to what that one moved. `is_own` is one where an attempt's
/// settlement has a posting of its own, as before there were postings of batches: it is compared by itself. `known` is zero
/// where only postings speak of it.
const ATTEMPTS: &str = "
SELECT CASE WHEN known = 0 THEN 'moved for no attempt'
            WHEN party = 'revenue' THEN 'attempt: the fee'
            WHEN party LIKE 'promotional:%' THEN 'attempt: the promotional share'
            WHEN party LIKE 'client:%' THEN 'attempt: what the client paid'
            ELSE 'attempt: the provider''s share' END,
       reference || CASE WHEN known > 1 THEN ' or one settled with it' ELSE '' END, moved, due
FROM (
    SELECT MAX(reference) AS reference, party, CAST(SUM(moved) AS BIGINT) AS moved, CAST(SUM(due) AS BIGINT) AS due,
           SUM(known) AS known
    FROM (
        SELECT reference, party, CASE MAX(is_own) WHEN 1 THEN 0 ELSE MAX(settled_at) END AS settled_at, SUM(moved) AS moved,
               SUM(due) AS due, MAX(known) AS known
        FROM (
            SELECT a.job || '/' || CAST(a.attempt AS TEXT) AS reference,
                   CASE part WHEN 1 THEN 'pending:' || a.provider WHEN 2 THEN 'revenue' WHEN 3 THEN 'promotional:' || a.provider
                       ELSE 'client:' || a.account END AS party,
                   settled_at, CAST(0 AS BIGINT) AS moved,
                   CASE part WHEN 1 THEN a.share WHEN 2 THEN a.fee WHEN 3 THEN a.given ELSE -a.share - a.given - a.fee END AS due,
                   1 AS known, 0 AS is_own
            FROM (SELECT job, attempt, account, provider, fee, settled_at,
                         CASE WHEN state = 'withheld' THEN 0 ELSE charge - fee - promotional_share END AS share,
                         CASE WHEN state = 'withheld' THEN 0 ELSE promotional_share END AS given FROM attempts) a
            CROSS JOIN (SELECT 1 AS part UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) parts
            UNION ALL
            SELECT p.reference, CASE WHEN l.kind IN ('credit', 'allowance') THEN 'client:' || l.owner ELSE e.account END,
                   CASE WHEN p.reference LIKE '%/%' THEN 0 ELSE p.at END, e.amount, 0, 0,
                   CASE WHEN p.kind = 'settle' AND p.reference LIKE '%/%' THEN 1 ELSE 0 END
            FROM postings p JOIN entries e ON e.posting = p.id LEFT JOIN ledger_accounts l ON l.id = e.account
            WHERE p.kind IN ('settle', 'correct', 'withheld')
        ) lines GROUP BY reference, party
    ) of_one GROUP BY settled_at, CASE settled_at WHEN 0 THEN reference ELSE '' END, party
) parties WHERE moved <> due OR known = 0
";

const JOBS: &str = "
SELECT 'job above its ceiling', job, CAST(SUM(charge) AS BIGINT), MAX(ceiling) FROM attempts
    GROUP BY job HAVING SUM(charge) > MAX(ceiling)
";

/// The usage that is counted as it happens, beside the attempts that it was counted from; and day by day beside the
/// ledger, because what an account used on a day is what the postings of that day took from it.
const USAGE: &str = "
SELECT what, id, found, due FROM (
    SELECT 'usage is not what the attempts sum to' AS what,
           account || ' ' || api_key || ' ' || model || ' ' || provider AS id,
           CAST(SUM(charge * (1 - sign)) / 2 AS BIGINT) AS found, CAST(SUM(charge * (1 + sign)) / 2 AS BIGINT) AS due,
           SUM(sign * requests) <> 0 OR SUM(sign * attempts) <> 0 OR SUM(sign * prompt_tokens) <> 0
               OR SUM(sign * cached_tokens) <> 0 OR SUM(sign * completion_tokens) <> 0
               OR SUM(sign * charge) <> 0 OR SUM(sign * fee) <> 0 AS is_wrong
    FROM (SELECT 1 AS sign, account, COALESCE(api_key, '') AS api_key, model, provider,
                 CASE attempt WHEN 1 THEN 1 ELSE 0 END AS requests, 1 AS attempts, prompt_tokens, cached_tokens,
                 completion_tokens, CASE state WHEN 'withheld' THEN fee ELSE charge END AS charge, fee FROM attempts
          UNION ALL SELECT -1, account, api_key, model, provider, requests, attempts, prompt_tokens, cached_tokens,
                 completion_tokens, charge, fee FROM usage_daily
          UNION ALL SELECT -1, account, api_key, model, provider, requests, attempts, prompt_tokens, cached_tokens,
                 completion_tokens, charge, fee FROM usage_unrolled) both_sides
    GROUP BY account, api_key, model, provider
    UNION ALL
    SELECT 'usage of a day is not what its postings took', account || ' ' || CAST(day AS TEXT),
           CAST(SUM(charge * (1 - sign)) / 2 AS BIGINT), CAST(SUM(charge * (1 + sign)) / 2 AS BIGINT),
           SUM(sign * charge) <> 0
    FROM (SELECT -1 AS sign, account, day, charge FROM usage_daily
          UNION ALL SELECT -1, account, day, charge FROM usage_unrolled
          UNION ALL SELECT 1, l.owner, CAST(p.at / 86400000000 AS BIGINT), -e.amount
          FROM postings p JOIN entries e ON e.posting = p.id JOIN ledger_accounts l ON l.id = e.account
          WHERE p.kind IN ('settle', 'correct', 'withheld') AND l.kind IN ('credit', 'allowance')) both_sides
    GROUP BY account, day
    UNION ALL
    SELECT 'usage of the network is not that of the accounts', CAST(day AS TEXT) || ' ' || model || ' ' || provider,
           CAST(SUM(charge * (1 - sign)) / 2 AS BIGINT), CAST(SUM(charge * (1 + sign)) / 2 AS BIGINT),
           SUM(sign * requests) <> 0 OR SUM(sign * attempts) <> 0 OR SUM(sign * prompt_tokens) <> 0
               OR SUM(sign * cached_tokens) <> 0 OR SUM(sign * completion_tokens) <> 0
               OR SUM(sign * charge) <> 0 OR SUM(sign * fee) <> 0
    FROM (SELECT -1 AS sign, day, model, provider, requests, attempts, prompt_tokens, cached_tokens, completion_tokens,
                 charge, fee FROM usage_network
          UNION ALL SELECT 1, day, model, provider, requests, attempts, prompt_tokens, cached_tokens,
                 completion_tokens, charge, fee FROM usage_daily) both_sides
    GROUP BY day, model, provider
) compared WHERE is_wrong
";

impl Store {
    /// Recomputes every balance from the entries, what attempts cost from their postings, and what was used from
    /// both, and lists what differs. Reads the whole ledger, all of it as it is at one moment; gateways need not stop.
    pub async fn books_check(&self) -> Result<BooksReport> {
        let mut snapshot = self.snapshot().await?;
        let counts = "SELECT (SELECT COUNT(*) FROM ledger_accounts), (SELECT COUNT(*) FROM postings),
                             (SELECT COUNT(*) FROM attempts)";
        let row = sqlx::query(counts).fetch_one(&mut *snapshot).await?;
        let mut report = BooksReport {
            accounts: row.try_get(0)?,
            postings: row.try_get(1)?,
            attempts: row.try_get(2)?,
            differences: Vec::new(),
        };
        for statement in STATEMENTS {
            let mut rows = sqlx::query(statement).fetch(&mut *snapshot);
            while let Some(row) = rows.try_next().await?
                && report.differences.len() < MAX_LISTED
            {
                let (what, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                let (found, due): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
                report.differences.push(format!("{what}: {id}: {found}, not {due}"));
            }
        }
        Ok(report)
    }
}
