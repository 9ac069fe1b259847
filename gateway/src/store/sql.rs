//! Small helpers for SQL that is written once for both databases.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::future::Future;
use std::time::Duration;

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe};

use super::error::StoreError;

/// Rows in one statement. A power of two, see [`pieces`]. SQLite allows 32,766 parameters, Postgres 65,535, and a row has
/// at most 40.
pub(super) const MAX_ROWS: usize = 64;

thread_local! {
    /// What [`values`] has written before, by columns and rows: few texts, but thousands of numbers in each.
    static WRITTEN: RefCell<HashMap<(bool, usize, usize), String>> = RefCell::default();
}

/// A batch in pieces, each as long as a power of two. A statement's text depends on how many rows it has: with any number
/// every batch would be a new text to parse and plan; so seven texts serve all, prepared once for each connection.
pub(super) fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let length = MAX_ROWS.min(1 << rows.len().checked_ilog2()?);
        let (piece, rest) = rows.split_at(length);
        rows = rest;
        Some(piece)
    })
}

/// Placeholders of `rows` rows: the statement's first arguments. Whatever else it binds is numbered after them.
///
/// SQLite takes `$1` for a name, and looks it up among all others when it parses a statement and again when sqlx binds it:
/// a row of 31 columns in a batch of 256 took half a millisecond. Its `?` has no name.
pub(super) fn values(connection: &AnyConnection, columns: usize, rows: usize) -> String {
    let is_sqlite = connection.backend_name() == "SQLite";
    let written = || match is_sqlite {
        true => vec![format!("({})", vec!["?"; columns].join(", ")); rows].join(", "),
        false => rows_of(columns, rows, 1),
    };
    WRITTEN.with_borrow_mut(|texts| texts.entry((is_sqlite, columns, rows)).or_insert_with(written).clone())
}

/// A statement whose text is put together from constants and placeholders; values are always bound.
pub(super) fn query(sql: String) -> Query<'static, Any, AnyArguments> {
    sqlx::query(AssertSqlSafe(sql))
}

/// `($1, $2), ($3, $4)` for `rows` rows of `columns` columns, counted from `first`.
pub(super) fn rows_of(columns: usize, rows: usize, first: usize) -> String {
    let mut text = String::with_capacity(rows * columns * "$1000, ".len());
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { "), (" });
        for column in 0..columns {
            text.push_str(if column == 0 { "$" } else { ", $" });
            let _ = write!(text, "{}", first + row * columns + column); // a string takes whatever it is given
        }
    }
    text.push_str(if rows == 0 { "" } else { ")" });
    text
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
    fn a_batch_falls_into_powers_of_two() {
        let lengths = |n: usize| pieces(&vec![0; n]).map(<[i32]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(0), [0; 0]);
        assert_eq!(lengths(1), [1]);
        assert_eq!(lengths(200), [64, 64, 64, 8]);
        assert_eq!(lengths(63), [32, 16, 8, 4, 2, 1]);
        let batch: Vec<usize> = (0..173).collect();
        assert_eq!(pieces(&batch).flatten().copied().collect::<Vec<_>>(), batch);
    }

    #[test]
    fn placeholders_are_numbered_through() {
        assert_eq!(rows_of(2, 2, 3), "($3, $4), ($5, $6)");
        assert_eq!(rows_of(1, 1, 1), "($1)");
    }
}
