//! `signing-keys`.

use clap::Subcommand;
use serde_json::json;

use super::Report;
use crate::store::Store;

/// `signing-keys …`
#[derive(Debug, Subcommand)]
pub enum SigningKeys {
    /// Make new ones, which sign from now on. Running gateways follow within a second; what the old ones signed still verifies.
    Rotate,
}

pub(super) async fn run(action: SigningKeys, store: &Store) -> anyhow::Result<Report> {
    let SigningKeys::Rotate = action;
    let (secret, public) = store.rotate_signing_keys().await?.ids();
    let text = format!("tickets are signed with {secret} from now on, settlements and operators' tokens with {public}");
    Report::new(text, json!({ "tickets": secret, "settlements": public }))
}
