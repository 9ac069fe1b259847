//! API keys, and what keys and accounts may do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lumbung_openapi::admin::{ChangeKey, CreateKey, CreatedKey, Key, Limits};
use lumbung_openapi::money::NanoUsd;

use super::super::Shared;
use super::accounts::check_text;
use super::call::{Call, Id, Nothing};
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::ids::{AccountId, KeyId, ModelId};
use crate::domain::limits::{self, Budgets, LimitOwner};
use crate::domain::role::Role;
use crate::store::{KeyChange, KeyRecord, NewKey, StoreError};

/// Models that a limit names at most.
const MAX_MODELS: usize = 256;
/// The end of the year 9999, Unix microseconds: later moments have no RFC 3339.
const LATEST_US: i64 = 253_402_300_799_999_999;

/// `GET /admin/v1/keys`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    let account = params.take::<AccountId>("account", "an account's id")?;
    let management = params.take::<bool>("management", "true or false")?;
    params.end()?;
    let account = account.map_or_else(String::new, |id| id.to_string());
    let keys = shared.store.keys_after(&account, management, &paging.after, paging.fetch()).await?;
    Ok(page::json(paging.page(keys, |key| key.id.to_string()).map(describe)))
}

/// `GET /admin/v1/keys/{id}`
pub async fn retrieve(State(shared): State<Arc<Shared>>, Id(id): Id<KeyId>) -> Result<Json<Key>, AdminError> {
    Ok(Json(describe(shared.store.key(&id).await?)))
}

/// `POST /admin/v1/accounts/{id}/keys`
pub async fn create(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<CreateKey>,
) -> Result<Response, AdminError> {
    let CreateKey { label, management } = &call.body;
    check_text("label", label)?;
    let new = NewKey { label: label.clone(), management: *management, ..NewKey::default() };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let (record, secret) = act.create_key(&id, &new).await?;
    let key_id = record.id.to_string();
    let record = describe(record);
    let without_secret = CreatedKey { record: record.clone(), key: None };
    let answer = CreatedKey { record, key: Some(secret) };
    act.finish_with_secret(StatusCode::CREATED, &key_id, &answer, &without_secret).await
}

/// `PATCH /admin/v1/keys/{id}`
pub async fn change(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<KeyId>,
    call: Call<ChangeKey>,
) -> Result<Response, AdminError> {
    let ChangeKey { label, disabled } = &call.body;
    check_text("label", label.as_deref().unwrap_or_default())?;
    let change = KeyChange { label: label.clone(), disabled: *disabled, limits: None };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let key = act.change_key(&id, &change).await?;
    act.finish(StatusCode::OK, &id.to_string(), &describe(key)).await
}

/// `POST /admin/v1/keys/{id}/revoke`
pub async fn revoke(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<KeyId>,
    call: Call<Nothing>,
) -> Result<Response, AdminError> {
    let mut act = call.begin(&shared, Role::Admin).await?;
    let key = act.revoke_key(&id).await?;
    act.finish(StatusCode::OK, &id.to_string(), &describe(key)).await
}

/// `GET /admin/v1/keys/{id}/limits`
pub async fn key_limits(State(shared): State<Arc<Shared>>, Id(id): Id<KeyId>) -> Result<Json<Limits>, AdminError> {
    shared.store.key(&id).await?;
    Ok(Json(describe_limits(shared.store.limits(LimitOwner::Key(id)).await?)))
}

/// `GET /admin/v1/accounts/{id}/limits`
pub async fn account_limits(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
) -> Result<Json<Limits>, AdminError> {
    shared.store.account(&id).await?;
    Ok(Json(describe_limits(shared.store.limits(LimitOwner::Account(id)).await?)))
}

/// `PUT /admin/v1/keys/{id}/limits`
pub async fn set_key_limits(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<KeyId>,
    call: Call<Limits>,
) -> Result<Response, AdminError> {
    set_limits(&shared, LimitOwner::Key(id), &call).await
}

/// `PUT /admin/v1/accounts/{id}/limits`
pub async fn set_account_limits(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<Limits>,
) -> Result<Response, AdminError> {
    set_limits(&shared, LimitOwner::Account(id), &call).await
}

async fn set_limits(shared: &Shared, owner: LimitOwner, call: &Call<Limits>) -> Result<Response, AdminError> {
    let limits = parse_limits(&call.body)?;
    let mut act = call.begin(shared, Role::Admin).await?;
    let limits = match act.set_limits(owner, &limits).await {
        // Everything else has been looked at.
        Err(StoreError::Invalid(why)) => return Err(AdminError::invalid("models", format!("{why}."))),
        set => set?,
    };
    act.finish(StatusCode::OK, &owner.to_string(), &describe_limits(limits)).await
}

fn parse_limits(body: &Limits) -> Result<limits::Limits, AdminError> {
    let budget = |param: &str, budget: Option<NanoUsd>| match budget {
        Some(amount) if amount < NanoUsd::ZERO => {
            Err(AdminError::invalid(param, format!("'{param}' must not be below zero.")))
        }
        budget => Ok(budget),
    };
    let named = body.models.as_deref().unwrap_or_default();
    let models = named.iter().map(|name| name.parse::<ModelId>()).collect::<Result<Vec<_>, _>>();
    let models = models.ok().filter(|models| models.len() <= MAX_MODELS);
    let models = models.ok_or_else(|| {
        AdminError::invalid("models", format!("'models' must name at most {MAX_MODELS} models by their ids."))
    })?;
    if body.expires_at_us.is_some_and(|at| !(0..=LATEST_US).contains(&at)) {
        return Err(AdminError::invalid("expires_at_us", "'expires_at_us' must be a time in Unix microseconds."));
    }
    Ok(limits::Limits {
        budgets: Budgets {
            day: budget("budget_day_usd", body.budget_day_usd)?,
            week: budget("budget_week_usd", body.budget_week_usd)?,
            month: budget("budget_month_usd", body.budget_month_usd)?,
            total: budget("budget_total_usd", body.budget_total_usd)?,
        },
        models: body.models.as_ref().map(|_| models),
        requests_per_minute: body.requests_per_minute,
        tokens_per_minute: body.tokens_per_minute,
        concurrent_requests: body.concurrent_requests,
        expires_at_us: body.expires_at_us,
        allow_probation: body.allow_probation,
    })
}

fn describe_limits(limits: limits::Limits) -> Limits {
    Limits {
        budget_day_usd: limits.budgets.day,
        budget_week_usd: limits.budgets.week,
        budget_month_usd: limits.budgets.month,
        budget_total_usd: limits.budgets.total,
        models: limits.models.map(|models| models.iter().map(ModelId::to_string).collect()),
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        concurrent_requests: limits.concurrent_requests,
        expires_at_us: limits.expires_at_us,
        allow_probation: limits.allow_probation,
    }
}

fn describe(key: KeyRecord) -> Key {
    Key {
        id: key.id.to_string(),
        account: key.account.to_string(),
        label: key.label,
        shown_prefix: key.shown_prefix,
        management: key.management,
        disabled: key.disabled,
        created_at_us: key.created_at_us,
        revoked_at_us: key.revoked_at_us,
    }
}
