//! An account's own view under `/v1`, with its API key: credit, usage, answers, keys.

mod keys;
mod limits;
mod own;
pub(super) mod query;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use http::HeaderMap;
use lumbung_openapi::error::InvalidRequest;

use super::Shared;
use crate::chat::authenticate::Caller;
use crate::chat::error::ApiError;
use crate::store::StoreError;

/// Its part of the route table.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/credits", get(own::credits))
        .route("/v1/balance", get(own::balance))
        .route("/v1/key", get(own::key))
        .route("/v1/generation", get(own::generation))
        .route("/v1/usage", get(usage::list))
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", get(keys::retrieve).patch(keys::change).delete(keys::delete))
}

/// Whose management key this is.
async fn manager(shared: &Shared, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
    let caller = shared.gateway.keyring.authenticate(headers).await?;
    match caller.is_management {
        true => Ok(caller),
        false => Err(ApiError::Forbidden("This needs a management key.")),
    }
}

/// What a client is told when the books say no.
fn refused(error: StoreError) -> ApiError {
    match error {
        StoreError::Invalid(why) => {
            ApiError::Invalid(InvalidRequest { message: format!("{why}."), param: None, code: Some("invalid_value") })
        }
        StoreError::Missing(what) => ApiError::NotFound(format!("There is no such {what}.")),
        error => {
            tracing::error!(%error, "the books do not answer");
            ApiError::BooksUnavailable
        }
    }
}
