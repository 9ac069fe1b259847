//! What the operator thinks of a provider.

use std::str::FromStr;

use serde::Serialize;

use super::ids::ProviderId;

/// How far a provider is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// On probation: serves alone only where nobody else can.
    Newcomer,
    /// Trusted by the operator.
    Trusted,
    /// Shut out.
    Banned,
}

impl Standing {
    /// As the books name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newcomer => "newcomer",
            Self::Trusted => "trusted",
            Self::Banned => "banned",
        }
    }
}

/// Not a standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a standing: newcomer, trusted or banned")]
pub struct ParseStandingError;

impl FromStr for Standing {
    type Err = ParseStandingError;

    fn from_str(text: &str) -> Result<Self, ParseStandingError> {
        [Self::Newcomer, Self::Trusted, Self::Banned]
            .into_iter()
            .find(|standing| standing.as_str() == text)
            .ok_or(ParseStandingError)
    }
}

/// A provider that has joined at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProviderRecord {
    /// Its key's thumbprint.
    pub id: ProviderId,
    /// How far it is trusted.
    pub standing: Standing,
    /// When it joined first, Unix microseconds.
    pub first_seen_us: i64,
    /// When its standing changed last, Unix microseconds.
    pub standing_since_us: i64,
}
