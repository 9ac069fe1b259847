//! What providers earn, what is taken back from them, and what is decided about shares that promotional credit paid for.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use lumbung_openapi::admin::Page;
use lumbung_openapi::earnings::{EarningState, EarningsLine, PromotionalState};
use lumbung_openapi::payouts::{
    Clawback, CreateClawback, DecidePromotional, HeldShares, PromotionalDecision, PromotionalVerdict,
};

use super::super::Shared;
use super::call::{Call, Id};
use super::error::AdminError;
use super::page::{self, Params};
use super::payouts::{check_above_zero, check_line};
use crate::domain::csv::{Csv, Row};
use crate::domain::ids::{JobId, ProviderId};
use crate::domain::role::Role;
use crate::store::{self, Claw, MAX_PAGE, StatementPage, Verdict};

/// Bytes of a reason at most.
const MAX_REASON: usize = 1000;
/// Bytes of evidence at most.
const MAX_EVIDENCE: usize = 16 << 10;
/// Jobs that one clawback names at most.
const MAX_JOBS: usize = 500;

/// `GET /admin/v1/providers/{id}/earnings`: the statement that the provider itself reads.
pub async fn statement(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<ProviderId>,
    mut params: Params,
) -> Result<Response, AdminError> {
    let (paging, as_csv) = (params.paging()?, params.wants_csv()?);
    let since_us = params.moment("from_us")?.unwrap_or_default();
    params.end()?;
    if paging.limit() > MAX_PAGE {
        return Err(AdminError::invalid("limit", format!("'limit' must be a whole number from 1 to {MAX_PAGE}.")));
    }
    let after = match paging.after.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| no_cursor())?),
    };
    shared.store.provider(&id).await?;
    let page = StatementPage { since_us, after, limit: paging.limit() };
    let (holdback, cooldown) = (shared.gateway.holdback, shared.payout_cooldown);
    let statement = shared.store.earnings_statement(&id, &page, holdback, cooldown).await?;
    if !as_csv {
        return Ok(Json(statement).into_response());
    }
    let (data, has_more, next_cursor) = (statement.data, statement.has_more, statement.next_cursor);
    Ok(page::csv(Page { object: "list", data, has_more, next_cursor }, "earnings"))
}

/// `GET /admin/v1/clawbacks`
pub async fn list_clawbacks(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    let provider = params.take::<ProviderId>("provider", "a provider's id")?;
    params.end()?;
    let clawbacks = shared.store.clawbacks_after(provider.as_ref(), &paging.after, paging.fetch()).await?;
    Ok(page::json(paging.page(clawbacks, |clawback| clawback.id.to_string()).map(describe_clawback)))
}

/// `POST /admin/v1/clawbacks`
pub async fn claw_back(State(shared): State<Arc<Shared>>, call: Call<CreateClawback>) -> Result<Response, AdminError> {
    let CreateClawback { provider, jobs, amount_usd, reason, evidence } = &call.body;
    let provider: ProviderId = id("provider", provider)?;
    check_line("reason", reason, 1, MAX_REASON)?;
    if evidence.len() > MAX_EVIDENCE || evidence.contains('\0') {
        return Err(AdminError::invalid(
            "evidence",
            format!("'evidence' must be text of {MAX_EVIDENCE} bytes at most."),
        ));
    }
    let claw = match (jobs, amount_usd) {
        (Some(jobs), None) if (1..=MAX_JOBS).contains(&jobs.len()) => {
            Claw::Jobs(jobs.iter().map(|job| id::<JobId>("jobs", job)).collect::<Result<_, _>>()?)
        }
        (Some(_), None) => {
            return Err(AdminError::invalid("jobs", format!("'jobs' must name 1 to {MAX_JOBS} jobs.")));
        }
        (None, Some(amount)) => {
            check_above_zero("amount_usd", *amount)?;
            Claw::Amount(*amount)
        }
        _ => return Err(AdminError::invalid("jobs", "One of 'jobs' and 'amount_usd' is needed, and not both.")),
    };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let done = act.claw_back(&provider, &claw, reason, evidence).await?;
    let id = done.id.to_string();
    act.finish(StatusCode::CREATED, &id, &describe_clawback(done)).await
}

/// `GET /admin/v1/promotional`
pub async fn list_held(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    let provider = params.take::<ProviderId>("provider", "a provider's id")?;
    params.end()?;
    let after = match paging.after.as_str() {
        "" => ("", ""),
        text => text.split_once('.').ok_or_else(no_cursor)?,
    };
    let held = shared.store.held_shares_after(provider.as_ref(), after, paging.fetch()).await?;
    let page = paging.page(held, |held| format!("{}.{}", held.provider, held.account));
    Ok(page::json(page.map(describe_held)))
}

