//! What each model that is served can expect: from what was measured here, and what the gateway says of its use.

use std::path::Path;
use std::time::Duration;

use lumbung_openapi::provider::Demand;
use serde::{Deserialize, Serialize};

use crate::node::Node;
use crate::pace::{self, Pace};
use crate::prospect::{self, DemandError, NOT_IN_CATALOGUE, Prospect};
use crate::served::Served;

/// How often it is looked whether there is a tunnel.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a model can expect of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// So much.
    Expected(Prospect),
    /// No jobs: why, and what to do.
    Nothing(String),
}

/// By model.
pub type Outlooks = Vec<(String, Outlook)>;

impl Outlook {
    /// Of each model that is served, where the gateway says how it is used and it is known how fast the engine is.
    pub async fn of_all(node: &Node, dir: &Path) -> Outlooks {
        let paces = pace::known(dir);
        let mut outlooks = Vec::new();
        for served in node.models.list() {
            let known = match prospect::ask_demand(&node.gateway, &served.model).await {
                Ok(demand) => Self::of(&served, &demand, paces.get(&served.model)),
                Err(DemandError::NotInCatalogue) => {
                    Some(Self::Nothing(format!("the gateway's catalogue does not have it: {NOT_IN_CATALOGUE}")))
                }
                Err(DemandError::Unknown(why)) => {
                    tracing::debug!(model = served.model, "the gateway does not say what to expect: {why}");
                    None
                }
            };
            outlooks.extend(known.map(|outlook| (served.model.clone(), outlook)));
        }
        outlooks
    }

    /// By what its jobs brought; before there were any, by how fast its engine was when it was tried.
    fn of(served: &Served, demand: &Demand, pace: Option<&Pace>) -> Option<Self> {
        let digest = &served.engine.describe().weights_digest;
        if let Some((found, advice)) = prospect::obstacle(demand, served.ask(), Some(digest)) {
            return Some(Self::Nothing(format!("{found}: {advice}")));
        }
        let tried = pace.filter(|pace| pace.weights_digest == *digest);
        let tried = tried.map(|pace| prospect::busy_hour(pace, served.ask(), demand.fee_bps));
        let busy_hour = served.tally.per_busy_hour(served.slot_count()).or(tried)?;
        Some(Self::Expected(Prospect::new(busy_hour, demand, 0)))
    }

    /// Tells it in the log, once there is a gateway to ask.
    pub async fn tell_once_connected(node: &Node, dir: &Path) {
        while node.connected().is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for (model, outlook) in Self::of_all(node, dir).await {
            match outlook {
                Self::Expected(prospect) => tracing::info!(model, "it may bring {}", prospect.for_people()),
                Self::Nothing(why) => tracing::warn!(model, "no jobs come: {why}"),
            }
        }
    }
}
