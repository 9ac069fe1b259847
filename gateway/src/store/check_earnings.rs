//! The part of a check of the books that is about what becomes of providers' shares, and about credit that was given away.

/// As the check's other statements: yields what is wrong, with what, what was found, and what should have been.
pub(super) const STATEMENT: &str = "
WITH balances AS (
    SELECT id, CAST(SUM(balance) AS BIGINT) AS balance FROM
        (SELECT id, balance FROM ledger_accounts UNION ALL SELECT account, amount FROM unrolled) b GROUP BY id
)
SELECT 'provider: pending', p.id, COALESCE(b.balance, 0), p.due FROM
    (SELECT id, CAST(SUM(amount) AS BIGINT) AS due FROM
        (SELECT 'pending:' || provider AS id, CASE WHEN state = 'settled' AND matured_at IS NULL
            THEN charge - fee - promotional_share - clawed_back ELSE 0 END AS amount FROM attempts
         UNION ALL SELECT id, 0 FROM balances WHERE id LIKE 'pending:%') a GROUP BY id) p
    LEFT JOIN balances b ON b.id = p.id WHERE COALESCE(b.balance, 0) <> p.due
UNION ALL SELECT 'provider: promotional', p.id, COALESCE(b.balance, 0), p.due FROM
    (SELECT id, CAST(SUM(amount) AS BIGINT) AS due FROM
        (SELECT 'promotional:' || provider AS id, CASE WHEN state = 'settled' AND promotional_state = 'held'
            THEN promotional_share ELSE 0 END AS amount FROM attempts
         UNION ALL SELECT id, 0 FROM balances WHERE id LIKE 'promotional:%') a GROUP BY id) p
    LEFT JOIN balances b ON b.id = p.id WHERE COALESCE(b.balance, 0) <> p.due
UNION ALL SELECT 'provider: payable', p.id, COALESCE(b.balance, 0), p.due FROM
    (SELECT id, CAST(SUM(amount) AS BIGINT) AS due FROM
        (SELECT 'payable:' || provider AS id,
            CASE WHEN matured_at IS NULL THEN 0 ELSE charge - fee - promotional_share - clawed_back END
            + CASE WHEN promotional_state = 'approved' THEN promotional_share ELSE 0 END AS amount FROM attempts
         UNION ALL SELECT 'payable:' || provider, -amount FROM payouts WHERE state <> 'reversed'
         UNION ALL SELECT id, 0 FROM balances WHERE id LIKE 'payable:%') a GROUP BY id) p
    LEFT JOIN balances b ON b.id = p.id WHERE COALESCE(b.balance, 0) <> p.due
UNION ALL SELECT 'payout in transit', p.id, COALESCE(b.balance, 0),
        CASE WHEN p.state = 'in_transit' THEN p.amount ELSE 0 END
    FROM payouts p LEFT JOIN balances b ON b.id = 'payout:' || p.id
    WHERE COALESCE(b.balance, 0) <> CASE WHEN p.state = 'in_transit' THEN p.amount ELSE 0 END
UNION ALL SELECT 'clawed back from an attempt', a.job || '/' || CAST(a.attempt AS TEXT), a.clawed_back,
        COALESCE(i.amount, 0)
    FROM attempts a LEFT JOIN (SELECT job, attempt, CAST(SUM(amount) AS BIGINT) AS amount FROM clawback_items
        GROUP BY job, attempt) i ON i.job = a.job AND i.attempt = a.attempt
    WHERE a.clawed_back <> COALESCE(i.amount, 0)
UNION ALL SELECT 'payable without a receipt', job || '/' || CAST(attempt AS TEXT), charge - fee, CAST(0 AS BIGINT)
    FROM attempts WHERE (matured_at IS NOT NULL OR promotional_state = 'approved')
        AND (receipt_batch IS NULL OR state <> 'settled')
UNION ALL SELECT 'account: promotional credit left', g.id, COALESCE(r.remaining, 0), g.given - COALESCE(s.spent, 0) FROM
    (SELECT e.account AS id, CAST(SUM(e.amount) AS BIGINT) AS given FROM postings p JOIN entries e ON e.posting = p.id
     WHERE p.kind IN ('credit_promotional', 'promotional_lapsed') AND e.account <> 'outside' GROUP BY e.account) g
    LEFT JOIN (SELECT 'credit:' || account AS id, CAST(SUM(promotional
        - CASE WHEN state = 'withheld' THEN promotional_share ELSE 0 END) AS BIGINT) AS spent
        FROM attempts GROUP BY account) s ON s.id = g.id
    LEFT JOIN (SELECT 'credit:' || account AS id, remaining FROM promotional_credit) r ON r.id = g.id
    WHERE COALESCE(r.remaining, 0) <> g.given - COALESCE(s.spent, 0)
UNION ALL SELECT 'account: more promotional credit than it can spend', r.account, r.remaining, s.spendable FROM
    promotional_credit r JOIN (SELECT owner, CAST(SUM(balance) AS BIGINT) AS spendable FROM ledger_accounts
        WHERE kind IN ('credit', 'allowance') GROUP BY owner) s ON s.owner = r.account
    WHERE r.remaining > s.spendable
";
