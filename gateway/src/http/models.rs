//! `GET /v1/models`: what can be asked for now. Open to everyone: it says nothing about anyone.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use lumbung_openapi::modality::Architecture;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::reply::{Model, ModelList, ModelMarket, ModelPricing, Spread};

use super::Shared;
use super::path::PathId;
use crate::chat::error::ApiError;
use crate::domain::routing::quantiles::Together;
use crate::fleet::ModelSeats;

/// Providers whose measured speeds are put together for a model: an open endpoint must not look at a hundred thousand.
const MEASURED: usize = 1024;

/// The models that someone serves at this moment.
pub async fn list(State(shared): State<Arc<Shared>>) -> Json<ModelList> {
    let snapshot = shared.gateway.fleet.snapshot();
    let served = snapshot.models().into_iter().filter(|model| !model.seats.is_empty());
    Json(ModelList { object: "list".into(), data: served.map(|model| describe(model)).collect() })
}

/// One model of the catalogue; the SDKs send `org%2Fname`, people `org/name`.
pub async fn retrieve(State(shared): State<Arc<Shared>>, PathId(id): PathId) -> Result<Json<Model>, ApiError> {
    let snapshot = shared.gateway.fleet.snapshot();
    let model = snapshot.model(&id).ok_or(ApiError::UnknownModel(id))?;
    Ok(Json(describe(model)))
}

fn describe(model: &ModelSeats) -> Model {
    let entry = &model.entry;
    let id = entry.id.to_string();
    let owned_by = id.split_once('/').map_or("lumbung", |(owner, _)| owner).to_owned();
    let created = (entry.created_at_us / 1_000_000) as u64;
    let architecture = Architecture::new(&entry.input_modalities, &entry.output_modalities, entry.tokenizer.clone());
    Model { id, object: "model".into(), created, owned_by, architecture, market: market(model) }
}

fn market(ModelSeats { entry, seats, supported, .. }: &ModelSeats) -> ModelMarket {
    let least = |price: fn(&TokenPrice) -> NanoUsd| {
        let asks = seats.iter().map(|seat| price(&seat.ask));
        asks.min().unwrap_or(price(&entry.reference)).for_one_of_a_million()
    };
    let mut quantizations: Vec<String> = seats.iter().map(|seat| seat.quantization.clone()).collect();
    quantizations.sort();
    quantizations.dedup();
    let (first_tokens, speeds): (Vec<_>, Vec<_>) =
        seats.iter().take(MEASURED).map(|seat| seat.vitals.spreads()).unzip();
    let latency = Together::of(first_tokens).map(|secs| spread(|share| secs.at_most(share), 1000.0));
    let throughput = Together::of(speeds).map(|speed| spread(|share| speed.at_most(1.0 - share), 10.0));
    ModelMarket {
        context_length: entry.context_length,
        max_completion_tokens: entry.max_completion_tokens,
        pricing: ModelPricing { prompt: least(|price| price.prompt), completion: least(|price| price.completion) },
        supported_parameters: supported.iter().map(|parameter| parameter.name().to_owned()).collect(),
        quantizations,
        providers: seats.len() as u32,
        latency,
        throughput,
    }
}

/// What a share of jobs keep to, rounded to so many parts of a whole.
fn spread(of_share: impl Fn(f64) -> f64, parts: f64) -> Spread {
    let figure = |share| (of_share(share) * parts).round() / parts;
    Spread { p50: figure(0.5), p75: figure(0.75), p90: figure(0.9), p99: figure(0.99) }
}
