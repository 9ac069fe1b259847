//! The operator's API under `/admin/v1`: the route table, and what its handlers share. A handler checks its role, reads,
//! or does one [act](crate::store::Act) and answers.

mod accounts;
mod audit;
mod call;
mod earnings;
mod erasing;
mod error;
mod gate;
mod keys;
mod ledger;
mod models;
mod page;
mod payouts;
mod providers;
mod usage;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::Shared;

/// The operator's routes, behind the gate that knows operators.
pub fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/admin/v1/accounts", get(accounts::list).post(accounts::create))
        .route("/admin/v1/accounts/{id}", get(accounts::retrieve))
        .route("/admin/v1/accounts/{id}/close", post(accounts::close))
        .route("/admin/v1/accounts/{id}/erase", post(erasing::account))
        .route("/admin/v1/accounts/{id}/credit", post(accounts::credit))
        .route("/admin/v1/accounts/{id}/refunds", post(accounts::refund))
        .route("/admin/v1/accounts/{id}/keys", post(keys::create))
        .route("/admin/v1/accounts/{id}/limits", get(keys::account_limits).put(keys::set_account_limits))
        .route("/admin/v1/keys", get(keys::list))
        .route("/admin/v1/keys/{id}", get(keys::retrieve).patch(keys::change))
        .route("/admin/v1/keys/{id}/revoke", post(keys::revoke))
        .route("/admin/v1/keys/{id}/limits", get(keys::key_limits).put(keys::set_key_limits))
        .route("/admin/v1/models", get(models::list))
        .route("/admin/v1/models/{id}", get(models::retrieve).put(models::put).delete(models::remove))
        .route("/admin/v1/models/{id}/prices", get(models::list_prices).post(models::add_price))
        .route("/admin/v1/providers", get(providers::list))
        .route("/admin/v1/providers/{id}", get(providers::retrieve))
        .route("/admin/v1/providers/{id}/standing", post(providers::set_standing))
        .route("/admin/v1/providers/{id}/erase", post(erasing::provider))
        .route("/admin/v1/providers/{id}/earnings", get(earnings::statement))
        .route("/admin/v1/clawbacks", get(earnings::list_clawbacks).post(earnings::claw_back))
        .route("/admin/v1/promotional", get(earnings::list_held))
        .route("/admin/v1/promotional/decisions", post(earnings::decide))
        .route("/admin/v1/payout-runs", get(payouts::list).post(payouts::create))
        .route("/admin/v1/payout-runs/{id}", get(payouts::retrieve))
        .route("/admin/v1/payouts/{id}/confirm", post(payouts::confirm))
        .route("/admin/v1/payouts/{id}/reverse", post(payouts::reverse))
        .route("/admin/v1/ledger/entries", get(ledger::entries))
        .route("/admin/v1/ledger/check", get(ledger::check))
        .route("/admin/v1/usage", get(usage::list))
        .route("/admin/v1/accounts/{id}/invoices/{month}", get(usage::invoice))
        .route("/admin/v1/accounts/{id}/low-balance", get(webhooks::low_balance).put(webhooks::set_low_balance))
        .route("/admin/v1/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/admin/v1/webhooks/{id}", get(webhooks::retrieve).delete(webhooks::remove))
        .route("/admin/v1/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/admin/v1/audit", get(audit::list))
        .route_layer(from_fn_with_state(shared.clone(), gate::gate))
}
