//! The operator's catalogue in the books.

use lumbung_openapi::modality::{Modalities, Modality};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::{Result, Store, StoreError, bump_epoch, prices, sql};
use crate::domain::catalogue::CatalogueModel;
use crate::domain::ids::ModelId;

impl Store {
    /// The catalogue, by id.
    pub async fn models(&self) -> Result<Vec<CatalogueModel>> {
        all(&mut *self.reader.acquire().await?, &self.clock()).await
    }

    /// Adds a model, or changes the one of that id (its `created_at_us` and its tokenizer stay as they were, and are not
    /// read here).
    /// A price other than the one in force begins now. Fails with `Conflict` if one of its names is another model's, with
    /// `Invalid` for a price below zero.
    pub async fn upsert_model(&self, model: &CatalogueModel) -> Result<()> {
        let mut tx = self.transaction().await?;
        upsert(&mut tx, &self.clock(), model).await?;
        Ok(tx.commit().await?)
    }

    /// Takes a model out of the catalogue; jobs that are running go on.
    pub async fn remove_model(&self, id: &ModelId) -> Result<()> {
        let mut tx = self.transaction().await?;
        remove(&mut tx, id).await?;
        Ok(tx.commit().await?)
    }
}

/// See [`Store::models`].
pub(super) async fn all(connection: &mut AnyConnection, clock: &str) -> Result<Vec<CatalogueModel>> {
    let (prompt, completion) = (prices::in_force("prompt_price", clock), prices::in_force("completion_price", clock));
    let select = format!(
        "SELECT m.id, m.aliases, m.digests, m.context_length, m.max_completion_tokens, {prompt}, {completion},
                m.created_at, m.input_modalities, m.output_modalities, t.tokenizer
         FROM models m LEFT JOIN model_tokenizers t ON t.model = m.id ORDER BY m.id"
    );
    sql::query(select).fetch_all(connection).await?.iter().map(model).collect()
}

/// See [`Store::upsert_model`].
pub(super) async fn upsert(connection: &mut AnyConnection, clock: &str, model: &CatalogueModel) -> Result<()> {
    if model.reference.is_negative() {
        return Err(StoreError::Invalid("a price must not be below zero"));
    }
    bump_epoch(connection).await?;
    for other in all(connection, clock).await?.into_iter().filter(|other| other.id != model.id) {
        let mine = || model.aliases.iter().map(String::as_str).chain([model.id.as_str()]);
        if mine().any(|name| name == other.id.as_str() || other.aliases.iter().any(|alias| alias == name)) {
            return Err(StoreError::Conflict(format!("model {} has one of these names", other.id).into()));
        }
    }
    let upsert = format!(
        "INSERT INTO models (id, aliases, digests, context_length, max_completion_tokens, prompt_price,
                             completion_price, input_modalities, output_modalities, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, {})
         ON CONFLICT (id) DO UPDATE SET aliases = excluded.aliases, digests = excluded.digests,
             context_length = excluded.context_length, max_completion_tokens = excluded.max_completion_tokens,
             prompt_price = excluded.prompt_price, completion_price = excluded.completion_price,
             input_modalities = excluded.input_modalities, output_modalities = excluded.output_modalities",
        clock
    );
    sql::query(upsert)
        .bind(model.id.as_str())
        .bind(serde_json::Value::from(model.aliases.clone()).to_string())
        .bind(serde_json::Value::from(model.digests.clone()).to_string())
        .bind(i64::from(model.context_length))
        .bind(model.max_completion_tokens.map(i64::from))
        .bind(model.reference.prompt.nanos())
        .bind(model.reference.completion.nanos())
        .bind(names(&model.input_modalities))
        .bind(names(&model.output_modalities))
        .execute(&mut *connection)
        .await?;
    let before = all(connection, clock).await?.into_iter().find(|known| known.id == model.id);
    let has_history = "SELECT 1 FROM model_prices WHERE model = $1 LIMIT 1";
    let has_history =
        sqlx::query(has_history).bind(model.id.as_str()).fetch_optional(&mut *connection).await?.is_some();
    if !has_history || before.is_some_and(|before| before.reference != model.reference) {
        prices::add(connection, clock, &model.id, &model.reference, None).await?;
    }
    Ok(())
}

/// See [`Store::remove_model`].
pub(super) async fn remove(connection: &mut AnyConnection, id: &ModelId) -> Result<()> {
    bump_epoch(connection).await?;
    let done = sqlx::query("DELETE FROM models WHERE id = $1").bind(id.as_str()).execute(connection).await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Missing("model"));
    }
    Ok(())
}

fn model(row: &AnyRow) -> Result<CatalogueModel> {
    let damaged = || StoreError::corrupt("a model of the catalogue is malformed");
    let count = |n: i64| u32::try_from(n).map_err(|_| damaged());
    Ok(CatalogueModel {
        id: row.try_get::<String, _>(0)?.parse().map_err(|_| damaged())?,
        aliases: list(row, 1)?,
        digests: list(row, 2)?,
        context_length: count(row.try_get(3)?)?,
        max_completion_tokens: row.try_get::<Option<i64>, _>(4)?.map(count).transpose()?,
        reference: TokenPrice {
            prompt: NanoUsd::from_nanos(row.try_get(5)?),
            completion: NanoUsd::from_nanos(row.try_get(6)?),
        },
        created_at_us: row.try_get(7)?,
        input_modalities: modalities(row, 8)?,
        output_modalities: modalities(row, 9)?,
        tokenizer: row.try_get(10)?,
    })
}

fn names(modalities: &Modalities) -> String {
    let names: Vec<&str> = modalities.as_slice().iter().map(|modality| modality.name()).collect();
    serde_json::Value::from(names).to_string()
}

fn modalities(row: &AnyRow, column: usize) -> Result<Modalities> {
    let damaged = || StoreError::corrupt("a model of the catalogue is malformed");
    let named = list(row, column)?.iter().map(|name| name.parse::<Modality>()).collect::<std::result::Result<_, _>>();
    Modalities::new(named.map_err(|_| damaged())?).ok_or_else(damaged)
}

fn list(row: &AnyRow, column: usize) -> Result<Vec<String>> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| StoreError::corrupt("a model of the catalogue is malformed"))
}
