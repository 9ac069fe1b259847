//! Small helpers for SQL that is written once for both databases.

use std::future::Future;
use std::time::Duration;

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe};

use super::error::StoreError;

/// Rows in one statement: SQLite allows 32,766 parameters, Postgres 65,535, and a row has at most 32.
pub(super) const MAX_ROWS: usize = 500;

/// A statement whose text is put together from constants and placeholders; values are always bound.
pub(super) fn query(sql: String) -> Query<'static, Any, AnyArguments> {
    sqlx::query(AssertSqlSafe(sql))
}

/// `($1, $2), ($3, $4)` for `rows` rows of `columns` columns, counted from `first`.
pub(super) fn rows_of(columns: usize, rows: usize, first: usize) -> String {
    let row = |row: usize| {
        let at = first + row * columns;
        let row: Vec<String> = (at..at + columns).map(|n| format!("${n}")).collect();
        format!("({})", row.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// Runs a whole transaction again where another one was in its way (a deadlock, a busy file).
pub(super) async fn retrying<T, F>(mut transaction: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for wait_ms in [1, 5, 20, 100] {
        match transaction().await {
            Err(StoreError::Busy(_)) => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
            done => return done,
        }
    }
    transaction().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_through() {
        assert_eq!(rows_of(2, 2, 3), "($3, $4), ($5, $6)");
        assert_eq!(rows_of(1, 1, 1), "($1)");
    }
}
