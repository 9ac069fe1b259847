//! Recomputing the books: every balance from its entries, every attempt from its postings.

use serde::Serialize;
use sqlx::Row;

use super::{Result, Store};

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

/// One statement, so that it sees one moment of the books on either database while gateways go on writing. Each branch
/// yields what is wrong, with what, what was found, and what should have been.
const DIFFERENCES: &str = "
WITH by_account AS (SELECT account, CAST(SUM(amount) AS BIGINT) AS total FROM entries GROUP BY account),
queued AS (SELECT account, CAST(SUM(amount) AS BIGINT) AS total FROM unrolled GROUP BY account),
ids AS (SELECT id FROM ledger_accounts UNION SELECT account FROM by_account UNION SELECT account FROM queued),
balances AS (
    SELECT ids.id AS id, COALESCE(l.balance, 0) + COALESCE(q.total, 0) AS balance,
           COALESCE(b.total, 0) AS total, COALESCE(l.may_go_negative, 0) AS may_go_negative
    FROM ids LEFT JOIN ledger_accounts l ON l.id = ids.id LEFT JOIN queued q ON q.account = ids.id
    LEFT JOIN by_account b ON b.account = ids.id
),
moved AS (
    SELECT p.reference AS reference, e.account AS account, CAST(SUM(e.amount) AS BIGINT) AS total
    FROM postings p JOIN entries e ON e.posting = p.id
    WHERE p.kind IN ('settle', 'correct', 'withheld') GROUP BY p.reference, e.account
),
expected AS (
    SELECT job || '/' || CAST(attempt AS TEXT) AS reference, 'pending:' || provider AS pending, allowance,
           'credit:' || account AS credit, charge, fee,
           CASE WHEN state = 'withheld' THEN 0 ELSE charge - fee END AS share
    FROM attempts
),
paid AS (
    SELECT x.reference AS reference, x.share AS share, x.fee AS fee,
           COALESCE(p.total, 0) AS share_moved, COALESCE(r.total, 0) AS fee_moved,
           COALESCE(a.total, 0) + COALESCE(c.total, 0) AS client_moved
    FROM expected x
    LEFT JOIN moved p ON p.reference = x.reference AND p.account = x.pending
    LEFT JOIN moved r ON r.reference = x.reference AND r.account = 'revenue'
    LEFT JOIN moved a ON a.reference = x.reference AND a.account = x.allowance
    LEFT JOIN moved c ON c.reference = x.reference AND c.account = x.credit
)
SELECT 'posting does not sum to zero' AS what, posting AS id, CAST(SUM(amount) AS BIGINT) AS found, CAST(0 AS BIGINT) AS due
    FROM entries GROUP BY posting HAVING SUM(amount) <> 0
UNION ALL SELECT 'entries of no posting', e.posting, CAST(SUM(e.amount) AS BIGINT), CAST(0 AS BIGINT)
    FROM entries e LEFT JOIN postings p ON p.id = e.posting WHERE p.id IS NULL GROUP BY e.posting
UNION ALL SELECT 'posting without entries', p.id, CAST(0 AS BIGINT), CAST(0 AS BIGINT)
    FROM postings p LEFT JOIN entries e ON e.posting = p.id WHERE e.posting IS NULL
UNION ALL SELECT 'balance is not the sum of its entries', id, balance, total FROM balances WHERE balance <> total
UNION ALL SELECT 'balance below zero', id, balance, CAST(0 AS BIGINT) FROM balances
    WHERE balance < 0 AND may_go_negative = 0
UNION ALL SELECT 'balances do not sum to zero', 'all', CAST(SUM(balance) AS BIGINT), CAST(0 AS BIGINT) FROM balances
    HAVING SUM(balance) <> 0
UNION ALL SELECT 'attempt: the provider''s share', reference, share_moved, share FROM paid WHERE share_moved <> share
UNION ALL SELECT 'attempt: the fee', reference, fee_moved, fee FROM paid WHERE fee_moved <> fee
UNION ALL SELECT 'attempt: what the client paid', reference, client_moved, -share - fee FROM paid
    WHERE client_moved <> -share - fee
UNION ALL SELECT 'postings of no attempt', m.reference, CAST(SUM(m.total) AS BIGINT), CAST(0 AS BIGINT)
    FROM moved m LEFT JOIN expected x ON x.reference = m.reference WHERE x.reference IS NULL GROUP BY m.reference
UNION ALL SELECT 'attempt above its ceiling', job || '/' || CAST(attempt AS TEXT), charge, ceiling FROM attempts
    WHERE charge > ceiling
UNION ALL SELECT 'job above its ceiling', job, CAST(SUM(charge) AS BIGINT), MAX(ceiling) FROM attempts
    GROUP BY job HAVING SUM(charge) > MAX(ceiling)
";

impl Store {
    /// Recomputes every balance from the entries, and what every attempt cost from its postings, and lists what differs.
    /// Reads the whole ledger; gateways need not stop.
    pub async fn books_check(&self) -> Result<BooksReport> {
        let counts = "SELECT (SELECT COUNT(*) FROM ledger_accounts), (SELECT COUNT(*) FROM postings),
                             (SELECT COUNT(*) FROM attempts)";
        let row = sqlx::query(counts).fetch_one(&self.reader).await?;
        let mut report = BooksReport {
            accounts: row.try_get(0)?,
            postings: row.try_get(1)?,
            attempts: row.try_get(2)?,
            differences: Vec::new(),
        };
        for row in sqlx::query(DIFFERENCES).fetch_all(&self.reader).await?.iter().take(MAX_LISTED) {
            let (what, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let (found, due): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
            report.differences.push(format!("{what}: {id}: {found} nano-dollars, not {due}"));
        }
        Ok(report)
    }
}
