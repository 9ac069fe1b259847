//! What each model can expect there: whether jobs come at all, and what an hour may bring.

use std::path::Path;

use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::provider::Demand;

use super::Finding;
use crate::gateway::Gateway;
use crate::pace::{self, Pace};
use crate::prospect::{self, DemandError, NOT_IN_CATALOGUE, Prospect, ask_demand};

/// A model that is to be served.
pub struct Ware {
    /// Its id in the catalogue.
    pub model: String,
    /// What is asked.
    pub ask: TokenPrice,
    /// Jobs at a time.
    pub slots: u32,
    /// Whether the engine is tried by itself at the first start.
    pub is_embedded: bool,
}

/// Asks the gateway about each of them.
pub async fn examine(gateway: &Gateway, wares: &[Ware], data_dir: &Path) -> Vec<Finding> {
    let (paces, mut findings) = (pace::known(data_dir), Vec::new());
    for ware in wares {
        match ask_demand(gateway, &ware.model).await {
            Ok(demand) => findings.extend(expect(ware, &demand, paces.get(&ware.model))),
            Err(DemandError::NotInCatalogue) => {
                let found = format!("'{}' is not in the gateway's catalogue", ware.model);
                findings.push(Finding::warning("catalogue", found, NOT_IN_CATALOGUE));
            }
            // What the gateway does not say prevents nothing.
            Err(DemandError::Unknown(why)) => {
                findings.push(Finding::ok("catalogue", format!("the gateway does not say of '{}': {why}", ware.model)));
            }
        }
    }
    findings
}

fn expect(ware: &Ware, demand: &Demand, pace: Option<&Pace>) -> Vec<Finding> {
    let model = &ware.model;
    let weights = pace.map(|pace| pace.weights_digest.as_str()).filter(|digest| !digest.is_empty());
    if let Some((found, advice)) = prospect::obstacle(demand, ware.ask, weights) {
        return vec![Finding::warning("catalogue", found, advice)];
    }
    let Demand { providers, slots, slots_taken, fee_bps, .. } = demand;
    let providers =
        if *providers == 1 { "1 provider serves".to_owned() } else { format!("{providers} providers serve") };
    let fee = format!("{}.{:02}", fee_bps / 100, fee_bps % 100);
    let there =
        format!("'{model}': {providers} it, {slots_taken} of {slots} slots taken; the operator's fee is {fee} %");
    let expected = match pace {
        Some(pace) => {
            let busy_hour = prospect::busy_hour(pace, ware.ask, *fee_bps);
            let prospect = Prospect::new(busy_hour, demand, ware.slots);
            let pace = format!("{} tokens/s with {} at once, as measured here", pace.tokens_in(1), pace.streams);
            format!("'{model}': {} ({pace}; for answers alone: prompts come on top)", prospect.for_people())
        }
        None => {
            let how = match ware.is_embedded {
                true => "`serve` tries the engine when it first starts; ask `status` or here again then",
                false => "`lumbung-provider bench` with the same --engine, --model-id and server tries it",
            };
            format!("'{model}': not known before it is known how fast this machine is: {how}")
        }
    };
    vec![Finding::ok("catalogue", there), Finding::ok("earnings", expected)]
}
