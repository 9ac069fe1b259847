//! What an hour may bring, before anything has been earned and after: from how fast the engine is, what is asked for its tokens, the
//! operator's fee, and how much of the network's slots for the model are taken now.
//!
//! Completion tokens alone count: how long prompts will be nobody knows, and what they bring comes on top.

use std::time::Duration;

use http::StatusCode;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::provider::{DEMAND_PATH, Demand};
use serde::{Deserialize, Serialize};

use crate::gateway::{Gateway, causes};
use crate::pace::Pace;

const HOUR_SECS: u64 = 3600;
const TOKENS_PER_QUOTE: i128 = 1_000_000;
/// How long a gateway may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What an hour may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prospect {
    /// With every slot taken all the time.
    #[serde(rename = "per_busy_hour_usd")]
    pub per_busy_hour: NanoUsd,
    /// With as large a part of the slots taken as in the network now.
    #[serde(rename = "per_hour_now_usd")]
    pub per_hour_now: NanoUsd,
    /// That part, in percent, rounded down.
    pub network_use_percent: u64,
}

impl Prospect {
    /// Of a busy hour that brings so much. `joins_with`: slots that the network will have more, where it does not count them yet.
    pub fn new(per_busy_hour: NanoUsd, demand: &Demand, joins_with: u32) -> Self {
        let slots = i128::from(demand.slots) + i128::from(joins_with);
        let part = |of: i128| (of * i128::from(demand.slots_taken)).checked_div(slots).unwrap_or(0);
        // At most as many are taken as there are.
        let per_hour_now = i64::try_from(part(per_busy_hour.nanos().into())).unwrap_or(per_busy_hour.nanos());
        Self {
            per_busy_hour,
            per_hour_now: NanoUsd::from_nanos(per_hour_now).min(per_busy_hour),
            network_use_percent: u64::try_from(part(100)).unwrap_or(0).min(100),
        }
    }

    /// For people, to a hundredth of a cent: it is no more exact.
    pub fn for_people(&self) -> String {
        format!(
            "about ${} an hour if it were busy the whole time, about ${} at the network's use now ({} % of its slots)",
            rounded(self.per_busy_hour),
            rounded(self.per_hour_now),
            self.network_use_percent
        )
    }
}

/// What an hour of an engine at this pace brings at this price, less the fee (basis points).
pub fn busy_hour(pace: &Pace, ask: TokenPrice, fee_bps: u16) -> NanoUsd {
    let gross = i128::from(ask.completion.nanos()) * i128::from(pace.tokens_in(HOUR_SECS)) / TOKENS_PER_QUOTE;
    let gross = NanoUsd::from_nanos(i64::try_from(gross).unwrap_or(i64::MAX));
    gross.checked_sub(gross.basis_points(fee_bps)).unwrap_or(NanoUsd::ZERO)
}

/// Why no jobs come at this price, or with these weights, and what to do; `None` where they may.
pub fn obstacle(demand: &Demand, ask: TokenPrice, weights_digest: Option<&str>) -> Option<(String, &'static str)> {
    let Demand { model, reference, digests, .. } = demand;
    if !ask.is_within(reference) {
        let (prompt, completion) = (reference.prompt, reference.completion);
        let found = format!("'{model}': at most ${prompt} in and ${completion} out per million tokens may be asked");
        return Some((found, "lower --ask-prompt and --ask-completion: until then no jobs come"));
    }
    let is_other = |digest: &str| !digests.is_empty() && !digests.iter().any(|accepted| accepted == digest);
    let advice = "take the files that its operator names: until then no jobs come";
    let found = || (format!("'{model}': these are other weights than the catalogue has"), advice);
    weights_digest.is_some_and(is_other).then(found)
}

/// What to do where the catalogue does not have a model.
pub const NOT_IN_CATALOGUE: &str = "check --model-id, or ask its operator to add it (GET /v1/models has those that are served): until then no jobs come";

