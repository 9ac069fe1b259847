//! `GET /v1/models`: what can be asked for now. Open to everyone: it says nothing about anyone.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use lumbung_openapi::modality::Architecture;
use lumbung_openapi::reply::{Model, ModelList};

use super::Shared;
use crate::chat::error::ApiError;
use crate::domain::catalogue::CatalogueModel;

/// The models that someone serves at this moment.
pub async fn list(State(shared): State<Arc<Shared>>) -> Json<ModelList> {
    let snapshot = shared.gateway.fleet.snapshot();
    let served = snapshot.models().into_iter().filter(|model| !model.seats.is_empty());
    Json(ModelList { object: "list".into(), data: served.map(|model| describe(&model.entry)).collect() })
}

/// One model of the catalogue; the SDKs send `org%2Fname`, people `org/name`.
pub async fn retrieve(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    let snapshot = shared.gateway.fleet.snapshot();
    let model = snapshot.model(&id).ok_or(ApiError::UnknownModel(id))?;
    Ok(Json(describe(&model.entry)))
}

fn describe(entry: &CatalogueModel) -> Model {
    let id = entry.id.to_string();
    let owned_by = id.split_once('/').map_or("lumbung", |(owner, _)| owner).to_owned();
    Model {
        id,
        object: "model".into(),
        created: (entry.created_at_us / 1_000_000) as u64,
        owned_by,
        architecture: Architecture::new(&entry.input_modalities, &entry.output_modalities, entry.tokenizer.clone()),
    }
}
