//! Webhook endpoints, what became of what they were to be told, and accounts' thresholds.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lumbung_openapi::admin::Removed;
use lumbung_openapi::webhook::{CreateWebhook, CreatedWebhook, LowBalance, SetLowBalance, Webhook, WebhookDelivery};

use super::super::Shared;
use super::call::{Call, Id, Nothing};
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::ids::{AccountId, WebhookId};
use crate::domain::role::Role;
use crate::store::{DeliveryRecord, WebhookRecord};

/// `GET /admin/v1/webhooks`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let webhooks = shared.store.webhooks_after(&paging.after, paging.fetch()).await?;
    Ok(page::json(paging.page(webhooks, |webhook| webhook.id.to_string()).map(describe)))
}

/// `GET /admin/v1/webhooks/{id}`
pub async fn retrieve(State(shared): State<Arc<Shared>>, Id(id): Id<WebhookId>) -> Result<Json<Webhook>, AdminError> {
    Ok(Json(describe(shared.store.webhook(&id).await?)))
}

/// `POST /admin/v1/webhooks`
pub async fn create(State(shared): State<Arc<Shared>>, call: Call<CreateWebhook>) -> Result<Response, AdminError> {
    let url = shared.courier.check_url(&call.body.url);
    let url = url.map_err(|error| AdminError::invalid("url", format!("'url' cannot be used: {error}.")))?;
    let mut events = call.body.events.clone();
    events.sort_unstable();
    events.dedup();
    if events.is_empty() {
        return Err(AdminError::invalid("events", "'events' must name at least one."));
    }
    let mut act = call.begin(&shared, Role::Admin).await?;
    let (record, secret) = act.create_webhook(&url, &events).await?;
    let (id, webhook) = (record.id.to_string(), describe(record));
    let without_secret = CreatedWebhook { webhook: webhook.clone(), secret: None };
    let answer = CreatedWebhook { webhook, secret: Some(secret) };
    act.finish_with_secret(StatusCode::CREATED, &id, &answer, &without_secret).await
}

/// `DELETE /admin/v1/webhooks/{id}`
pub async fn remove(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<WebhookId>,
    call: Call<Nothing>,
) -> Result<Response, AdminError> {
    let mut act = call.begin(&shared, Role::Admin).await?;
    act.remove_webhook(&id).await?;
    let id = id.to_string();
    act.finish(StatusCode::OK, &id, &Removed { id: id.clone(), removed: true }).await
}

/// `GET /admin/v1/webhooks/{id}/deliveries`
pub async fn deliveries(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<WebhookId>,
    mut params: Params,
) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let deliveries = shared.store.webhook_deliveries(&id, &paging.after, paging.fetch()).await?;
    Ok(page::json(paging.page(deliveries, |delivery| delivery.event.to_string()).map(describe_delivery)))
}

/// `GET /admin/v1/accounts/{id}/low-balance`
pub async fn low_balance(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
) -> Result<Json<LowBalance>, AdminError> {
    let threshold_usd = shared.store.low_balance(&id).await?;
    Ok(Json(LowBalance { account: id.to_string(), threshold_usd }))
}

/// `PUT /admin/v1/accounts/{id}/low-balance`
pub async fn set_low_balance(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<SetLowBalance>,
) -> Result<Response, AdminError> {
    let threshold_usd = call.body.threshold_usd;
    let mut act = call.begin(&shared, Role::Billing).await?;
    act.set_low_balance(&id, threshold_usd).await?;
    let account = id.to_string();
    act.finish(StatusCode::OK, &account, &LowBalance { account: account.clone(), threshold_usd }).await
}

fn describe(record: WebhookRecord) -> Webhook {
    let WebhookRecord { id, url, events, created_at_us } = record;
    Webhook { id: id.to_string(), url, events, created_at_us }
}

fn describe_delivery(record: DeliveryRecord) -> WebhookDelivery {
    WebhookDelivery {
        event: record.event.to_string(),
        kind: record.kind,
        state: record.state,
        tries: record.tries,
        last_status: record.last_status,
        created_at_us: record.created_at_us,
        next_try_at_us: record.next_try_at_us,
    }
}
