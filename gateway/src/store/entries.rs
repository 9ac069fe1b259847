//! Reading the ledger's entries back, page by page.

use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use sqlx::Row;
use ulid::Ulid;

use super::{Result, Store};

/// Postings that one page looks through at most: whatever is asked for, the answer comes soon.
const WINDOW: i64 = 5000;
/// More entries than any posting has: a batch of 256 jobs has as many allowances, and two accounts for the provider of each of
/// its attempts, eight for a job at most.
const MAX_ENTRIES: i64 = 5000;
/// How far apart the clock of a posting's id (its gateway's) and that of its time (the database's) may be.
const CLOCKS_APART: Duration = Duration::from_secs(600);

/// Which entries are asked for; empty texts and `None` for any.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// On this ledger account.
    pub account: String,
    /// Of postings of this kind.
    pub kind: String,
    /// From this moment on, Unix microseconds.
    pub from_us: Option<i64>,
    /// Before this moment, Unix microseconds.
    pub until_us: Option<i64>,
}

/// One movement on one ledger account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    /// The posting's id.
    pub posting: String,
    /// What the posting is for.
    pub kind: String,
    /// What outside the ledger it belongs to.
    pub reference: String,
    /// Unix microseconds.
    pub at_us: i64,
    /// The ledger account.
    pub account: String,
    /// How much it gained.
    pub amount: NanoUsd,
}

/// Some entries.
#[derive(Clone, Debug, Default)]
pub struct EntriesPage {
    /// By posting.
    pub entries: Vec<EntryRecord>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

impl Store {
    /// Entries by posting, oldest first, after the posting `after` (empty: from the first): about `limit`, never a posting
    /// in part. A page may hold fewer, even none, and still have a next one: only so many postings are looked through.
    pub async fn entries(&self, filter: &EntryFilter, after: &str, limit: usize) -> Result<EntriesPage> {
        let start = after.max(&first_id(filter.from_us)).to_owned();
        let window = "SELECT MAX(w.id), COUNT(*) FROM (SELECT id FROM postings WHERE id > $1 ORDER BY id LIMIT $2) w";
        let window = sqlx::query(window).bind(start.as_str()).bind(WINDOW).fetch_one(&self.reader).await?;
        let (last, looked_through): (Option<String>, i64) = (window.try_get(0)?, window.try_get(1)?);
        let Some(last) = last else { return Ok(EntriesPage::default()) };
        let select = "SELECT p.id, p.kind, p.reference, p.at, e.account, e.amount
                      FROM postings p JOIN entries e ON e.posting = p.id
                      WHERE p.id > $1 AND p.id <= $2 AND ($3 = '' OR e.account = $3) AND ($4 = '' OR p.kind = $4)
                          AND p.at >= $5 AND p.at < $6
                      ORDER BY p.id, e.account LIMIT $7";
        // Enough for one more posting than the page holds, so that its last one is whole.
        let rows = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(MAX_ENTRIES);
        let rows = sqlx::query(select)
            .bind(start.as_str())
            .bind(last.as_str())
            .bind(filter.account.as_str())
            .bind(filter.kind.as_str())
            .bind(filter.from_us.unwrap_or(i64::MIN))
            .bind(filter.until_us.unwrap_or(i64::MAX))
            .bind(rows)
            .fetch_all(&self.reader)
            .await?;
        let mut entries: Vec<EntryRecord> = Vec::new();
        for row in &rows {
            let posting: String = row.try_get(0)?;
            let whole = entries.last().is_some_and(|entry| entry.posting != posting);
            if whole && entries.len() >= limit {
                let next = entries.last().map(|entry| entry.posting.clone());
                return Ok(EntriesPage { entries, next });
            }
            entries.push(EntryRecord {
                posting,
                kind: row.try_get(1)?,
                reference: row.try_get(2)?,
                at_us: row.try_get(3)?,
                account: row.try_get(4)?,
                amount: NanoUsd::from_nanos(row.try_get(5)?),
            });
        }
        let next = (looked_through >= WINDOW).then_some(last);
        Ok(EntriesPage { entries, next })
    }
}

/// The least id that a posting of this moment or later can have.
fn first_id(from_us: Option<i64>) -> String {
    let Some(from) = from_us.and_then(|us| u64::try_from(us).ok()) else { return String::new() };
    let at = Duration::from_micros(from).saturating_sub(CLOCKS_APART);
    let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    // A ULID's time has 48 bits.
    format!("pst_{}", Ulid::from_parts(millis.min((1 << 48) - 1), 0))
}
