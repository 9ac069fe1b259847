//! Asking the gateway about this provider's money, under its own signature; and telling it where to send it.

use http::{Method, StatusCode, header};
use lumbung_openapi::earnings::{
    EARNINGS_PATH, EarningsStatement, EarningsTotals, PAYOUT_DETAILS_PATH, PayoutDetailsClaims, PayoutDetailsSet,
    SIGNED_SCHEME, StatementClaims,
};
use lumbung_openapi::error::ErrorBody;
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::provider::ChallengeAnswer;
use serde::de::DeserializeOwned;

use crate::gateway::{Gateway, causes};
use crate::join::{self, JoinError};

/// How often a request is signed afresh when its challenge is not accepted: where several replicas share an address, the
/// next one to answer may not be the one that gave it.
const TURNS: usize = 8;
/// Attempts on a page.
const PAGE: &str = "500";

/// Everything that this provider earned since then (Unix seconds), all pages in one.
pub async fn statement(gateway: &Gateway, key: &SigningKey, since: u64) -> anyhow::Result<EarningsStatement> {
    let since = since.to_string();
    let claims = |challenge| StatementClaims { aud: gateway.address.origin(), challenge };
    let mut whole: Option<EarningsStatement> = None;
    loop {
        let cursor = whole.as_ref().and_then(|whole| whole.next_cursor.clone());
        let mut query = vec![("since", since.as_str()), ("limit", PAGE)];
        query.extend(cursor.as_deref().map(|cursor| ("after", cursor)));
        let page: EarningsStatement = signed(gateway, key, Method::GET, EARNINGS_PATH, &query, claims).await?;
        // A page that leads to itself, or nowhere, is the last whatever it says.
        let has_more = page.has_more && page.next_cursor.is_some() && page.next_cursor != cursor;
        whole = Some(match whole {
            None => page,
            Some(mut whole) => {
                whole.data.extend(page.data);
                EarningsStatement { data: whole.data, ..page }
            }
        });
        match whole {
            Some(whole) if !has_more => return Ok(whole),
            _ => {}
        }
    }
}

/// Where everything is that this provider ever earned.
pub async fn totals(gateway: &Gateway, key: &SigningKey) -> anyhow::Result<EarningsTotals> {
    let since = gateway.clock.now_secs().to_string();
    let claims = |challenge| StatementClaims { aud: gateway.address.origin(), challenge };
    let query = [("since", since.as_str()), ("limit", "1")];
    let statement: EarningsStatement = signed(gateway, key, Method::GET, EARNINGS_PATH, &query, claims).await?;
    Ok(statement.totals)
}

/// Says where this provider wants to be paid.
pub async fn set_payout_details(
    gateway: &Gateway,
    key: &SigningKey,
    details: &str,
) -> anyhow::Result<PayoutDetailsSet> {
    let claims =
        |challenge| PayoutDetailsClaims { aud: gateway.address.origin(), challenge, details: details.to_owned() };
    signed(gateway, key, Method::PUT, PAYOUT_DETAILS_PATH, &[], claims).await
}

async fn signed<C: ChallengeAnswer, T: DeserializeOwned>(
    gateway: &Gateway,
    key: &SigningKey,
    method: Method,
    path: &str,
    query: &[(&str, &str)],
    claims: impl Fn(String) -> C,
) -> anyhow::Result<T> {
    let mut refused = String::new();
    for _ in 0..TURNS {
        let challenge = join::ask_challenge(gateway, &gateway.address).await?;
        let signed = key.sign_with_jwk(C::TYP, &claims(challenge));
        let request = gateway
            .client
            .request(method.clone(), gateway.address.endpoint(path))
            .query(query)
            .header(header::AUTHORIZATION, format!("{SIGNED_SCHEME} {signed}"));
        let response = join::in_time(request.send()).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(join::in_time(response.json()).await?);
        }
        let text = response.text().await.map_err(|error| JoinError::Failed(causes(&error)))?;
        refused = match serde_json::from_str::<ErrorBody>(&text) {
            Ok(body) => body.error.message.into_owned(),
            Err(_) => format!("status {status}, and no lumbung gateway's error; is the address right?"),
        };
        if status != StatusCode::UNAUTHORIZED {
            break;
        }
    }
    anyhow::bail!("the gateway refuses: {refused}")
}
