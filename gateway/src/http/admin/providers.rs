//! Providers and how far they are trusted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lumbung_openapi::admin::{Provider, ProviderStanding, SetStanding};

use super::super::Shared;
use super::call::{Call, Id};
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::ids::ProviderId;
use crate::domain::provider::{ProviderRecord, Standing};
use crate::domain::role::Role;

/// `GET /admin/v1/providers`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let providers = shared.store.providers_after(&paging.after, paging.fetch()).await?;
    Ok(page::json(paging.page(providers, |provider| provider.id.to_string()).map(describe)))
}

/// `GET /admin/v1/providers/{id}`
pub async fn retrieve(State(shared): State<Arc<Shared>>, Id(id): Id<ProviderId>) -> Result<Json<Provider>, AdminError> {
    Ok(Json(describe(shared.store.provider(&id).await?)))
}

/// `POST /admin/v1/providers/{id}/standing`: also for one that has not joined yet (a ban may come first).
pub async fn set_standing(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ProviderId>,
    call: Call<SetStanding>,
) -> Result<Response, AdminError> {
    let standing = match call.body.standing {
        ProviderStanding::Newcomer => Standing::Newcomer,
        ProviderStanding::Trusted => Standing::Trusted,
        ProviderStanding::Banned => Standing::Banned,
    };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let provider = act.set_standing(&id, standing).await?;
    act.finish(StatusCode::OK, id.as_str(), &describe(provider)).await
}

fn describe(provider: ProviderRecord) -> Provider {
    let standing = match provider.standing {
        Standing::Newcomer => ProviderStanding::Newcomer,
        Standing::Trusted => ProviderStanding::Trusted,
        Standing::Banned => ProviderStanding::Banned,
    };
    Provider {
        id: provider.id.to_string(),
        standing,
        first_seen_us: provider.first_seen_us,
        standing_since_us: provider.standing_since_us,
    }
}
