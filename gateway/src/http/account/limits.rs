//! Limits as clients write and read them.

use lumbung_openapi::account::KeyLimits;
use lumbung_openapi::chat::json::{Members, Value};
use lumbung_openapi::error::InvalidRequest;

use crate::domain::ids::ModelId;
use crate::domain::limits::{Budgets, Limits, Period};
use crate::domain::timestamp;

/// The most models that a limit names.
const MAX_MODELS: usize = 256;
/// What a client may call the periods of `limit_reset`.
const RESETS: [(&str, Period); 3] = [("daily", Period::Day), ("weekly", Period::Week), ("monthly", Period::Month)];
/// OpenRouter's one budget is the longest of ours.
const LONGEST_FIRST: [Period; 4] = [Period::Total, Period::Month, Period::Week, Period::Day];

/// Everything that limits a key or an account.
pub fn describe(limits: &Limits) -> KeyLimits {
    let models = limits.models.as_ref().map(|models| models.iter().map(ModelId::to_string).collect());
    KeyLimits {
        budget_day_usd: limits.budgets.day,
        budget_week_usd: limits.budgets.week,
        budget_month_usd: limits.budgets.month,
        budget_total_usd: limits.budgets.total,
        models,
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        concurrent_requests: limits.concurrent_requests,
        allow_probation: limits.allow_probation,
    }
}

/// The budget that OpenRouter's `limit` shows.
pub fn shown_period(limits: &Limits) -> Option<Period> {
    LONGEST_FIRST.into_iter().find(|period| limits.budgets.of(*period).is_some())
}

/// What `limit_reset` calls a period; nothing for all time.
pub fn reset_name(period: Period) -> Option<String> {
    RESETS.into_iter().find(|(_, known)| *known == period).map(|(name, _)| name.to_owned())
}

/// Takes `limit`, `limit_reset`, `expires_at` and `limits` of a request over. What is not named stays; null takes away.
pub fn apply(members: &Members<'_>, limits: &mut Limits) -> Result<(), InvalidRequest> {
    let reset = match members.get("limit_reset") {
        None => Period::Total,
        Some(value) => {
            let text = value.string("limit_reset")?;
            let known = RESETS.into_iter().find(|(name, _)| *name == text);
            known
                .ok_or_else(|| InvalidRequest::value("limit_reset", "'limit_reset' must be daily, weekly or monthly."))?
                .1
        }
    };
    if members.has("limit") {
        limits.budgets = Budgets::default();
        limits.budgets.set(reset, members.get("limit").map(|value| value.dollars("limit")).transpose()?);
    } else if members.get("limit_reset").is_some() {
        return Err(InvalidRequest::value("limit_reset", "'limit_reset' is of use only with 'limit'."));
    }
    if members.has("expires_at") {
        limits.expires_at_us = members.get("expires_at").map(moment).transpose()?;
    }
    match members.get("limits") {
        Some(own) => apply_own(&own.object("limits")?, limits),
        None => Ok(()),
    }
}

fn apply_own(members: &Members<'_>, limits: &mut Limits) -> Result<(), InvalidRequest> {
    for (name, value) in members.iter() {
        let param = format!("limits.{name}");
        let value = members.get(name).map(|_| value);
        let dollars = || value.map(|value| value.dollars(&param)).transpose();
        let count = || {
            let count = value.map(|value| value.integer(&param, 0..=i64::from(u32::MAX))).transpose()?;
            Ok(count.map(|count| count as u32))
        };
        match name {
            "budget_day_usd" => limits.budgets.day = dollars()?,
            "budget_week_usd" => limits.budgets.week = dollars()?,
            "budget_month_usd" => limits.budgets.month = dollars()?,
            "budget_total_usd" => limits.budgets.total = dollars()?,
            "models" => limits.models = value.map(models).transpose()?,
            "requests_per_minute" => limits.requests_per_minute = count()?,
            "tokens_per_minute" => limits.tokens_per_minute = count()?,
            "concurrent_requests" => limits.concurrent_requests = count()?,
            "allow_probation" => {
                limits.allow_probation = value.map(|value| value.boolean(&param)).transpose()?.unwrap_or(true);
            }
            _ => return Err(unknown(&param)),
        }
    }
    Ok(())
}

