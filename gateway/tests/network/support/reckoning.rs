//! What must add up in the books once everyone has handed in what they have. The books are in Postgres.

use lumbung_openapi::money::NanoUsd;
use sqlx::Row;

use super::Network;
use super::client::Client;

/// One number out of the books.
pub async fn number(books: &mut sqlx::PgConnection, select: &str) -> i64 {
    let row = sqlx::query(sqlx::AssertSqlSafe(select.to_owned())).fetch_one(books).await.expect("one row");
    row.try_get(0).expect("a number")
}

/// What these clients were charged together. Each began with `credit`, and has what was not charged.
pub async fn charged(
    network: &Network,
    books: &mut sqlx::PgConnection,
    clients: &[Client],
    credit: NanoUsd,
) -> NanoUsd {
    let mut charged = 0;
    for client in clients {
        let select = format!(
            "SELECT CAST(COALESCE(SUM(CASE WHEN state = 'withheld' THEN fee ELSE charge END), 0) AS BIGINT) FROM attempts WHERE account = '{}'",
            client.account
        );
        let cost = NanoUsd::from_nanos(number(books, &select).await);
        let left = credit.checked_sub(cost).expect("no more than there was");
        assert_eq!(network.balance(&client.account).await, left, "what is left is what was not charged");
        charged += cost.nanos();
    }
    NanoUsd::from_nanos(charged)
}
