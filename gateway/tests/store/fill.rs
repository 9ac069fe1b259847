//! Fills books with accounts and jobs that look as if they had been settled over the last thirty days, by a few large
//! statements. `books check` finds nothing wrong with them.

use lumbung_gateway::domain::ids::AccountId;

use crate::support::{Books, Provider};

const DAYS: i64 = 30;
const DAY_US: i64 = 86_400_000_000;
const MODELS: usize = 8;
const PROVIDERS: usize = 20;
/// Jobs in one statement.
const CHUNK: i64 = 100_000;
/// What each account paid in, and what of it is set aside, in nano-dollars.
const PAID: i64 = 1_000_000_000_000;
const ASIDE: i64 = 100_000_000_000;

/// The account with the most jobs.
pub fn busiest() -> AccountId {
    account(0)
}

/// One with hardly any.
pub fn quietest(accounts: i64) -> AccountId {
    account(accounts - 1)
}

/// Whose a job is, and what they know it by.
pub fn answer(job: i64, accounts: i64) -> (AccountId, String) {
    let chosen = (job * 7919) % accounts;
    (account(chosen * chosen / accounts), format!("chatcmpl-{}", id("job", &format!("{}", 10_000_000 + job))))
}

fn account(n: i64) -> AccountId {
    id("acct", &format!("{}", 10_000_000 + n)).parse().expect("an id")
}

/// An id of a number, which is an SQL expression's value.
fn id(prefix: &str, number: &str) -> String {
    format!("{prefix}_{}{number}", "0".repeat(18))
}

/// The same as an SQL expression.
fn id_of(prefix: &str, expression: &str) -> String {
    format!("'{}' || CAST(10000000 + {expression} AS TEXT)", id(prefix, ""))
}

/// Numbers from `first` to `last`, a table `n` with a column `i`.
fn numbers(first: i64, last: i64) -> String {
    format!("n(i) AS (SELECT CAST({first} AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {last})")
}

/// `accounts` accounts, some with many and most with few of `jobs` jobs.
pub async fn fill(books: &Books, accounts: i64, jobs: i64) {
    let now_us = books.store.now_us().await.expect("the clock");
    let start = now_us - DAYS * DAY_US;
    open_accounts(books, accounts, start).await;
    let providers: Vec<String> =
        (0..PROVIDERS).map(|n| format!("({n}, '{}')", Provider::new(n as u8 + 100).id)).collect();
    books.sql("CREATE TABLE fill_providers (n BIGINT PRIMARY KEY, id TEXT NOT NULL)").await;
    books.sql(&format!("INSERT INTO fill_providers VALUES {}", providers.join(", "))).await;
    for kind in ["settlements", "receipts"] {
        books
            .sql(&format!(
                "INSERT INTO batches (id, kind, jws, leaves, at) VALUES ('{kind}', '{kind}', '', '', {start})"
            ))
            .await;
    }
    let step = DAYS * DAY_US / jobs;
    for first in (0..jobs).step_by(CHUNK as usize) {
        settle(books, accounts, first, (first + CHUNK).min(jobs) - 1, start, step).await;
    }
    books.sql("DROP TABLE fill_providers").await;
    balance(books).await;
    count(books).await;
    if books.is_postgres() {
        books.sql("ANALYZE").await; // as autovacuum has done long before there are so many
    }
}

async fn open_accounts(books: &Books, accounts: i64, start: i64) {
    let numbers = numbers(0, accounts - 1);
    let (account, key, allowance) = (id_of("acct", "i"), id_of("key", "i"), id_of("alw", "i"));
    let replica = id("rep", "10000000");
    let from_numbers = async |statement: String| {
        books.sql(&statement.replace("FROM n", &format!("FROM (WITH RECURSIVE {numbers} SELECT i FROM n) n"))).await;
    };
    books
        .sql(&format!(
            "INSERT INTO replicas (id, started_at, ends_at, exclusive) VALUES ('{replica}', {start}, {start}, 0)"
        ))
        .await;
    from_numbers(format!("INSERT INTO accounts (id, name, created_at) SELECT {account}, 'account', {start} FROM n"))
        .await;
    from_numbers(format!(
        "INSERT INTO api_keys (id, account, sha256, shown_prefix, label, created_at)
         SELECT {key}, {account}, 'sha256 of ' || CAST(i AS TEXT), 'sk-', 'key', {start} FROM n"
    ))
    .await;
    from_numbers(format!(
        "INSERT INTO ledger_accounts (id, kind, owner, replica, balance)
         SELECT 'credit:' || {account}, 'credit', {account}, '', {} FROM n",
        PAID - ASIDE
    ))
    .await;
    from_numbers(format!(
        "INSERT INTO ledger_accounts (id, kind, owner, replica, balance)
         SELECT {allowance}, 'allowance', {account}, '{replica}', {ASIDE} FROM n"
    ))
    .await;
    for (kind, from, to, amount) in [
        ("credit_paid", "'outside'".to_owned(), format!("'credit:' || {account}"), PAID),
        ("reserve", format!("'credit:' || {account}"), allowance.clone(), ASIDE),
    ] {
        let posting = format!("'{kind}' || CAST(i AS TEXT)");
        from_numbers(format!(
            "INSERT INTO postings (id, kind, reference, at) SELECT {posting}, '{kind}', '', {start} FROM n"
        ))
        .await;
        for (party, amount) in [(from, -amount), (to, amount)] {
            from_numbers(format!(
                "INSERT INTO entries (posting, account, amount) SELECT {posting}, {party}, {amount} FROM n"
            ))
            .await;
        }
    }
}