/// `POST /admin/v1/promotional/decisions`
pub async fn decide(State(shared): State<Arc<Shared>>, call: Call<DecidePromotional>) -> Result<Response, AdminError> {
    let DecidePromotional { provider, account, verdict, reason } = &call.body;
    let provider: ProviderId = id("provider", provider)?;
    let account = account.as_ref().map(|account| id("account", account)).transpose()?;
    check_line("reason", reason, 1, MAX_REASON)?;
    let verdict = match verdict {
        PromotionalVerdict::Approve => Verdict::Approved,
        PromotionalVerdict::Refuse => Verdict::Refused,
    };
    let mut act = call.begin(&shared, Role::Admin).await?;
    let done = act.decide_promotional(&provider, account.as_ref(), verdict, reason).await?;
    let id = done.id.to_string();
    act.finish(StatusCode::CREATED, &id, &describe_decision(done)).await
}

fn id<T: std::str::FromStr>(param: &str, text: &str) -> Result<T, AdminError> {
    text.parse().map_err(|_| AdminError::invalid(param, format!("'{param}' holds no id of the right kind.")))
}

fn no_cursor() -> AdminError {
    AdminError::invalid("after", "'after' is no cursor of this list's.")
}

fn describe_clawback(clawback: store::Clawback) -> Clawback {
    Clawback {
        id: clawback.id.to_string(),
        provider: clawback.provider.to_string(),
        amount_usd: clawback.amount,
        refunded_usd: clawback.refunded,
        reason: clawback.reason,
        evidence: clawback.evidence,
        at_us: clawback.at_us,
    }
}

fn describe_held(held: store::HeldShares) -> HeldShares {
    HeldShares {
        provider: held.provider.to_string(),
        account: held.account.to_string(),
        attempts: held.attempts,
        amount_usd: held.amount,
        proven_usd: held.proven,
    }
}

fn describe_decision(decision: store::PromotionalDecision) -> PromotionalDecision {
    PromotionalDecision {
        id: decision.id.to_string(),
        provider: decision.provider.to_string(),
        account: decision.account.map(|account| account.to_string()),
        verdict: match decision.verdict {
            Verdict::Approved => PromotionalVerdict::Approve,
            Verdict::Refused => PromotionalVerdict::Refuse,
        },
        attempts: decision.attempts,
        amount_usd: decision.amount,
        reason: decision.reason,
        at_us: decision.at_us,
    }
}

impl Row for EarningsLine {
    const HEAD: &'static [&'static str] = &[
        "job",
        "attempt",
        "model",
        "settled_at",
        "prompt_tokens",
        "completion_tokens",
        "gross_usd",
        "fee_usd",
        "share_usd",
        "corrected_from_usd",
        "net_usd",
        "state",
        "payable_from",
        "receipt_by",
        "payout",
        "clawbacks",
        "promotional_share_usd",
        "promotional_state",
        "promotional_reason",
        "promotional_payout",
    ];

    fn fields(&self, csv: Csv) -> Csv {
        let clawbacks: Vec<&str> = self.clawbacks.iter().map(|clawback| clawback.id.as_str()).collect();
        let promotional = self.promotional.as_ref();
        let reason = promotional.and_then(|part| part.reason.as_deref()).unwrap_or_default();
        let csv = csv.number(&self.job).number(self.attempt).text(&self.model).number(self.settled_at);
        let csv = csv.number(self.prompt_tokens).number(self.completion_tokens).number(self.gross).number(self.fee);
        let csv = csv.number(self.share).optional(self.corrected_from).number(self.net).text(state(self.state));
        let csv = csv.optional(self.payable_from).optional(self.receipt_by).optional(self.payout.as_ref());
        let csv = csv.text(&clawbacks.join(" ")).optional(promotional.map(|part| part.share));
        let csv = csv.optional(promotional.map(|part| promotional_state(part.state))).text(reason);
        csv.optional(promotional.and_then(|part| part.payout.as_ref()))
    }
}

fn state(state: EarningState) -> &'static str {
    match state {
        EarningState::AwaitingReceipt => "awaiting_receipt",
        EarningState::Pending => "pending",
        EarningState::Payable => "payable",
        EarningState::InTransit => "in_transit",
        EarningState::Paid => "paid",
        EarningState::Withheld => "withheld",
    }
}

fn promotional_state(state: PromotionalState) -> &'static str {
    match state {
        PromotionalState::Held => "held",
        PromotionalState::Payable => "payable",
        PromotionalState::InTransit => "in_transit",
        PromotionalState::Paid => "paid",
        PromotionalState::Refused => "refused",
        PromotionalState::Withheld => "withheld",
    }
}
