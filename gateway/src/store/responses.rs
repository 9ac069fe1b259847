//! Responses that clients want kept, where the operator has turned that on: the one place of the books that holds what
//! people and models say.

use std::time::Duration;

use lumbung_openapi::responses::KeptParts;
use sqlx::Row;

use super::{Result, Store, micros, sql};
use crate::domain::ids::AccountId;

/// Turns of one conversation at most: it has no more messages.
const MAX_TURNS: i64 = 2048;
/// Rows forgotten by one statement.
const FORGET_AT_ONCE: usize = 1000;

/// A response to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptResponse {
    /// The id that the client knows.
    pub id: String,
    /// The response that it goes on from.
    pub previous: Option<String>,
    /// This turn's own input, a JSON array of items.
    pub input: String,
    /// What was answered.
    pub parts: KeptParts,
}

/// One turn of a conversation, both JSON arrays of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What was said to the model.
    pub input: String,
    /// What it said.
    pub output: String,
}

impl Store {
    /// Keeps a response for so long; nothing of an account that is closed.
    pub async fn keep_response(&self, account: &AccountId, response: &KeptResponse, retention: Duration) -> Result<()> {
        let insert = format!(
            "INSERT INTO responses (id, account, previous, input, output, response, created_at, expires_at)
             SELECT $1, id, $3, $4, $5, $6, {clock}, {clock} + $7 FROM accounts WHERE id = $2 AND closed_at IS NULL",
            clock = self.clock()
        );
        sql::query(insert)
            .bind(response.id.as_str())
            .bind(account.to_string())
            .bind(response.previous.as_deref())
            .bind(response.input.as_str())
            .bind(response.parts.output.as_str())
            .bind(response.parts.response.as_str())
            .bind(micros(retention))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// One of an account's responses; `None` if it has none by this id, or it is kept no longer.
    pub async fn response(&self, account: &AccountId, id: &str) -> Result<Option<KeptParts>> {
        if !is_id(id) {
            return Ok(None);
        }
        let select = format!(
            "SELECT response, output FROM responses WHERE id = $1 AND account = $2 AND expires_at > {}",
            self.clock()
        );
        let row = sql::query(select).bind(id).bind(account.to_string()).fetch_optional(&self.reader).await?;
        row.map(|row| Ok(KeptParts { response: row.try_get(0)?, output: row.try_get(1)? })).transpose()
    }

    /// The conversation up to one of an account's responses, the oldest turn first; `None` if one of them is not kept, or
    /// is kept no longer.
    pub async fn response_turns(&self, account: &AccountId, id: &str) -> Result<Option<Vec<Turn>>> {
        if !is_id(id) {
            return Ok(None);
        }
        let clock = self.clock();
        let select = format!(
            "WITH RECURSIVE turns (previous, input, output, back) AS (
                 SELECT previous, input, output, CAST(0 AS BIGINT) FROM responses
                 WHERE id = $1 AND account = $2 AND expires_at > {clock}
                 UNION ALL
                 SELECT r.previous, r.input, r.output, t.back + 1 FROM responses r JOIN turns t ON r.id = t.previous
                 WHERE r.account = $2 AND r.expires_at > {clock} AND t.back < {MAX_TURNS}
             ) SELECT previous, input, output FROM turns ORDER BY back DESC"
        );
        let rows = sql::query(select).bind(id).bind(account.to_string()).fetch_all(&self.reader).await?;
        // The first turn goes on from nothing: otherwise something before it is missing.
        match rows.first().map(|row| row.try_get::<Option<String>, _>(0)).transpose()? {
            Some(None) => {}
            _ => return Ok(None),
        }
        let turns = rows.iter().map(|row| Ok(Turn { input: row.try_get(1)?, output: row.try_get(2)? }));
        turns.collect::<Result<_>>().map(Some)
    }

    /// Forgets one of an account's responses; whether there was such.
    pub async fn forget_response(&self, account: &AccountId, id: &str) -> Result<bool> {
        if !is_id(id) {
            return Ok(false);
        }
        let forget = format!("DELETE FROM responses WHERE id = $1 AND account = $2 AND expires_at > {}", self.clock());
        let forgotten = sql::query(forget).bind(id).bind(account.to_string()).execute(&self.writer).await?;
        Ok(forgotten.rows_affected() == 1)
    }

    /// Forgets responses whose time has come; how many.
    pub async fn forget_responses(&self) -> Result<u64> {
        let forget = format!(
            "DELETE FROM responses WHERE id IN (SELECT id FROM responses
             WHERE expires_at <= {} ORDER BY expires_at LIMIT {FORGET_AT_ONCE})",
            self.clock()
        );
        let mut forgotten = 0;
        loop {
            let some = sql::query(forget.clone()).execute(&self.writer).await?.rows_affected();
            forgotten += some;
            if some < FORGET_AT_ONCE as u64 {
                return Ok(forgotten);
            }
        }
    }
}

/// Whether a text can be an id at all: Postgres takes no zero byte.
fn is_id(text: &str) -> bool {
    !text.contains('\0')
}
