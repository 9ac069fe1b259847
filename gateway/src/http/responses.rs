//! Responses that are kept: `GET` and `DELETE /v1/responses/{id}`, and what such a response answers.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Uri};
use lumbung_openapi::responses::{InputItems, ResponseDeleted, items_of};

use super::Shared;
use super::account::query::{Params, wrong};
use super::path::PathId;
use crate::chat::error::ApiError;
use crate::domain::ids::AccountId;
use crate::store::StoreError;

/// Items on one page at most, and where nothing is said.
const MAX_ITEMS: usize = 100;
const ITEMS: usize = 20;
/// What `include` may ask for: it is in every response that was asked for it when it was made.
const INCLUDED: [&str; 2] = ["message.output_text.logprobs", "reasoning.encrypted_content"];

/// Its part of the route table.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/responses/{id}", get(retrieve).delete(delete))
        .route("/v1/responses/{id}/input_items", get(input_items))
}

async fn retrieve(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let account = account(&shared, &headers).await?;
    let mut params = Params::of(&uri)?;
    let stream = params.take::<bool>("stream", "true or false")?;
    if stream == Some(true) {
        return Err(wrong("stream", "false: a response that is kept is complete"));
    }
    read_include(&mut params)?;
    params.end()?;
    let kept = shared.store.response(&account, &id).await.map_err(unread)?;
    let object = kept.ok_or_else(|| not_found(&id))?.put_together();
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], object).into_response())
}

async fn delete(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Json<ResponseDeleted>, ApiError> {
    let account = account(&shared, &headers).await?;
    match shared.store.forget_response(&account, &id).await.map_err(unread)? {
        true => Ok(Json(ResponseDeleted { id, object: "response", deleted: true })),
        false => Err(not_found(&id)),
    }
}

async fn input_items(
    State(shared): State<Arc<Shared>>,
    PathId(id): PathId,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<InputItems>, ApiError> {
    let account = account(&shared, &headers).await?;
    let mut params = Params::of(&uri)?;
    let limit = params.take("limit", "a whole number from 1 to 100")?.unwrap_or(ITEMS);
    if !(1..=MAX_ITEMS).contains(&limit) {
        return Err(wrong("limit", "a whole number from 1 to 100"));
    }
    let order = params.text("order");
    let after = params.text("after");
    read_include(&mut params)?;
    params.end()?;

    let mut turns = shared.store.response_turns(&account, &id).await.map_err(unread)?.ok_or_else(|| not_found(&id))?;
    turns.last_mut().into_iter().for_each(|turn| turn.output = "[]".to_owned()); // that is the response itself
    let turns: Vec<&str> = turns.iter().flat_map(|turn| [turn.input.as_str(), turn.output.as_str()]).collect();
    let mut items = items_of(&turns).map_err(|error| {
        tracing::error!(%error, "a response that is kept is malformed");
        ApiError::BooksUnavailable
    })?;
    match order.as_deref() {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(_) => return Err(wrong("order", "'asc' or 'desc'")),
    }
    if let Some(after) = after {
        let at = items.iter().position(|(id, _)| *id == after).ok_or_else(|| wrong("after", "an item's id"))?;
        items.drain(..=at);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id_of = |item: Option<&(String, _)>| item.map(|(id, _)| id.clone());
    let (first_id, last_id) = (id_of(items.first()), id_of(items.last()));
    let data = items.into_iter().map(|(_, item)| item).collect();
    Ok(Json(InputItems { object: "list", data, first_id, last_id, has_more }))
}

fn read_include(params: &mut Params) -> Result<(), ApiError> {
    for name in ["include", "include[]"] {
        if params.text(name).is_some_and(|value| !INCLUDED.contains(&value.as_str())) {
            return Err(wrong("include", "one of 'message.output_text.logprobs' and 'reasoning.encrypted_content'"));
        }
    }
    Ok(())
}

async fn account(shared: &Shared, headers: &HeaderMap) -> Result<AccountId, ApiError> {
    let caller = shared.gateway.keyring.authenticate(headers).await?;
    match caller.is_management {
        true => Err(ApiError::Forbidden("A management key manages keys: it cannot read responses.")),
        false => Ok(caller.allowance.account),
    }
}

fn not_found(id: &str) -> ApiError {
    ApiError::NotFound(format!("There is no response '{id}' of this account, or it is kept no longer."))
}

fn unread(error: StoreError) -> ApiError {
    tracing::error!(%error, "responses that are kept cannot be read");
    ApiError::BooksUnavailable
}
