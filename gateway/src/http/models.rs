//! `GET /v1/models`: what can be asked for now, and what whoever serves it can expect. Open to everyone: it says nothing about
//! anyone.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lumbung_openapi::modality::Architecture;
use lumbung_openapi::models::{
    Model, ModelEndpoint, ModelEndpoints, ModelList, ModelMarket, ModelPricing, ServedModel, Spread,
};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::Demand;

use super::Shared;
use super::path::PathId;
use crate::chat::error::ApiError;
use crate::domain::routing::quantiles::{Quantiles, Together};
use crate::fleet::{ModelSeats, Seat};

/// Providers whose measured speeds are put together for a model: an open endpoint must not look at a hundred thousand.
const MEASURED: usize = 1024;
/// What the path of a model's providers ends with.
const ENDPOINTS: &str = "/endpoints";
/// Providers that are listed of a model.
const LISTED: usize = 1000;
/// OpenRouter's status of a provider that fails.
const LEFT_ALONE: i32 = -2;

/// The models that someone serves at this moment.
pub async fn list(State(shared): State<Arc<Shared>>) -> Json<ModelList> {
    let snapshot = shared.gateway.fleet.snapshot();
    let served = snapshot.models().into_iter().filter(|model| !model.seats.is_empty());
    Json(ModelList { object: "list".into(), data: served.map(|model| describe(model)).collect() })
}

/// One model of the catalogue, or who serves it; the SDKs send `org%2Fname`, people `org/name`.
pub async fn retrieve(State(shared): State<Arc<Shared>>, PathId(id): PathId) -> Result<Response, ApiError> {
    let snapshot = shared.gateway.fleet.snapshot();
    if let Some(model) = snapshot.model(&id) {
        return Ok(Json(describe(model)).into_response());
    }
    let model = id.strip_suffix(ENDPOINTS).and_then(|id| snapshot.model(id));
    let model = model.ok_or_else(|| ApiError::UnknownModel(id.trim_end_matches(ENDPOINTS).to_owned()))?;
    Ok(Json(ModelEndpoints { data: served(model) }).into_response())
}

/// What whoever serves a model can expect: prices, fee, and how many jobs run.
pub async fn demand(State(shared): State<Arc<Shared>>, PathId(id): PathId) -> Result<Json<Demand>, ApiError> {
    let snapshot = shared.gateway.fleet.snapshot();
    let Some(model) = snapshot.model(&id) else { return Err(ApiError::UnknownModel(id)) };
    let ModelSeats { entry, seats, .. } = &**model;
    let looked_at = || seats.iter().take(MEASURED);
    Ok(Json(Demand {
        model: entry.id.to_string(),
        reference: entry.reference,
        fee_bps: shared.gateway.fee_bps,
        digests: entry.digests.clone(),
        providers: seats.len() as u32,
        slots: looked_at().map(|seat| u64::from(seat.slots)).sum(),
        slots_taken: looked_at().map(|seat| u64::from(seat.running().min(seat.slots))).sum(),
    }))
}

fn describe(model: &ModelSeats) -> Model {
    let entry = &model.entry;
    let id = entry.id.to_string();
    let owned_by = id.split_once('/').map_or("lumbung", |(owner, _)| owner).to_owned();
    Model {
        id,
        object: "model".into(),
        created: created(model),
        owned_by,
        architecture: architecture(model),
        market: market(model),
    }
}

fn created(model: &ModelSeats) -> u64 {
    (model.entry.created_at_us / 1_000_000).unsigned_abs()
}

fn architecture(ModelSeats { entry, .. }: &ModelSeats) -> Architecture {
    Architecture::new(&entry.input_modalities, &entry.output_modalities, entry.tokenizer.clone())
}

fn served(model: &ModelSeats) -> ServedModel {
    let id = model.entry.id.to_string();
    let mut seats: Vec<&Arc<Seat>> = model.seats.iter().collect();
    seats.sort_by_key(|seat| (seat.ask.prompt, seat.ask.completion));
    let endpoints = seats.into_iter().take(LISTED).map(|seat| endpoint(model, seat)).collect();
    let (created, architecture) = (created(model), architecture(model));
    ServedModel { name: id.clone(), id, created, description: String::new(), architecture, endpoints }
}

fn endpoint(ModelSeats { entry, .. }: &ModelSeats, seat: &Seat) -> ModelEndpoint {
    let (first_token, speed) = seat.vitals.spreads();
    let (model, provider) = (entry.id.to_string(), seat.provider.to_string());
    let price = |price: NanoUsd| price.for_one_of_a_million();
    let provider_name = seat.name.as_ref().map_or(&*provider, |name| name.as_str()).to_owned();
    ModelEndpoint {
        name: format!("{provider_name} | {model}"),
        model_id: model.clone(),
        model_name: model,
        tag: provider,
        provider_name,
        context_length: seat.context_length,
        max_completion_tokens: entry.max_completion_tokens,
        max_prompt_tokens: None,
        pricing: ModelPricing { prompt: price(seat.ask.prompt), completion: price(seat.ask.completion) },
        quantization: seat.quantization.clone(),
        supported_parameters: names(&seat.supported),
        supports_implicit_caching: seat.vitals.cached_share().is_some_and(|share| share > 0.0),
        status: if seat.is_well() { 0 } else { LEFT_ALONE },
        uptime_last_30m: None,
        latency_last_30m: latency([first_token]),
        throughput_last_30m: throughput([speed]),
    }
}

fn names(supported: &ParameterSet) -> Vec<String> {
    supported.iter().map(|parameter| parameter.name().to_owned()).collect()
}

fn latency(seconds: impl IntoIterator<Item = Quantiles>) -> Option<Spread> {
    Together::of(seconds).map(|seconds| spread(|share| seconds.at_most(share), 1000.0))
}

fn throughput(speeds: impl IntoIterator<Item = Quantiles>) -> Option<Spread> {
    Together::of(speeds).map(|speed| spread(|share| speed.at_most(1.0 - share), 10.0))
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
    ModelMarket {
        context_length: entry.context_length,
        max_completion_tokens: entry.max_completion_tokens,
        pricing: ModelPricing { prompt: least(|price| price.prompt), completion: least(|price| price.completion) },
        supported_parameters: names(supported),
        quantizations,
        providers: seats.len() as u32,
        latency: latency(first_tokens),
        throughput: throughput(speeds),
    }
}

/// What a share of jobs keep to, rounded to so many parts of a whole.
fn spread(of_share: impl Fn(f64) -> f64, parts: f64) -> Spread {
    let figure = |share| (of_share(share) * parts).round() / parts;
    Spread { p50: figure(0.5), p75: figure(0.75), p90: figure(0.9), p99: figure(0.99) }
}
