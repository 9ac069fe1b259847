//! The catalogue of models and their reference prices over time.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lumbung_openapi::admin::{CatalogueModel as Model, ModelPrice, PutModel, Removed, SetPrice};
use lumbung_openapi::modality::{Modalities, Modality};
use lumbung_openapi::money::TokenPrice;

use super::super::Shared;
use super::call::{Call, Id, Nothing};
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::catalogue::{CatalogueModel, PriceVersion};
use crate::domain::ids::ModelId;
use crate::domain::role::Role;

/// Aliases, and digests, of one model at most.
const MAX_NAMES: usize = 64;

/// `GET /admin/v1/models`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let mut models = shared.store.models().await?;
    models.retain(|model| model.id.as_str() > paging.after.as_str());
    models.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(page::json(paging.page(models, |model| model.id.to_string()).map(describe)))
}

/// `GET /admin/v1/models/{id}`
pub async fn retrieve(State(shared): State<Arc<Shared>>, Id(id): Id<ModelId>) -> Result<Json<Model>, AdminError> {
    let models = shared.store.models().await?;
    let model = models.into_iter().find(|model| model.id == id).ok_or(AdminError::Missing("model"))?;
    Ok(Json(describe(model)))
}

/// `PUT /admin/v1/models/{id}`
pub async fn put(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ModelId>,
    call: Call<PutModel>,
) -> Result<Response, AdminError> {
    let body = &call.body;
    let aliases = body.aliases.iter().map(|alias| alias.parse::<ModelId>()).collect::<Result<Vec<_>, _>>();
    let aliases = aliases
        .map_err(|_| AdminError::invalid("aliases", "Each of 'aliases' must be 1 to 128 visible ASCII characters."))?;
    for (param, names) in [("aliases", &body.aliases), ("digests", &body.digests)] {
        if names.len() > MAX_NAMES || names.iter().any(|name| name.len() > 128) {
            return Err(AdminError::invalid(param, format!("'{param}' has at most {MAX_NAMES} names.")));
        }
    }
    if body.context_length == 0 || body.max_completion_tokens == Some(0) {
        return Err(AdminError::invalid("context_length", "A number of tokens must be above zero."));
    }
    let modalities = |param: &str, named: &[Modality]| {
        let wrong = || AdminError::invalid(param, format!("'{param}' must name at least one kind of content."));
        Modalities::new(named.to_vec()).ok_or_else(wrong)
    };
    let model = CatalogueModel {
        id: id.clone(),
        aliases: aliases.iter().map(ModelId::to_string).collect(),
        digests: body.digests.clone(),
        context_length: body.context_length,
        max_completion_tokens: body.max_completion_tokens,
        input_modalities: modalities("input_modalities", &body.input_modalities)?,
        output_modalities: modalities("output_modalities", &body.output_modalities)?,
        tokenizer: None, // the books know
        reference: body.reference,
        created_at_us: 0, // the books say when
    };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let model = act.put_model(&model).await?;
    act.finish(StatusCode::OK, id.as_str(), &describe(model)).await
}

/// `DELETE /admin/v1/models/{id}`
pub async fn remove(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ModelId>,
    call: Call<Nothing>,
) -> Result<Response, AdminError> {
    let mut act = call.begin(&shared, Role::Admin).await?;
    act.remove_model(&id).await?;
    act.finish(StatusCode::OK, id.as_str(), &Removed { id: id.to_string(), removed: true }).await
}

/// `GET /admin/v1/models/{id}/prices`
pub async fn list_prices(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ModelId>,
    mut params: Params,
) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let after = match paging.after.as_str() {
        "" => i64::MIN,
        cursor => {
            cursor.parse().map_err(|_| AdminError::invalid("after", "'after' must be a page's 'next_cursor'."))?
        }
    };
    let prices = shared.store.prices(&id, after, paging.fetch()).await?;
    if prices.is_empty() && after == i64::MIN {
        return Err(AdminError::Missing("model"));
    }
    Ok(page::json(paging.page(prices, |price| price.valid_from_us.to_string()).map(describe_price)))
}

/// `POST /admin/v1/models/{id}/prices`
pub async fn add_price(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ModelId>,
    call: Call<SetPrice>,
) -> Result<Response, AdminError> {
    let SetPrice { prompt_usd_per_mtok, completion_usd_per_mtok, valid_from_us } = call.body;
    let price = TokenPrice { prompt: prompt_usd_per_mtok, completion: completion_usd_per_mtok };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let version = act.add_price(&id, &price, valid_from_us).await?;
    act.finish(StatusCode::CREATED, id.as_str(), &describe_price(version)).await
}

fn describe(model: CatalogueModel) -> Model {
    Model {
        id: model.id.to_string(),
        aliases: model.aliases,
        digests: model.digests,
        context_length: model.context_length,
        max_completion_tokens: model.max_completion_tokens,
        input_modalities: model.input_modalities.as_slice().to_vec(),
        output_modalities: model.output_modalities.as_slice().to_vec(),
        tokenizer: model.tokenizer,
        reference: model.reference,
        created_at_us: model.created_at_us,
    }
}

fn describe_price(version: PriceVersion) -> ModelPrice {
    ModelPrice {
        valid_from_us: version.valid_from_us,
        prompt_usd_per_mtok: version.reference.prompt,
        completion_usd_per_mtok: version.reference.completion,
        created_at_us: version.created_at_us,
    }
}
