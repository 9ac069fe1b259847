//! `providers`.

use clap::Subcommand;
use serde_json::json;

use super::Report;
use super::table::{table, time};
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;
use crate::store::Store;

/// `providers …`
#[derive(Debug, Subcommand)]
pub enum Providers {
    /// Every provider that has joined, and what it has earned.
    List,
    /// Trust a provider.
    Trust {
        /// Its id: its key's thumbprint.
        provider: ProviderId,
    },
    /// Shut a provider out.
    Ban {
        /// Its id: its key's thumbprint.
        provider: ProviderId,
    },
    /// Erase what is personal of a provider, for good: where it was paid, what was written about it. Its earnings in
    /// figures and its standing stay.
    Erase {
        /// Its id: its key's thumbprint.
        provider: ProviderId,
    },
    /// Let a banned provider in again, as a newcomer.
    Unban {
        /// Its id: its key's thumbprint.
        provider: ProviderId,
    },
}

pub(super) async fn run(action: Providers, store: &Store) -> anyhow::Result<Report> {
    let (provider, standing) = match action {
        Providers::List => return list(store).await,
        Providers::Erase { provider } => {
            return super::accounts::erased(provider.as_str(), store.erase_provider(&provider).await?);
        }
        Providers::Trust { provider } => (provider, Standing::Trusted),
        Providers::Ban { provider } => (provider, Standing::Banned),
        Providers::Unban { provider } => (provider, Standing::Newcomer),
    };
    store.set_standing(&provider, standing).await?;
    Report::new(format!("{provider} is {}", standing.as_str()), json!({ "id": provider, "standing": standing }))
}

async fn list(store: &Store) -> anyhow::Result<Report> {
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    for provider in store.providers().await? {
        let earnings = store.earnings(&provider.id).await?;
        rows.push([
            provider.id.to_string(),
            provider.standing.as_str().into(),
            time(provider.first_seen_us),
            format!("${}", earnings.pending),
            format!("${}", earnings.payable),
        ]);
        list.push(json!({ "provider": provider, "earnings": earnings }));
    }
    Report::new(table(["PROVIDER", "STANDING", "FIRST SEEN", "PENDING", "PAYABLE"], rows), list)
}
