//! `books`.

use clap::Subcommand;

use super::Report;
use crate::store::Store;

/// `books …`
#[derive(Debug, Subcommand)]
pub enum Books {
    /// Recompute every balance and every attempt from the entries; exit code 1 if anything differs.
    Check,
}

pub(super) async fn run(action: Books, store: &Store) -> anyhow::Result<Report> {
    let Books::Check = action;
    let found = store.books_check().await?;
    let mut text = found.differences.join("\n");
    if found.is_right() {
        text = format!(
            "the books are right: {} ledger accounts, {} postings, {} attempts",
            found.accounts, found.postings, found.attempts
        );
    }
    let wrong = (!found.is_right()).then_some("the books are wrong");
    Ok(Report { wrong, ..Report::new(text, found)? })
}
