//! Payout runs, and what became of each payout.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lumbung_openapi::admin::Page;
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::payouts::{ConfirmPayout, CreatePayoutRun, Payout, PayoutRun, PayoutRunDetail, PayoutState};

use super::super::Shared;
use super::call::{Call, Id, Nothing};
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::csv::{Csv, Row};
use crate::domain::ids::{PayoutId, PayoutRunId};
use crate::domain::role::Role;
use crate::store::{self, PayoutTerms};

/// Bytes of a reference at most.
const MAX_REFERENCE: usize = 200;

/// `GET /admin/v1/payout-runs`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let runs = shared.store.payout_runs_after(&paging.after, paging.fetch()).await?;
    Ok(page::json(paging.page(runs, |run| run.id.to_string()).map(describe_run)))
}

/// `POST /admin/v1/payout-runs`
pub async fn create(State(shared): State<Arc<Shared>>, call: Call<CreatePayoutRun>) -> Result<Response, AdminError> {
    let CreatePayoutRun { minimum_usd, reference } = &call.body;
    check_above_zero("minimum_usd", *minimum_usd)?;
    check_line("reference", reference, 0, MAX_REFERENCE)?;
    let (minimum, cooldown, reference) = (*minimum_usd, shared.payout_cooldown, reference.clone());
    let mut act = call.begin(&shared, Role::Billing).await?;
    let run = act.create_payouts(&PayoutTerms { minimum, cooldown, reference }).await?;
    let id = run.id.to_string();
    act.finish(StatusCode::CREATED, &id, &describe_run(run)).await
}

/// `GET /admin/v1/payout-runs/{id}`
pub async fn retrieve(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<PayoutRunId>,
    mut params: Params,
) -> Result<Response, AdminError> {
    let as_csv = params.wants_csv()?;
    params.end()?;
    let run = describe_run(shared.store.payout_run(&id).await?);
    let payouts: Vec<Payout> = shared.store.payouts_of(&id).await?.into_iter().map(describe).collect();
    if !as_csv {
        return Ok(Json(PayoutRunDetail { run, payouts }).into_response());
    }
    let all = Page { object: "list", data: payouts, has_more: false, next_cursor: None };
    Ok(page::csv(all, &format!("payouts-{id}")))
}

/// `POST /admin/v1/payouts/{id}/confirm`
pub async fn confirm(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<PayoutId>,
    call: Call<ConfirmPayout>,
) -> Result<Response, AdminError> {
    check_line("reference", &call.body.reference, 1, MAX_REFERENCE)?;
    let mut act = call.begin(&shared, Role::Billing).await?;
    let payout = act.confirm_payout(&id, &call.body.reference).await?;
    act.finish(StatusCode::OK, &id.to_string(), &describe(payout)).await
}

/// `POST /admin/v1/payouts/{id}/reverse`
pub async fn reverse(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<PayoutId>,
    call: Call<Nothing>,
) -> Result<Response, AdminError> {
    let mut act = call.begin(&shared, Role::Admin).await?;
    let payout = act.reverse_payout(&id).await?;
    act.finish(StatusCode::OK, &id.to_string(), &describe(payout)).await
}

/// An amount that moves money.
pub fn check_above_zero(param: &str, amount: NanoUsd) -> Result<(), AdminError> {
    match amount > NanoUsd::ZERO {
        true => Ok(()),
        false => Err(AdminError::invalid(param, format!("'{param}' must be above zero."))),
    }
}

/// One line of text, its length in bytes.
pub fn check_line(param: &str, text: &str, least: usize, most: usize) -> Result<(), AdminError> {
    let is_short = text.trim().len() < least;
    if is_short || text.len() > most || text.chars().any(char::is_control) {
        return Err(AdminError::invalid(param, format!("'{param}' must be one line of {least} to {most} bytes.")));
    }
    Ok(())
}

fn describe_run(run: store::PayoutRun) -> PayoutRun {
    PayoutRun {
        id: run.id.to_string(),
        reference: run.reference,
        minimum_usd: run.minimum,
        created_at_us: run.created_at_us,
        payouts: run.payouts,
        total_usd: run.total,
    }
}

fn describe(payout: store::Payout) -> Payout {
    Payout {
        id: payout.id.to_string(),
        run: payout.run.to_string(),
        provider: payout.provider.to_string(),
        amount_usd: payout.amount,
        details: payout.details,
        details_version: payout.details_version,
        state: match payout.state {
            store::PayoutState::InTransit => PayoutState::InTransit,
            store::PayoutState::Confirmed => PayoutState::Confirmed,
            store::PayoutState::Reversed => PayoutState::Reversed,
        },
        reference: payout.reference,
        created_at_us: payout.created_at_us,
        decided_at_us: payout.decided_at_us,
    }
}

impl Row for Payout {
    const HEAD: &'static [&'static str] = &[
        "payout",
        "run",
        "provider",
        "amount_usd",
        "details",
        "details_version",
        "state",
        "reference",
        "created_at_us",
        "decided_at_us",
    ];

    fn fields(&self, csv: Csv) -> Csv {
        let state = match self.state {
            PayoutState::InTransit => "in_transit",
            PayoutState::Confirmed => "confirmed",
            PayoutState::Reversed => "reversed",
        };
        let csv = csv.number(&self.id).number(&self.run).number(&self.provider).number(self.amount_usd);
        let csv = csv.text(&self.details).number(self.details_version).text(state).text(&self.reference);
        csv.number(self.created_at_us).optional(self.decided_at_us)
    }
}
