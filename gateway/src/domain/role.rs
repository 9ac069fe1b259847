//! What an operator's token allows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an operator may do. Each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks, and changes nothing.
    ReadOnly,
    /// Moves money, and opens and closes accounts.
    Billing,
    /// Everything: keys, the catalogue, providers' standings.
    Admin,
}

impl Role {
    /// As tokens and the audit log name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Billing => "billing",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a role: admin, billing or read-only")]
pub struct ParseRoleError;

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        [Self::ReadOnly, Self::Billing, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(ParseRoleError)
    }
}

/// Who acts on the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The token's subject.
    pub subject: String,
    /// Who issued the token.
    pub issuer: String,
    /// What it allows.
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(Role::ReadOnly < Role::Billing && Role::Billing < Role::Admin);
        for role in [Role::ReadOnly, Role::Billing, Role::Admin] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("Admin".parse::<Role>().is_err());
    }
}
