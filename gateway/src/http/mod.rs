//! The only place that knows axum: the whole route table, thin handlers, errors as OpenAI's JSON.

mod account;
mod admin;
mod begun;
mod chat;
mod docs;
mod earnings;
mod error;
mod flat;
pub mod guard;
mod health;
mod layers;
pub mod metrics;
mod models;
mod path;
mod provider;
mod rates;
mod receipts;
mod responses;
pub mod server;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};
use lumbung_openapi::earnings::{EARNINGS_PATH, PAYOUT_DETAILS_PATH};
use lumbung_openapi::provider::{CHALLENGE_PATH, RECEIPTS_PATH, TUNNEL_PATH};
use tokio::sync::Semaphore;

use crate::admin::Desk;
use crate::admin::courier::Courier;
use crate::chat::Gateway;
use crate::fleet::gate::Gate;
use crate::fleet::join::Doorman;
use crate::fleet::receipts::ReceiptDesk;
use crate::store::Store;
use guard::Guard;

/// What handlers share.
pub struct Shared {
    /// The straight line's own state.
    pub gateway: Arc<Gateway>,
    /// Who lets providers in.
    pub doorman: Doorman,
    /// How many of them, and how fast.
    pub gate: Arc<Gate>,
    /// Whom it lets wait.
    pub guard: Guard,
    /// Who takes their receipts.
    pub desk: ReceiptDesk,
    /// Batches that are judged at a time.
    pub desk_places: Arc<Semaphore>,
    /// Where: a batch takes a while, and no answer waits for it.
    pub books_thread: tokio::runtime::Handle,
    /// The books.
    pub store: Store,
    /// Whom it takes for an operator.
    pub admin: Desk,
    /// Who takes webhooks to their endpoints.
    pub courier: Arc<Courier>,
    /// The OpenAPI document, as JSON.
    pub spec: String,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// How long after a change of its payout details a provider is not paid.
    pub payout_cooldown: std::time::Duration,
}

/// The whole route table.
fn router(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .merge(chat::routes())
        .merge(responses::routes())
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/receipts/{id}", get(receipts::retrieve))
        .route(CHALLENGE_PATH, get(provider::challenge))
        .route(TUNNEL_PATH, get(provider::tunnel))
        .route(RECEIPTS_PATH, post(provider::receipts))
        .route("/provider/v1/models/{*id}", get(models::demand))
        .route(EARNINGS_PATH, get(earnings::statement))
        .route(PAYOUT_DETAILS_PATH, put(earnings::set_payout_details))
        .route("/.well-known/jwks.json", get(health::jwks))
        .route("/openapi.json", get(health::spec))
        .route("/docs", get(docs::page))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/balance", get(health::balance))
        .merge(account::routes())
        .merge(admin::routes(&shared))
        .fallback(health::not_found)
        .method_not_allowed_fallback(health::method_not_allowed);
    layers::wrap(routes, &shared).with_state(shared)
}
