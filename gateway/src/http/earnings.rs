//! What a provider reads and says about its money, with its own key: the statement, and where it wants to be paid.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use lumbung_openapi::earnings::{
    EarningsStatement, PayoutDetailsClaims, PayoutDetailsSet, SIGNED_SCHEME, StatementClaims,
};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::provider::ChallengeAnswer;

use super::Shared;
use super::provider::{refuse, refuse_answer};
use crate::chat::clock;
use crate::chat::error::ApiError;
use crate::domain::ids::ProviderId;
use crate::fleet::join::JoinError;
use crate::store::{MAX_PAGE, StatementPage, StoreError};

/// Attempts on a page, where it is not said.
const DEFAULT_PAGE: usize = 100;
/// The latest moment that can be asked for, Unix seconds: the year 2255, whose microseconds 64 bits hold.
const LAST_SECOND: i64 = 9_000_000_000;

/// Why a provider is not told, or not heard.
pub enum Refusal {
    /// Nothing is signed.
    Unsigned,
    /// The signature is not accepted.
    Signature(JoinError),
    /// Where to pay was changed a moment ago.
    ChangedJustNow,
    /// As for every client.
    Api(ApiError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unsigned => refuse(
                StatusCode::UNAUTHORIZED,
                "signature_refused",
                "a request signed with a provider's key is needed",
            ),
            Self::Signature(error) => refuse_answer("signature_refused", &error),
            Self::ChangedJustNow => {
                refuse(StatusCode::CONFLICT, "changed_just_now", "payout details were changed less than a minute ago")
            }
            Self::Api(error) => error.into_response(),
        }
    }
}

/// One page of the caller's own statement.
pub async fn statement(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<EarningsStatement>, Refusal> {
    let page = page(&query).map_err(|error| Refusal::Api(ApiError::Invalid(error)))?;
    let (provider, _) = signer::<StatementClaims>(&shared, &headers).await?;
    let (holdback, cooldown) = (shared.gateway.holdback, shared.payout_cooldown);
    let statement = shared.store.earnings_statement(&provider, &page, holdback, cooldown).await;
    Ok(Json(statement.map_err(unavailable)?))
}

/// Sets where the caller wants to be paid.
pub async fn set_payout_details(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Json<PayoutDetailsSet>, Refusal> {
    let (provider, claims) = signer::<PayoutDetailsClaims>(&shared, &headers).await?;
    let set = shared.store.set_payout_details(&provider, &claims.details).await.map_err(|error| match error {
        StoreError::Invalid(why) => {
            Refusal::Api(ApiError::Invalid(InvalidRequest::value("details", format!("{why}."))))
        }
        StoreError::Missing(_) => Refusal::Api(ApiError::NotFound("This provider has never joined.".into())),
        StoreError::Conflict(_) => Refusal::ChangedJustNow,
        error => unavailable(error),
    })?;
    let secs = |us: i64| us.max(0).unsigned_abs() / 1_000_000;
    let used_from = secs(set.set_at_us).saturating_add(shared.payout_cooldown.as_secs());
    Ok(Json(PayoutDetailsSet { version: set.version, set_at: secs(set.set_at_us), used_from }))
}

/// Who signed this request, for this purpose and this gateway, and what the signature says.
async fn signer<C: ChallengeAnswer>(shared: &Shared, headers: &HeaderMap) -> Result<(ProviderId, C), Refusal> {
    let signed = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix(SIGNED_SCHEME))
        .ok_or(Refusal::Unsigned)?;
    shared.doorman.admit::<C>(signed.trim(), clock::unix_secs()).await.map_err(Refusal::Signature)
}

fn page(query: &HashMap<String, String>) -> Result<StatementPage, InvalidRequest> {
    let number = |name: &str, range: std::ops::RangeInclusive<i64>, otherwise: i64| match query.get(name) {
        None => Ok(otherwise),
        Some(text) => text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            InvalidRequest::value(name, format!("'{name}' must be a whole number from {least} to {most}."))
        }),
    };
    let after = query.get("after").map(|text| text.parse()).transpose();
    Ok(StatementPage {
        since_us: number("since", 0..=LAST_SECOND, 0)? * 1_000_000,
        after: after.map_err(|_| InvalidRequest::value("after", "'after' must be a statement's 'next_cursor'."))?,
        limit: number("limit", 1..=MAX_PAGE as i64, DEFAULT_PAGE as i64)?.unsigned_abs() as usize,
    })
}

fn unavailable(error: StoreError) -> Refusal {
    tracing::error!(%error, "a provider's money could not be looked at");
    Refusal::Api(ApiError::BooksUnavailable)
}
