//! Models' tokenizers in the books, and what was found when tokens were counted again.

use lumbung_openapi::receipt::{Recount, RecountOutcome};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::settle::Settlement;
use super::sql::{pieces, query, values};
use super::{Result, Store, StoreError, bump_epoch, sql};
use crate::domain::ids::{ModelId, ProviderId};
use crate::domain::tokenizer::TokenizerFiles;

/// What counting again has found of one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecountSummary {
    /// Attempts that were chosen.
    pub attempts: u64,
    /// Those of them that could be counted.
    pub counted: u64,
    /// Those where the provider had claimed more.
    pub lowered: u64,
}

impl Store {
    /// Gives a model of the catalogue a tokenizer, in place of the one it had. Gateways follow within a second.
    pub async fn set_tokenizer(&self, model: &ModelId, files: &TokenizerFiles) -> Result<()> {
        let special = serde_json::to_string(&files.special_tokens)
            .map_err(|_| StoreError::Invalid("special tokens that have no JSON"))?;
        if files.chat_template.contains('\0') || special.contains('\0') || files.tokenizer_json.contains('\0') {
            return Err(StoreError::Invalid("a tokenizer's text must not contain NUL"));
        }
        let digest = files.digest();
        let mut tx = self.transaction().await?;
        bump_epoch(&mut tx).await?;
        let known = sqlx::query("SELECT id FROM models WHERE id = $1").bind(model.as_str());
        if known.fetch_optional(&mut *tx).await?.is_none() {
            return Err(StoreError::Missing("model"));
        }
        let insert = format!(
            "INSERT INTO tokenizers (digest, tokenizer_json, chat_template, special_tokens, created_at)
             VALUES ($1, $2, $3, $4, {}) ON CONFLICT (digest) DO NOTHING",
            self.clock()
        );
        sql::query(insert)
            .bind(digest.as_str())
            .bind(files.tokenizer_json.as_str())
            .bind(files.chat_template.as_str())
            .bind(special)
            .execute(&mut *tx)
            .await?;
        let upsert = format!(
            "INSERT INTO model_tokenizers (model, tokenizer, set_at) VALUES ($1, $2, {})
             ON CONFLICT (model) DO UPDATE SET tokenizer = excluded.tokenizer, set_at = excluded.set_at",
            self.clock()
        );
        sql::query(upsert).bind(model.as_str()).bind(digest).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    /// Which model of the catalogue has which tokenizer, by digest; by model.
    pub async fn model_tokenizers(&self) -> Result<Vec<(String, String)>> {
        let select =
            "SELECT t.model, t.tokenizer FROM model_tokenizers t JOIN models m ON m.id = t.model ORDER BY t.model";
        let rows = sqlx::query(select).fetch_all(&self.reader).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// A tokenizer's files.
    pub async fn tokenizer(&self, digest: &str) -> Result<TokenizerFiles> {
        let select = "SELECT tokenizer_json, chat_template, special_tokens FROM tokenizers WHERE digest = $1";
        let row = sqlx::query(select).bind(digest).fetch_optional(&self.reader).await?;
        let row = row.ok_or(StoreError::Missing("tokenizer"))?;
        let special: String = row.try_get(2)?;
        let special_tokens =
            serde_json::from_str(&special).map_err(|_| StoreError::corrupt("a tokenizer's row is malformed"))?;
        Ok(TokenizerFiles { tokenizer_json: row.try_get(0)?, chat_template: row.try_get(1)?, special_tokens })
    }

    /// What counting again has found of a provider, over all time.
    pub async fn recounts(&self, provider: &ProviderId) -> Result<RecountSummary> {
        let select =
            "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN outcome = 'counted' THEN 1 ELSE 0 END), 0) AS BIGINT),
                CAST(COALESCE(SUM(CASE WHEN prompt_tokens < claimed_prompt OR completion_tokens < claimed_completion
                    THEN 1 ELSE 0 END), 0) AS BIGINT)
            FROM recounts WHERE provider = $1";
        let row = sqlx::query(select).bind(provider.to_string()).fetch_one(&self.reader).await?;
        let count = |column: usize| -> Result<u64> { Ok(row.try_get::<i64, _>(column)?.unsigned_abs()) };
        Ok(RecountSummary { attempts: count(0)?, counted: count(1)?, lowered: count(2)? })
    }
}

/// Writes down what was found of these attempts, in the transaction that settles them.
pub(super) async fn write_recounts(connection: &mut AnyConnection, now_us: i64, batch: &[&Settlement]) -> Result<()> {
    let found: Vec<(&Settlement, &Recount)> =
        batch.iter().filter_map(|settlement| Some((*settlement, settlement.recount.as_ref()?))).collect();
    for piece in pieces(&found) {
        let mut insert = query(format!(
            "INSERT INTO recounts (job, attempt, provider, model, tokenizer, outcome, claimed_prompt, claimed_completion,
                                   prompt_tokens, completion_tokens, at) VALUES {}",
            values(connection, 11, piece.len())
        ));
        for (settlement, recount) in piece {
            let ticket = &settlement.ticket;
            insert = insert
                .bind(ticket.job.as_str())
                .bind(i64::from(ticket.attempt))
                .bind(ticket.provider.as_str())
                .bind(ticket.model.as_str())
                .bind(recount.tokenizer.as_str())
                .bind(recount.outcome.as_str())
                .bind(i64::from(recount.claimed_prompt_tokens))
                .bind(i64::from(recount.claimed_completion_tokens))
                .bind(recount.prompt_tokens.map(i64::from))
                .bind(recount.completion_tokens.map(i64::from))
                .bind(now_us);
        }
        insert.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Six columns from `first`: tokenizer, outcome, and the figures; all null where an attempt was not counted again.
pub(super) fn read_recount(row: &AnyRow, first: usize) -> Result<Option<Recount>> {
    let damaged = || StoreError::corrupt("a recount's row is malformed");
    let Some(tokenizer) = row.try_get::<Option<String>, _>(first)? else { return Ok(None) };
    let outcome: Option<String> = row.try_get(first + 1)?;
    let figure = |column: usize| -> Result<Option<u32>> {
        let figure: Option<i64> = row.try_get(first + column)?;
        figure.map(u32::try_from).transpose().map_err(|_| damaged())
    };
    Ok(Some(Recount {
        outcome: outcome.as_deref().and_then(RecountOutcome::from_name).ok_or_else(damaged)?,
        tokenizer,
        claimed_prompt_tokens: figure(2)?.ok_or_else(damaged)?,
        claimed_completion_tokens: figure(3)?.ok_or_else(damaged)?,
        prompt_tokens: figure(4)?,
        completion_tokens: figure(5)?,
    }))
}
