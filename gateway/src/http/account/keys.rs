//! `/v1/keys`: an account's keys, managed with a management key. A key made here is never one itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use http::{HeaderMap, StatusCode, Uri};
use lumbung_openapi::account::{ApiKey, ApiKeyAnswer, ApiKeyList, KeyDeleted, NewApiKeyAnswer};
use lumbung_openapi::chat::json::Members;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::money::{NanoUsd, UsdNumber};

use super::super::layers::read_body;
use super::super::path::PathId;
use super::limits::{apply, reset_name, shown_period, unknown};
use super::query::Params;
use super::{Shared, limits, manager, refused};
use crate::chat::clock;
use crate::chat::error::ApiError;
use crate::domain::calendar::Day;
use crate::domain::ids::AccountId;
use crate::domain::limits::{Limits, Period};
use crate::domain::timestamp;
use crate::store::{KeyChange, KeyRecord, NewKey, UsageQuestion};

/// Keys of a page: what each has spent is looked up.
const MOST: u32 = 50;
/// The longest name of a key, in characters.
const MAX_NAME: usize = 200;
/// What a body may hold.
const MEMBERS: [&str; 5] = ["name", "limit", "limit_reset", "expires_at", "limits"];

/// One page of the account's keys.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<ApiKeyList>, ApiError> {
    let account = manager(&shared, &headers).await?.allowance.account;
    let mut params = Params::of(&uri)?;
    let (limit, after) = (params.limit(MOST)?, params.take("after", "the 'next_cursor' of a page")?);
    params.end()?;
    let mut found = shared.store.account_keys(&account, after.as_ref(), limit + 1).await.map_err(refused)?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| has_more).map(|(key, _)| key.id.to_string());
    let mut data = Vec::with_capacity(found.len());
    for (key, key_limits) in &found {
        data.push(describe(&shared, key, key_limits).await?);
    }
    Ok(Json(ApiKeyList { data, has_more, next_cursor }))
}

/// Makes a key; it is shown this once.
pub async fn create(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<(StatusCode, Json<NewApiKeyAnswer>), ApiError> {
    let account = manager(&shared, request.headers()).await?.allowance.account;
    let body = read_body(request.into_body(), shared.max_body).await?;
    let members = Members::parse(&body)?;
    only(&members, &[])?;
    let label = name(&members)?.ok_or_else(|| InvalidRequest::missing("name"))?;
    let mut key_limits = Limits::default();
    apply(&members, &mut key_limits)?;
    let new = NewKey { label, management: false, limits: key_limits };
    let (record, key) = shared.store.create_key_with(&account, &new).await.map_err(refused)?;
    let (record, key_limits) = find(&shared, &account, &record.sha256).await?;
    let data = describe(&shared, &record, &key_limits).await?;
    Ok((StatusCode::CREATED, Json(NewApiKeyAnswer { data, key })))
}

/// One key.
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Json<ApiKeyAnswer>, ApiError> {
    let account = manager(&shared, &headers).await?.allowance.account;
    let (record, key_limits) = find(&shared, &account, &id).await?;
    Ok(Json(ApiKeyAnswer { data: describe(&shared, &record, &key_limits).await? }))
}

/// Changes a key. Gateways follow within a second.
pub async fn change(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    request: Request,
) -> Result<Json<ApiKeyAnswer>, ApiError> {
    let account = manager(&shared, request.headers()).await?.allowance.account;
    let body = read_body(request.into_body(), shared.max_body).await?;
    let members = Members::parse(&body)?;
    only(&members, &["disabled"])?;
    let (record, mut key_limits) = find(&shared, &account, &id).await?;
    let before = key_limits.clone();
    apply(&members, &mut key_limits)?;
    let change = KeyChange {
        label: name(&members)?,
        disabled: members.get("disabled").map(|value| value.boolean("disabled")).transpose()?,
        limits: (key_limits != before).then_some(key_limits),
    };
    shared.store.change_key(&account, &record.id, &change).await.map_err(refused)?;
    let (record, key_limits) = find(&shared, &account, &record.sha256).await?;
    Ok(Json(ApiKeyAnswer { data: describe(&shared, &record, &key_limits).await? }))
}

/// Revokes a key, for good. Gateways follow within a second.
pub async fn delete(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Json<KeyDeleted>, ApiError> {
    let account = manager(&shared, &headers).await?.allowance.account;
    let (record, _) = find(&shared, &account, &id).await?;
    shared.store.revoke_key(&record.id).await.map_err(refused)?;
    Ok(Json(KeyDeleted { deleted: true }))
}

async fn find(shared: &Shared, account: &AccountId, id: &str) -> Result<(KeyRecord, Limits), ApiError> {
    let missing = || ApiError::NotFound("There is no such key of this account.".into());
    shared.store.key_of(account, id).await.map_err(refused)?.ok_or_else(missing)
}

/// What is known of a key, with what was spent with it.
pub async fn describe(shared: &Shared, key: &KeyRecord, key_limits: &Limits) -> Result<ApiKey, ApiError> {
    let today = Day::of_us(clock::unix_micros());
    let mut spent = [NanoUsd::ZERO; 4];
    for (period, spent) in Period::ALL.into_iter().zip(&mut spent) {
        let from = Some(period.first_day(today));
        let question =
            UsageQuestion { from, account: Some(key.account), key: Some(key.id), ..UsageQuestion::default() };
        let lines = shared.store.usage(&question).await.map_err(refused)?.lines;
        *spent = lines.first().map_or(NanoUsd::ZERO, |line| line.used.charge);
    }
    let [daily, weekly, monthly, total] = spent;
    let shown = shown_period(key_limits);
    let limit = shown.and_then(|period| key_limits.budgets.of(period));
    let used = |period: Period| [daily, weekly, monthly, total][period as usize];
    let left = |(limit, period): (NanoUsd, Period)| limit.checked_sub(used(period)).unwrap_or_default();
    Ok(ApiKey {
        hash: key.sha256.clone(),
        id: key.id.to_string(),
        name: key.label.clone(),
        label: format!("{}…", key.shown_prefix),
        disabled: key.disabled,
        is_management_key: key.management,
        limit: limit.map(UsdNumber),
        limit_remaining: limit.zip(shown).map(left).map(|left| UsdNumber(left.max(NanoUsd::ZERO))),
        limit_reset: shown.and_then(reset_name),
        usage: UsdNumber(total),
        usage_daily: UsdNumber(daily),
        usage_weekly: UsdNumber(weekly),
        usage_monthly: UsdNumber(monthly),
        created_at: timestamp::format(key.created_at_us),
        expires_at: key_limits.expires_at_us.map(timestamp::format),
        limits: limits::describe(key_limits),
    })
}

fn name(members: &Members<'_>) -> Result<Option<String>, InvalidRequest> {
    let Some(value) = members.get("name") else { return Ok(None) };
    let name = value.string("name")?;
    match (1..=MAX_NAME).contains(&name.chars().count()) && !name.contains('\0') {
        true => Ok(Some(name.into_owned())),
        false => Err(InvalidRequest::value("name", format!("'name' must have 1 to {MAX_NAME} characters."))),
    }
}

fn only(members: &Members<'_>, more: &[&str]) -> Result<(), InvalidRequest> {
    match members.iter().find(|(name, _)| !MEMBERS.contains(name) && !more.contains(name)) {
        Some((name, _)) => Err(unknown(name)),
        None => Ok(()),
    }
}