fn models(value: Value<'_>) -> Result<Vec<ModelId>, InvalidRequest> {
    let items = value.array("limits.models")?;
    if items.len() > MAX_MODELS {
        return Err(InvalidRequest::value(
            "limits.models",
            format!("'limits.models' names more than {MAX_MODELS} models."),
        ));
    }
    let model = |(at, item)| {
        let param = format!("limits.models[{at}]");
        let name = Value::new(item).string(&param)?;
        name.parse().map_err(|_| InvalidRequest::value(param, "Not the id of a model."))
    };
    items.into_iter().enumerate().map(model).collect()
}

fn moment(value: Value<'_>) -> Result<i64, InvalidRequest> {
    let wrong = || InvalidRequest::value("expires_at", "'expires_at' must be a time such as 2026-12-31T23:59:59Z.");
    timestamp::parse(&value.string("expires_at")?).ok_or_else(wrong)
}

/// A member that nobody reads is refused: the client would believe that it limits something.
pub fn unknown(param: &str) -> InvalidRequest {
    InvalidRequest {
        message: format!("There is no parameter '{param}'."),
        param: Some(param.to_owned()),
        code: Some("unknown_parameter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(body: &str) -> Result<Limits, Option<String>> {
        let mut limits = Limits { requests_per_minute: Some(7), ..Limits::default() };
        limits.budgets.day = Some("1".parse().expect("an amount"));
        let members = Members::parse(body.as_bytes()).expect("an object");
        apply(&members, &mut limits).map(|()| limits).map_err(|error| error.param)
    }

    #[test]
    fn what_is_named_changes_and_null_takes_away() {
        let usd = |text: &str| Some(text.parse().expect("an amount"));
        let limits =
            applied(r#"{"limit":2.5,"limit_reset":"monthly","expires_at":"2026-11-22T22:30:01Z"}"#).expect("valid");
        assert_eq!((limits.budgets.day, limits.budgets.month), (None, usd("2.5")));
        assert_eq!((limits.expires_at_us, limits.requests_per_minute), (Some(1_795_386_601_000_000), Some(7)));
        assert_eq!(shown_period(&limits).and_then(reset_name).as_deref(), Some("monthly"));
        let limits = applied(
            r#"{"limits":{"budget_total_usd":"3","requests_per_minute":null,"allow_probation":false,"models":["a/b"]}}"#,
        );
        let limits = limits.expect("valid");
        assert_eq!((limits.budgets.day, limits.budgets.total, limits.requests_per_minute), (usd("1"), usd("3"), None));
        assert!(!limits.allow_probation && limits.models.is_some_and(|models| models.len() == 1));
        assert_eq!(applied(r#"{"limit":null}"#).expect("valid").budgets, Budgets::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, param) in [
            (r#"{"limit":-1}"#, "limit"),
            (r#"{"limit":true}"#, "limit"),
            (r#"{"limit":1,"limit_reset":"yearly"}"#, "limit_reset"),
            (r#"{"limit_reset":"daily"}"#, "limit_reset"),
            (r#"{"expires_at":"tomorrow"}"#, "expires_at"),
            (r#"{"limits":[]}"#, "limits"),
            (r#"{"limits":{"tokens_per_minute":-1}}"#, "limits.tokens_per_minute"),
            (r#"{"limits":{"models":[7]}}"#, "limits.models[0]"),
            (r#"{"limits":{"budget_year_usd":1}}"#, "limits.budget_year_usd"),
        ] {
            assert_eq!(applied(body), Err(Some(param.to_owned())), "{body}");
        }
    }
}
