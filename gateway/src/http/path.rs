//! What stands in a path.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use lumbung_openapi::error::InvalidRequest;

use super::Shared;
use crate::chat::error::ApiError;

/// An id in the path, as the caller wrote it: any text, but without a zero byte, which Postgres does not take.
pub struct PathId(pub String);

impl FromRequestParts<Arc<Shared>> for PathId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Shared>) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await.ok().map(|Path(id)| id);
        let id = id.filter(|id| !id.contains('\0'));
        id.map(Self).ok_or_else(|| InvalidRequest::value("id", "The id in the path is not text.").into())
    }
}
