//! `books check` finds what was tampered with.

use crate::support::{Books, Customer, Provider, tokens};

/// Books in which everything has happened.
async fn busy(books: &Books) -> (Customer, Provider) {
    let (customer, provider) = (books.customer("1").await, Provider::new(1));
    let tickets = [customer.ticket(books, &provider).await, customer.ticket(books, &provider).await];
    books.settle(&tickets.clone().map(|ticket| customer.settlement(books, ticket, tokens(10, 20)))).await;
    books.store.roll_up().await.expect("answer");
    books.store.roll_up_usage().await.expect("answer");
    books.offer(&provider, vec![provider.receipt(books, &tickets[0], tokens(10, 15))]).await;
    books.assert_right().await;
    (customer, provider)
}

/// Damages the books with `sql` and expects the check to name `expected`.
async fn damage(books: &Books, sql: &str, expected: &str) {
    books.sql(sql).await;
    let report = books.store.books_check().await.expect("a report");
    assert!(report.differences.iter().any(|line| line.contains(expected)), "{sql}: {:?}", report.differences);
}

const TRICKS: [(&str, &str); 21] = [
    ("UPDATE ledger_accounts SET balance = balance + 1 WHERE kind = 'credit'", "balance is not the sum of its entries"),
    ("UPDATE ledger_accounts SET balance = balance - 1 WHERE kind = 'allowance'", "balances do not sum to zero"),
    ("UPDATE unrolled SET amount = amount + 1", "balance is not the sum of its entries"),
    ("DELETE FROM unrolled", "balance is not the sum of its entries"),
    ("UPDATE entries SET amount = amount + 1 WHERE account = 'revenue'", "posting does not sum to zero"),
    ("DELETE FROM entries WHERE account = 'outside'", "posting does not sum to zero"),
    ("DELETE FROM postings WHERE kind = 'reserve'", "entries of no posting"),
    (
        "DELETE FROM entries WHERE posting IN (SELECT id FROM postings WHERE kind = 'reserve')",
        "posting without entries",
    ),
    ("UPDATE attempts SET charge = charge - 1", "attempt: the provider's share"),
    (
        "UPDATE attempts SET charge = charge - 1 WHERE corrected_from IS NULL",
        "/1 or one settled with it", // of which one was corrected, and is as it should be
    ),
    ("UPDATE attempts SET state = 'withheld'", "attempt: what the client paid"),
    ("DELETE FROM attempts", "moved for no attempt"),
    ("UPDATE attempts SET provider = 'someone else'", "attempt: the provider's share"),
    ("UPDATE attempts SET account = 'someone else'", "attempt: what the client paid"),
    ("UPDATE attempts SET fee = fee - 1", "attempt: the fee"),
    ("DELETE FROM usage_daily", "usage is not what the attempts sum to"),
    (
        "UPDATE usage_daily SET prompt_tokens = prompt_tokens + 1, completion_tokens = completion_tokens - 1",
        "usage is not what the attempts sum to",
    ),
    ("UPDATE usage_daily SET day = day + 1", "usage of a day is not what its postings took"),
    ("UPDATE usage_unrolled SET fee = fee + 1", "usage is not what the attempts sum to"),
    ("UPDATE usage_network SET requests = 1", "usage of the network is not that of the accounts"),
    ("UPDATE attempts SET ceiling = charge, job = 'job_1', attempt = completion_tokens", "job above its ceiling"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_trick_is_found_on_sqlite() {
    for (sql, expected) in TRICKS {
        let books = Books::sqlite().await;
        busy(&books).await;
        damage(&books, sql, expected).await;
        books.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trick_is_found_on_postgres() {
    for (sql, expected) in TRICKS {
        let books = Books::postgres().await;
        busy(&books).await;
        damage(&books, sql, expected).await;
        books.remove().await;
    }
}

/// Money moved between accounts by a posting that balances: only the attempts know better.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_refund_that_balances_is_found() {
    let books = Books::sqlite().await;
    let (customer, provider) = busy(&books).await;
    let attempt = "(SELECT job || '/1' FROM attempts LIMIT 1)";
    books.sql(&format!("INSERT INTO postings VALUES ('pst_forged', 'correct', {attempt}, 0)")).await;
    books.sql(&format!("INSERT INTO entries VALUES ('pst_forged', 'pending:{}', -5)", provider.id)).await;
    books.sql(&format!("INSERT INTO entries VALUES ('pst_forged', 'credit:{}', 5)", customer.account)).await;
    books.sql(&format!("INSERT INTO unrolled VALUES ('forged', 'pending:{}', -5)", provider.id)).await;
    let credit = format!("UPDATE ledger_accounts SET balance = balance + 5 WHERE id = 'credit:{}'", customer.account);
    damage(&books, &credit, "attempt: the provider's share").await;
    books.remove().await;
}

/// Releases before this one posted each attempt by itself: their ledgers are as right as they were.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_were_posted_one_by_one_are_checked_by_themselves() {
    for books in [Books::sqlite().await, Books::postgres().await] {
        busy(&books).await;
        let posting = "(SELECT id FROM postings WHERE kind = 'settle')";
        // The two of the batch were alike before one was corrected.
        books.sql(&format!("UPDATE entries SET amount = amount / 2 WHERE posting = {posting}")).await;
        books
            .sql("INSERT INTO postings SELECT 'pst_other', kind, reference, at FROM postings WHERE kind = 'settle'")
            .await;
        let copy =
            format!("INSERT INTO entries SELECT 'pst_other', account, amount FROM entries WHERE posting = {posting}");
        books.sql(&copy.replace("kind = 'settle'", "kind = 'settle' AND id <> 'pst_other'")).await;
        for (posting, job) in [("id = 'pst_other'", "MIN(job)"), ("id <> 'pst_other'", "MAX(job)")] {
            let reference = format!("(SELECT {job} || '/1' FROM attempts)");
            let sql = format!("UPDATE postings SET reference = {reference} WHERE kind = 'settle' AND {posting}");
            books.sql(&sql).await;
        }
        books.assert_right().await;
        // Two errors that cancel each other out: each attempt is compared by itself.
        let shifted =
            "UPDATE attempts SET charge = charge + CASE WHEN job = (SELECT MIN(job) FROM attempts) THEN 1 ELSE -1 END";
        damage(&books, shifted, "attempt: the provider's share").await;
        books.remove().await;
    }
}

/// The rules that the tables themselves hold, whatever a program does.
#[tokio::test(flavor = "multi_thread")]
async fn the_tables_refuse_what_cannot_be() {
    for books in [Books::sqlite().await, Books::postgres().await] {
        busy(&books).await;
        for sql in [
            "UPDATE ledger_accounts SET balance = -1 WHERE kind = 'credit'",
            "UPDATE ledger_accounts SET balance = -1 WHERE kind = 'allowance'",
            "UPDATE attempts SET charge = ceiling + 1",
            "UPDATE attempts SET fee = charge + 1",
            "INSERT INTO entries VALUES ('pst_1', 'revenue', 0)",
        ] {
            let pool = sqlx::AnyPool::connect(&books.url).await.expect("a connection");
            assert!(sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&pool).await.is_err(), "{sql}");
            pool.close().await;
        }
        books.finish().await;
    }
}
