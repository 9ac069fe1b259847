//! `GET /v1/usage`: what the account has used, by day, model and key.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use lumbung_openapi::account::{AccountUsage, AccountUsageLine};

use super::query::{Params, wrong};
use super::{Shared, refused};
use crate::chat::error::ApiError;
use crate::domain::calendar::Day;
use crate::store::{UsageBy, UsageQuestion};

/// Lines of a page.
const MOST: u32 = 1000;

/// One page of the account's usage.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<AccountUsage>, ApiError> {
    let caller = shared.gateway.keyring.authenticate(&headers).await?;
    let mut params = Params::of(&uri)?;
    let day = "a day such as 2026-11-25";
    let question = UsageQuestion {
        by: params.text("group_by").map_or_else(|| Ok(vec![UsageBy::Day]), |text| by(&text))?,
        from: params.take("from", day)?,
        until: params.take::<Day>("to", day)?.map(Day::next),
        account: Some(caller.allowance.account),
        key: params.take("key", "a key's id")?,
        model: params.take("model", "a model's id")?,
        provider: None,
        after: params.take("after", "the 'next_cursor' of a page of the same question")?,
        limit: params.limit(MOST)?,
    };
    params.end()?;
    // A key of someone else's is told apart from none by nothing.
    if let Some(key) = &question.key
        && shared.store.keys(question.account.as_ref()).await.map_err(refused)?.iter().all(|known| known.id != *key)
    {
        return Err(ApiError::NotFound(format!("There is no key '{key}' of this account.")));
    }
    let page = shared.store.usage(&question).await.map_err(refused)?;
    let next_cursor = page.next.as_ref().map(ToString::to_string);
    let line = |line: crate::store::UsageLine| AccountUsageLine {
        day: line.day.map(|day| day.to_string()),
        model: line.model,
        key: line.key,
        requests: line.used.requests,
        prompt_tokens: line.used.prompt_tokens,
        cached_tokens: line.used.cached_tokens,
        completion_tokens: line.used.completion_tokens,
        charge_usd: line.used.charge,
    };
    let data = page.lines.into_iter().map(line).collect();
    Ok(Json(AccountUsage { object: "list".into(), data, has_more: next_cursor.is_some(), next_cursor }))
}

fn by(text: &str) -> Result<Vec<UsageBy>, ApiError> {
    let name = |name: &str| match name {
        "day" => Ok(UsageBy::Day),
        "model" => Ok(UsageBy::Model),
        "key" => Ok(UsageBy::Key),
        _ => Err(wrong("group_by", "some of day, model and key, with commas between")),
    };
    text.split(',').map(name).collect()
}