/// To a hundredth of a cent: an extrapolation is no more exact.
pub fn rounded(amount: NanoUsd) -> NanoUsd {
    const STEP: i64 = 100_000;
    NanoUsd::from_nanos(amount.nanos() / STEP * STEP)
}

/// Why it is not known what a model can expect.
#[derive(Debug, thiserror::Error)]
pub enum DemandError {
    /// The catalogue does not have it: no jobs come.
    #[error("the gateway's catalogue does not have it")]
    NotInCatalogue,
    /// The gateway did not say.
    #[error("{0}")]
    Unknown(String),
}

/// Asks the gateway what whoever serves a model can expect.
pub async fn ask_demand(gateway: &Gateway, model: &str) -> Result<Demand, DemandError> {
    let unknown = |error: reqwest::Error| DemandError::Unknown(causes(&error));
    let url = gateway.address.endpoint(&format!("{DEMAND_PATH}{model}"));
    let response = gateway.client.get(url).timeout(WITHIN).send().await.map_err(unknown)?;
    match response.status() {
        StatusCode::OK => response.json().await.map_err(unknown),
        status => {
            // A gateway that knows no such question has no such error either.
            let text = response.text().await.map_err(unknown)?;
            let is_missing = status == StatusCode::NOT_FOUND && text.contains("model_not_found");
            Err(if is_missing { DemandError::NotInCatalogue } else { DemandError::Unknown(format!("status {status}")) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> NanoUsd {
        text.parse().unwrap()
    }

    fn demand(slots: u64, slots_taken: u64) -> Demand {
        Demand {
            model: "a/b".into(),
            reference: TokenPrice::default(),
            fee_bps: 500,
            digests: vec![],
            providers: 1,
            slots,
            slots_taken,
        }
    }

    #[test]
    fn an_hour_is_tokens_times_the_price_less_the_fee() {
        let pace = Pace {
            streams: 4,
            tokens: 128,
            took_us: 2_560_000,
            weights_digest: String::new(),
            measured_at: 0,
            first_token_us: 0,
        };
        let ask = TokenPrice { prompt: usd("9"), completion: usd("0.40") };
        // 50 tokens a second, 180,000 an hour: 7.2 cents, of which a twentieth is the operator's.
        assert_eq!(busy_hour(&pace, ask, 500), usd("0.0684"));
        assert_eq!(busy_hour(&pace, ask, 0), usd("0.072"));
        assert_eq!(busy_hour(&pace, ask, 10_000), NanoUsd::ZERO);
        let dear = TokenPrice { completion: NanoUsd::MAX, ..ask };
        assert_eq!(busy_hour(&Pace { took_us: 0, ..pace }, dear, 0), NanoUsd::MAX, "beyond measure");
    }

    #[test]
    fn the_same_use_is_shared_by_more_slots_when_one_joins() {
        let there = Prospect::new(usd("1"), &demand(40, 10), 0);
        assert_eq!((there.per_hour_now, there.network_use_percent), (usd("0.25"), 25));
        let joining = Prospect::new(usd("1"), &demand(30, 10), 10);
        assert_eq!((joining.per_hour_now, joining.network_use_percent), (usd("0.25"), 25));
        let first = Prospect::new(usd("1"), &demand(0, 0), 4);
        assert_eq!((first.per_hour_now, first.network_use_percent), (NanoUsd::ZERO, 0));
        assert_eq!(Prospect::new(usd("1"), &demand(0, 0), 0).per_hour_now, NanoUsd::ZERO, "nobody serves it");
        assert_eq!(Prospect::new(usd("1"), &demand(4, 9), 0).per_hour_now, usd("1"), "late figures are no more");
        let told = Prospect::new(usd("0.12345678"), &demand(3, 1), 0).for_people();
        assert_eq!(
            told,
            "about $0.1234 an hour if it were busy the whole time, about $0.0411 at the network's use now (33 % of its slots)"
        );
    }
}
