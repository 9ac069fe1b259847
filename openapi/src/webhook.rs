//! Webhooks in the form of Standard Webhooks: endpoints, what they are told of, and how that went. Times are Unix
//! microseconds, amounts decimal strings of US dollars.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::money::NanoUsd;

/// What an endpoint can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum WebhookEvent {
    /// An account's spendable credit fell below its threshold. Once, until it is not below it any more.
    #[serde(rename = "account.low_balance")]
    LowBalance,
    /// A payout is on its way to a provider.
    #[serde(rename = "payout.created")]
    PayoutCreated,
    /// A payout has arrived.
    #[serde(rename = "payout.confirmed")]
    PayoutConfirmed,
    /// A payout was taken back.
    #[serde(rename = "payout.reversed")]
    PayoutReversed,
}

impl WebhookEvent {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::LowBalance, Self::PayoutCreated, Self::PayoutConfirmed, Self::PayoutReversed];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowBalance => "account.low_balance",
            Self::PayoutCreated => "payout.created",
            Self::PayoutConfirmed => "payout.confirmed",
            Self::PayoutReversed => "payout.reversed",
        }
    }

    /// The one that is written so.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

/// An endpoint to tell.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// Where to post: http or https, without a name or password in it. An address that is not public is refused unless
    /// the gateway runs with `--webhook-allow-private`.
    #[schema(max_length = 2048, example = "https://billing.example/hooks/lumbung")]
    pub url: String,
    /// What it is told of.
    #[schema(min_items = 1, max_items = 16)]
    pub events: Vec<WebhookEvent>,
}

/// An endpoint that is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// `whk_…`
    pub id: String,
    /// Where to post.
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// Unix microseconds. It is told of what happens from then on.
    pub created_at_us: i64,
}

/// An endpoint that has just been added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedWebhook {
    /// The endpoint.
    pub webhook: Webhook,
    /// `whsec_…`, which signs what is sent; shown this once. Null where a repeated call is answered with what the first
    /// one was.
    pub secret: Option<String>,
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be tried, or tried again.
    Pending,
    /// The endpoint answered 2xx.
    Delivered,
    /// Given up: after ten tries, about a day, or because the endpoint was removed.
    Dead,
}

/// One event on its way to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookDelivery {
    /// The event's id, `evt_…`: what is sent as `webhook-id`, the same in every try.
    pub event: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: WebhookEvent,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub tries: i64,
    /// The HTTP status of the last answer; null while there was none.
    pub last_status: Option<i64>,
    /// When the event was written down, Unix microseconds.
    pub created_at_us: i64,
    /// When it is tried again, Unix microseconds; null where it is not.
    pub next_try_at_us: Option<i64>,
}

/// Below what an account's balance counts as low.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLowBalance {
    /// US dollars, above zero; null to be told no more.
    #[serde(deserialize_with = "present")]
    #[schema(value_type = Option<String>, required = true, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "5.00")]
    pub threshold_usd: Option<NanoUsd>,
}

/// Below what an account's balance counts as low.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LowBalance {
    /// `acct_…`
    pub account: String,
    /// US dollars; null: never.
    #[schema(value_type = Option<String>, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub threshold_usd: Option<NanoUsd>,
}

/// Null must be written: a body that forgot the threshold is not taken for one that removes it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NanoUsd>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_as_they_are_serialized() {
        for event in WebhookEvent::ALL {
            assert_eq!(serde_json::to_value(event).ok(), Some(event.as_str().into()));
            assert_eq!(WebhookEvent::named(event.as_str()), Some(event));
        }
        assert_eq!(WebhookEvent::named("payout"), None);
    }

    #[test]
    fn a_threshold_must_be_written_even_where_it_is_null() {
        let read = |text| serde_json::from_str::<SetLowBalance>(text).map(|set| set.threshold_usd);
        assert!(matches!(read(r#"{"threshold_usd": null}"#), Ok(None)));
        assert!(matches!(read(r#"{"threshold_usd": "1"}"#), Ok(Some(_))));
        assert!(read("{}").is_err());
    }
}
