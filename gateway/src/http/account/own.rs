//! What an account asks of itself: its credit, the key that it shows, one of its answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use lumbung_openapi::account::{
    AccountBalance, Credits, CreditsAnswer, Generation, GenerationAnswer, OwnKey, OwnKeyAnswer,
};
use lumbung_openapi::money::{NanoUsd, UsdNumber};

use super::query::{Params, wrong};
use super::{Shared, keys, limits, refused};
use crate::chat::error::ApiError;
use crate::domain::ids::AccountId;
use crate::domain::timestamp;
use crate::store::UsageQuestion;

/// What the books have of an answer whose client left.
const CANCELLED: &str = "client_gone";

/// `GET /v1/credits`.
pub async fn credits(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<CreditsAnswer>, ApiError> {
    let account = account(&shared, &headers).await?;
    let left = shared.store.account_balance(&account).await.map_err(refused)?.spendable;
    let all = UsageQuestion { account: Some(account), ..UsageQuestion::default() };
    let lines = shared.store.usage(&all).await.map_err(refused)?.lines;
    let used = lines.first().map_or(NanoUsd::ZERO, |line| line.used.charge);
    let credited = left.checked_add(used).ok_or(ApiError::BooksUnavailable)?;
    let data = Credits { total_credits: UsdNumber(credited), total_usage: UsdNumber(used) };
    Ok(Json(CreditsAnswer { data }))
}

/// `GET /v1/balance`.
pub async fn balance(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<AccountBalance>, ApiError> {
    let account = account(&shared, &headers).await?;
    let balance = shared.store.account_balance(&account).await.map_err(refused)?;
    Ok(Json(AccountBalance {
        object: "balance".into(),
        credit_usd: balance.credit,
        reserved_usd: balance.allowances,
        spendable_usd: balance.spendable,
    }))
}

/// `GET /v1/key`: the key that is shown.
pub async fn key(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Json<OwnKeyAnswer>, ApiError> {
    let caller = shared.gateway.keyring.authenticate(&headers).await?;
    let account = caller.allowance.account;
    let found = shared.store.key_of(&account, &caller.key.to_string()).await.map_err(refused)?;
    let (record, key_limits) = found.ok_or(ApiError::InvalidKey)?; // revoked a moment ago
    let data = OwnKey {
        key: keys::describe(&shared, &record, &key_limits).await?,
        is_free_tier: !shared.store.has_paid(&account).await.map_err(refused)?,
        account_limits: limits::describe(&caller.scopes.account.limits),
    };
    Ok(Json(OwnKeyAnswer { data }))
}

/// `GET /v1/generation`: one of the account's answers, as soon as it has ended.
pub async fn generation(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<GenerationAnswer>, ApiError> {
    let account = account(&shared, &headers).await?;
    let mut params = Params::of(&uri)?;
    let id = params.text("id").ok_or_else(|| wrong("id", "an answer's id"))?;
    params.end()?;
    shared.gateway.settler.flush().await?;
    let found = shared.store.generation(&account, &id).await.map_err(refused)?;
    let found = found.ok_or_else(|| ApiError::NotFound(format!("There is no answer '{id}' of this account.")))?;
    let streamed = shared.gateway.keys.verify_ticket(&found.ticket).is_ok_and(|ticket| !ticket.whole);
    let millis = |from: Option<i64>, to: Option<i64>| Some(to?.saturating_sub(from?).max(0) / 1000);
    let native_finish_reason = Some(found.finish_reason).filter(|reason| !reason.is_empty());
    let data = Generation {
        id,
        model: found.model,
        provider_name: found.provider,
        created_at: timestamp::format(found.created_secs.saturating_mul(1_000_000)),
        total_cost: UsdNumber(found.charge),
        usage: UsdNumber(found.charge),
        tokens_prompt: found.prompt_tokens,
        tokens_completion: found.completion_tokens,
        native_tokens_prompt: found.prompt_tokens,
        native_tokens_completion: found.completion_tokens,
        native_tokens_cached: found.cached_tokens,
        streamed,
        cancelled: native_finish_reason.as_deref() == Some(CANCELLED),
        finish_reason: native_finish_reason.as_deref().and_then(finish_reason).map(str::to_owned),
        native_finish_reason,
        latency: millis(found.received_us, found.first_token_us),
        generation_time: millis(found.started_us, found.finished_us),
        attempts: found.attempts,
    };
    Ok(Json(GenerationAnswer { data }))
}

/// OpenRouter's word for how an answer ended; none where its client left. Engines beside a provider have words of their own.
fn finish_reason(native: &str) -> Option<&'static str> {
    match native {
        CANCELLED => None,
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" => Some("stop"),
        "length" | "max_tokens" => Some("length"),
        "tool_calls" | "function_call" | "tool_use" => Some("tool_calls"),
        "content_filter" => Some("content_filter"),
        _ => Some("error"),
    }
}

async fn account(shared: &Shared, headers: &HeaderMap) -> Result<AccountId, ApiError> {
    Ok(shared.gateway.keyring.authenticate(headers).await?.allowance.account)
}

#[cfg(test)]
mod tests {
    use super::finish_reason;

    #[test]
    fn an_end_has_one_of_openrouters_names() {
        for (native, name) in [
            ("stop", Some("stop")),
            ("eos_token", Some("stop")),
            ("length", Some("length")),
            ("tool_calls", Some("tool_calls")),
            ("provider_failed", Some("error")),
            ("client_gone", None),
        ] {
            assert_eq!(finish_reason(native), name, "{native}");
        }
    }
}
