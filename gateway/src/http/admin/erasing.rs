//! Erasing what is personal of an account, or of a provider.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lumbung_openapi::admin::{EraseAccount, Erased, ErasedRows, LeftoverCredit};

use super::super::Shared;
use super::call::{Call, Id, Nothing};
use super::error::AdminError;
use crate::domain::ids::{AccountId, ProviderId};
use crate::domain::role::Role;
use crate::store::{Erasure, Leftover};

/// `POST /admin/v1/accounts/{id}/erase`
pub async fn account(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<EraseAccount>,
) -> Result<Response, AdminError> {
    let leftover = call.body.balance.map(|balance| match balance {
        LeftoverCredit::Refund => Leftover::Refund,
        LeftoverCredit::Forfeit => Leftover::Forfeit,
    });
    call.check(Role::Admin)?;
    // Money that is only set aside is not in the way.
    shared.gateway.allowances.recall(&id).await?;
    let mut act = call.begin(&shared, Role::Admin).await?;
    let erasure = act.erase_account(&id, leftover).await?;
    let id = id.to_string();
    act.finish(StatusCode::OK, &id, &describe(&id, erasure)).await
}

/// `POST /admin/v1/providers/{id}/erase`
pub async fn provider(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ProviderId>,
    call: Call<Nothing>,
) -> Result<Response, AdminError> {
    let mut act = call.begin(&shared, Role::Admin).await?;
    let erasure = act.erase_provider(&id).await?;
    act.finish(StatusCode::OK, id.as_str(), &describe(id.as_str(), erasure)).await
}

fn describe(id: &str, erasure: Erasure) -> Erased {
    let rows = erasure.rows.into_iter().map(|(kind, rows)| ErasedRows { kind: kind.to_owned(), rows });
    Erased {
        id: id.to_owned(),
        at_us: erasure.at_us,
        rows: rows.collect(),
        refunded_usd: erasure.refunded,
        forfeited_usd: erasure.forfeited,
        lapsed_usd: erasure.lapsed,
    }
}