/// Jobs `first` to `last`: their attempts and what these posted. A third of the jobs used each of the three models that an
/// account likes best, wherever there was a free provider.
async fn settle(books: &Books, accounts: i64, first: i64, last: i64, start: i64, step: i64) {
    // Squares: the first accounts have a hundred times the jobs of the last.
    let chosen = format!("((i * 7919) % {accounts}) * ((i * 7919) % {accounts}) / {accounts}");
    let (job, replica) = (id_of("job", "i"), id("rep", "10000000"));
    let (account, key, allowance) = (id_of("acct", "a"), id_of("key", "a"), id_of("alw", "a"));
    let numbers = numbers(first, last);
    let filler = "t".repeat(900); // as long as a ticket
    books
        .sql(&format!(
            "INSERT INTO attempts (job, attempt, account, api_key, replica, allowance, provider, model, public_id,
                created, first_token, prompt_tokens, cached_tokens, completion_tokens, ceiling, charge, fee,
                delivered_sha256, finish_reason, started_at, finished_at, settled_at, claim_by, ticket, record, batch,
                batch_index, receipt, receipt_batch, receipt_index, state)
             SELECT {job}, 1, {account}, {key}, '{replica}', {allowance}, p.id,
                'model-' || CAST((a + i % 3) % {MODELS} AS TEXT), 'chatcmpl-' || {job}, at / 1000000, 0, 10 + i % 90, 0,
                20 + i % 180, 500000, (10 + i % 90) * 1000 + (20 + i % 180) * 2000,
                (10 + i % 90) * 100 + (20 + i % 180) * 200, NULL, 'stop', at - 1, at, at, at + 300000000, '{filler}',
                '{}', 'settlements', i, '{}', 'receipts', i, 'settled'
             FROM (WITH RECURSIVE {numbers} SELECT i, {chosen} AS a, {start} + i * {step} AS at FROM n) n
             JOIN fill_providers p ON p.n = (i * 31 + i / 7) % {PROVIDERS}",
            "r".repeat(450),
            "c".repeat(220),
        ))
        .await;
    let (from, to) = (id("job", &format!("{}", 10_000_000 + first)), id("job", &format!("{}", 10_000_000 + last)));
    let these = format!("FROM attempts WHERE job BETWEEN '{from}' AND '{to}'");
    books
        .sql(&format!(
            "INSERT INTO postings (id, kind, reference, at) SELECT 'pst' || job, 'settle', job || '/1', settled_at {these}"
        ))
        .await;
    for (party, amount) in [("allowance", "-charge"), ("'pending:' || provider", "charge - fee"), ("'revenue'", "fee")]
    {
        books
            .sql(&format!(
                "INSERT INTO entries (posting, account, amount) SELECT 'pst' || job, {party}, {amount} {these}"
            ))
            .await;
    }
}

/// Brings the balances to what the entries sum to.
async fn balance(books: &Books) {
    books
        .sql(
            "INSERT INTO ledger_accounts (id, kind, owner, balance)
             SELECT 'pending:' || provider, 'provider_pending', provider, CAST(SUM(charge - fee) AS BIGINT)
             FROM attempts GROUP BY provider",
        )
        .await;
    books
        .sql(
            "UPDATE ledger_accounts SET balance = balance - spent.amount FROM
                (SELECT allowance, CAST(SUM(charge) AS BIGINT) AS amount FROM attempts GROUP BY allowance) spent
             WHERE id = spent.allowance",
        )
        .await;
    for account in ["revenue", "outside"] {
        books
            .sql(&format!(
                "UPDATE ledger_accounts SET balance = (SELECT CAST(SUM(amount) AS BIGINT) FROM entries
                    WHERE account = '{account}') WHERE id = '{account}'"
            ))
            .await;
    }
}

/// Queues the usage as settlements do, and has it rolled up.
async fn count(books: &Books) {
    books
        .sql(
            "INSERT INTO usage_unrolled (id, day, account, api_key, model, provider, requests, attempts, prompt_tokens,
                cached_tokens, completion_tokens, charge, fee)
             SELECT MIN(job), settled_at / 86400000000, account, api_key, model, provider, COUNT(*), COUNT(*),
                CAST(SUM(prompt_tokens) AS BIGINT), CAST(SUM(cached_tokens) AS BIGINT),
                CAST(SUM(completion_tokens) AS BIGINT), CAST(SUM(charge) AS BIGINT), CAST(SUM(fee) AS BIGINT)
             FROM attempts GROUP BY settled_at / 86400000000, account, api_key, model, provider",
        )
        .await;
    books.store.roll_up_usage().await.expect("rolled up");
}
