//! Accounts and their credit.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use lumbung_openapi::admin::{Account, AddCredit, Balance, CreateAccount, CreditMoved, CreditSource, Refund};

use super::super::Shared;
use super::call::{Call, Id, Nothing};
use super::error::AdminError;
use super::page::{self, Params};
use crate::domain::ids::AccountId;
use crate::domain::role::Role;
use crate::store::{self, AccountRecord, CreditKind};

/// The longest name, label or reference, in characters.
const MAX_TEXT: usize = 200;

/// `GET /admin/v1/accounts`
pub async fn list(State(shared): State<Arc<Shared>>, mut params: Params) -> Result<Response, AdminError> {
    let paging = params.paging()?;
    params.end()?;
    let accounts = shared.store.accounts_after(&paging.after, paging.fetch()).await?;
    let page = paging.page(accounts, |(account, _)| account.id.to_string());
    Ok(page::json(page.map(|(account, balance)| describe(account, balance))))
}

/// `GET /admin/v1/accounts/{id}`
pub async fn retrieve(State(shared): State<Arc<Shared>>, Id(id): Id<AccountId>) -> Result<Json<Account>, AdminError> {
    let account = shared.store.account(&id).await?;
    let balance = shared.store.account_balance(&id).await?;
    Ok(Json(describe(account, balance)))
}

/// `POST /admin/v1/accounts`
pub async fn create(State(shared): State<Arc<Shared>>, call: Call<CreateAccount>) -> Result<Response, AdminError> {
    check_text("name", &call.body.name)?;
    if call.body.name.is_empty() {
        return Err(AdminError::invalid("name", "'name' must not be empty."));
    }
    let mut act = call.begin(&shared, Role::Billing).await?;
    let account = act.create_account(&call.body.name).await?;
    let balance = act.account_balance(&account.id).await?;
    let id = account.id.to_string();
    act.finish(StatusCode::CREATED, &id, &describe(account, balance)).await
}

/// `POST /admin/v1/accounts/{id}/close`
pub async fn close(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<Nothing>,
) -> Result<Response, AdminError> {
    let mut act = call.begin(&shared, Role::Billing).await?;
    let account = act.close_account(&id).await?;
    let balance = act.account_balance(&id).await?;
    act.finish(StatusCode::OK, &id.to_string(), &describe(account, balance)).await
}

/// `POST /admin/v1/accounts/{id}/credit`
pub async fn credit(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<AddCredit>,
) -> Result<Response, AdminError> {
    let AddCredit { amount_usd, kind, reference } = &call.body;
    check_text("reference", reference)?;
    let kind = match kind {
        CreditSource::Paid => CreditKind::Paid,
        CreditSource::Promotional => CreditKind::Promotional,
    };
    let mut act = call.begin(&shared, Role::Billing).await?;
    act.add_credit(&id, *amount_usd, kind, reference).await?;
    let balance = balance(act.account_balance(&id).await?);
    let moved = CreditMoved { account: id.to_string(), amount_usd: *amount_usd, reference: reference.clone(), balance };
    act.finish(StatusCode::CREATED, &id.to_string(), &moved).await
}

/// `POST /admin/v1/accounts/{id}/refunds`
pub async fn refund(
    State(shared): State<Arc<Shared>>,
    Id(id): Id<AccountId>,
    call: Call<Refund>,
) -> Result<Response, AdminError> {
    let Refund { amount_usd, reference } = &call.body;
    check_text("reference", reference)?;
    let mut act = call.begin(&shared, Role::Billing).await?;
    act.refund(&id, *amount_usd, reference).await?;
    let balance = balance(act.account_balance(&id).await?);
    let moved = CreditMoved { account: id.to_string(), amount_usd: *amount_usd, reference: reference.clone(), balance };
    act.finish(StatusCode::CREATED, &id.to_string(), &moved).await
}

/// Text that people will read in lists and logs.
pub fn check_text(param: &str, text: &str) -> Result<(), AdminError> {
    if text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
        let message = format!("'{param}' must have at most {MAX_TEXT} characters, none of them a control character.");
        return Err(AdminError::invalid(param, message));
    }
    Ok(())
}

fn describe(account: AccountRecord, has: store::Balance) -> Account {
    let AccountRecord { id, name, created_at_us, closed_at_us, erased_at_us } = account;
    Account { id: id.to_string(), name, created_at_us, closed_at_us, erased_at_us, balance: balance(has) }
}

fn balance(has: store::Balance) -> Balance {
    Balance {
        credit_usd: has.credit,
        allowances_usd: has.allowances,
        spendable_usd: has.spendable,
        promotional_usd: has.promotional,
    }
}
