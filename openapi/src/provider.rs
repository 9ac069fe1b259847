//! The provider protocol: how a machine joins, and what it says of itself over its tunnel.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::merkle::Hash;
use crate::money::TokenPrice;

/// The `Upgrade` token of a tunnel.
pub const TUNNEL_PROTOCOL: &str = "lumbung-tunnel/1";
/// Where a provider asks for a challenge.
pub const CHALLENGE_PATH: &str = "/provider/v1/challenge";
/// Where a provider dials its tunnel.
pub const TUNNEL_PATH: &str = "/provider/v1/tunnel";
/// Where a provider offers receipts.
pub const RECEIPTS_PATH: &str = "/provider/v1/receipts";
/// On the tunnel: what the provider offers now ([`Offer`]). The gateway asks every few seconds.
pub const OFFER_PATH: &str = "/offer";
/// On the tunnel: this gateway is about to stop (POST, no body). The provider dials again at once, to find another, and keeps
/// this tunnel until the gateway closes it: what runs on it ends there.
pub const MOVE_PATH: &str = "/move";
/// Where anyone asks what a provider of a model can expect ([`Demand`]), followed by the model's id.
pub const DEMAND_PATH: &str = "/provider/v1/models/";
/// The authorization scheme of a tunnel request, followed by the signed [`JoinClaims`].
pub const JOIN_SCHEME: &str = "LumbungJoin";
/// `typ` of a signed join.
pub const JOIN_TYP: &str = "lumbung-join";
/// Response header that names the gateway replica at the other end of a new tunnel.
pub const REPLICA_HEADER: &str = "x-lumbung-replica";
/// Request header of the gateway's poll: how many gateways share the fleet, so that a provider knows whether a second tunnel
/// can lead to another one.
pub const REPLICAS_HEADER: &str = "x-lumbung-replicas";
/// Request header of the gateway's poll: how far the provider is trusted, `newcomer` or `trusted`.
pub const STANDING_HEADER: &str = "x-lumbung-standing";
/// The longest name of a provider.
const MAX_NAME: usize = 64;
/// `code` of a provider's refusal when every slot is taken (status 503).
pub const CODE_BUSY: &str = "provider_busy";
/// `code` of a provider's refusal while it takes nothing new (status 503).
pub const CODE_DRAINING: &str = "provider_draining";

/// A fresh challenge. The gateway keeps nothing until it is answered.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Challenge {
    /// To be signed as it is.
    pub challenge: String,
    /// Unix seconds after which it is no use.
    pub expires_at: u64,
}

/// Claims that answer a challenge. Each kind has a `typ` of its own, so that none passes for another.
pub trait ChallengeAnswer: Serialize + DeserializeOwned {
    /// `typ` of the signed text.
    const TYP: &'static str;

    /// The gateway's origin as the provider dialled it, so that no other gateway can use it.
    fn aud(&self) -> &str;

    /// The challenge that is answered.
    fn challenge(&self) -> &str;
}

/// What a provider signs to open a tunnel, its public key in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinClaims {
    /// The gateway's origin as the provider dialled it (`https://api.example`), so that no other gateway can use it.
    pub aud: String,
    /// The challenge.
    pub challenge: String,
    /// The provider's software, `name/version`.
    pub agent: String,
}

impl ChallengeAnswer for JoinClaims {
    const TYP: &'static str = JOIN_TYP;

    fn aud(&self) -> &str {
        &self.aud
    }

    fn challenge(&self) -> &str {
        &self.challenge
    }
}

/// What whoever serves a model can expect, `GET /provider/v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Demand {
    /// The catalogue's id.
    pub model: String,
    /// The most that a provider may ask.
    #[serde(flatten)]
    pub reference: TokenPrice,
    /// The operator's fee, in hundredths of a percent of what clients pay.
    pub fee_bps: u16,
    /// Digests of the weights that may serve it; any may where there are none.
    pub digests: Vec<String>,
    /// How many providers serve it now.
    pub providers: u32,
    /// Jobs that they can run at a time; of 1,024 providers at most.
    pub slots: u64,
    /// Jobs that run in those now.
    pub slots_taken: u64,
}

/// Whether a provider can be called so: 1 to 64 letters, digits, spaces, `.`, `_` and `-` of ASCII, the first a letter or a
/// digit, the last no space, and nothing that could be an id.
pub fn is_name(text: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b" ._-".contains(&byte);
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(is_of_name)
        && !text.ends_with(' ')
        && text.parse::<Hash>().is_err()
}

/// What a provider offers now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Offer {
    /// Whether it finishes what it has and takes nothing new: for good, or for as long as it says so.
    pub draining: bool,
    /// What it wants to be called; empty if it does not say. Clients may name it so once the operator trusts it.
    #[serde(default)]
    pub name: String,
    /// Where it says it is, free text such as `eu-west`; empty if it does not say.
    pub region: String,
    /// What it says it runs on.
    pub hardware: String,
    /// Its models.
    pub models: Vec<ModelOffer>,
}

/// One model of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelOffer {
    /// The catalogue's id.
    pub model: String,
    /// SHA-256 over the sorted list of file name and SHA-256 of weights, tokenizer and template; `sha256:…`. Empty for a sidecar.
    pub weights_digest: String,
    /// As OpenRouter names them: `f32`, `bf16`, `int4` … or `unknown`.
    pub quantization: String,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Jobs at a time.
    pub slots: u32,
    /// What it asks.
    #[serde(flatten)]
    pub ask: TokenPrice,
    /// OpenAI's parameters that its engine honours, by name.
    pub supported_parameters: Vec<String>,
    /// Whether another provider's answer can be continued here.
    pub resume: Resume,
}

/// Whether an engine can continue an answer that another began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resume {
    /// It cannot.
    #[default]
    None,
    /// From the prompt and the token ids so far.
    Tokens,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_people_write_and_cannot_be_taken_for_an_id() {
        assert!(["acme", "Acme GPU-2", "9.fold_rig", "a"].into_iter().all(is_name));
        let (long, id) = ("a".repeat(65), Hash::of(b"x").to_string());
        for no_name in ["", " ", " a", "a ", "-acme", "acme/fp8", "acmé", "a\nb", &long, &id] {
            assert!(!is_name(no_name), "{no_name:?}");
        }
        let older = r#"{"draining":false,"region":"","hardware":"","models":[]}"#;
        assert_eq!(
            serde_json::from_str::<Offer>(older).ok(),
            Some(Offer::default()),
            "without a name, from an older one"
        );
    }
}
