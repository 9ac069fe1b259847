//! `GET /v1/receipts/{id}`: the client's proof of what it was charged for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::HeaderMap;
use lumbung_openapi::receipt::JobReceipt;

use super::Shared;
use super::path::PathId;
use crate::chat::error::ApiError;

/// The receipt of one of the caller's own jobs, as soon as its answer has ended.
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Json<JobReceipt>, ApiError> {
    let caller = shared.gateway.keyring.authenticate(&headers).await?;
    let missing = || ApiError::NotFound(format!("There is no receipt '{id}' of this account."));
    shared.gateway.settler.flush().await?;
    let receipt = shared.store.job_receipt(&caller.allowance.account, &id).await.map_err(|error| {
        tracing::error!(%error, "receipt not read");
        ApiError::BooksUnavailable
    })?;
    receipt.map(Json).ok_or_else(missing)
}
