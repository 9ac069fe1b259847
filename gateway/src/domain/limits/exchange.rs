//! What a replica tells the counters that all replicas share, and what it gets from them: one line for each key or account.

use super::{Caps, Period};
use crate::domain::calendar::Day;
use crate::domain::ids::{AccountId, KeyId};

/// Whose line it is: a key's, or an account's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineOwner {
    /// The account.
    pub account: AccountId,
    /// `None`: the account's own, over all its keys.
    pub key: Option<KeyId>,
}

/// What one line tells and asks for, of one rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateReport {
    /// Units that were set aside or asked for, and are not needed.
    pub give_back: u64,
    /// Units that were used without having been set aside.
    pub add: u64,
    /// Units that a request needs.
    pub min: u64,
    /// Units that are welcome.
    pub max: u64,
}

/// Of the places for requests at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacesReport {
    /// Places that this replica keeps.
    pub keep: u32,
    /// More that a request needs.
    pub min: u32,
    /// More that are welcome.
    pub max: u32,
}

/// Of the budgets, nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoneyReport {
    /// What has come to the books since the last report.
    pub posted: i64,
    /// What this replica keeps set aside: what is in flight, and what is to spare.
    pub keep: i64,
    /// More that a request needs.
    pub min: i64,
    /// More that is welcome.
    pub max: i64,
}

/// All that one key or account tells and asks for. A request gets all that it needs of all limits, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The limits.
    pub caps: Caps,
    /// The day, of which budgets' periods follow.
    pub today: Day,
    /// Requests in a minute.
    pub requests: RateReport,
    /// Tokens in a minute.
    pub tokens: RateReport,
    /// Requests at a time.
    pub places: PlacesReport,
    /// Money.
    pub money: MoneyReport,
    /// Whether money may be set aside though the counters have not been compared with the books for long.
    pub trusting: bool,
}

/// What one rate got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateReply {
    /// Units set aside for this replica.
    pub granted: u64,
    /// Units in use by all replicas, rounded up.
    pub used: u64,
    /// Microseconds until what was needed fits; zero: it does.
    pub wait_us: i64,
}

/// What the places got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacesReply {
    /// Places given to this replica.
    pub granted: u32,
    /// Places that all replicas have.
    pub total: u32,
    /// Whether what was needed fits.
    pub fits: bool,
}

/// What the budgets got, nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoneyReply {
    /// Set aside for this replica.
    pub granted: i64,
    /// Whether what was needed is left of every budget.
    pub fits: bool,
    /// What is left of each period's budget after that, in the order of [`Period::ALL`]; `None` where there is none.
    pub left: [Option<i64>; 4],
    /// What other replicas have set aside.
    pub elsewhere: i64,
    /// Whether the counters must be compared with the books before anything is set aside.
    pub unread: bool,
}

/// All that one key or account got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// When the counters of this key or account began, Unix microseconds: whoever knew others knows that all is forgotten.
    pub born_us: i64,
    /// Requests in a minute.
    pub requests: RateReply,
    /// Tokens in a minute.
    pub tokens: RateReply,
    /// Requests at a time.
    pub places: PlacesReply,
    /// Money.
    pub money: MoneyReply,
}

impl MoneyReply {
    /// The period that has the least left, and how much that is.
    pub fn tightest(&self) -> Option<(Period, i64)> {
        let left = Period::ALL.into_iter().zip(self.left);
        left.filter_map(|(period, left)| Some((period, left?))).min_by_key(|(_, left)| *left)
    }
}
