//! `keys limits` and `accounts limits`.

use std::fmt::Display;
use std::str::FromStr;

use clap::{Args, Subcommand};
use lumbung_openapi::money::NanoUsd;

use super::Report;
use super::table::{table, time};
use crate::domain::calendar::Day;
use crate::domain::ids::ModelId;
use crate::domain::limits::{LimitOwner, Limits, Period};
use crate::store::Store;

/// `… limits …`
#[derive(Debug, Subcommand)]
pub enum LimitsOf<Id>
where
    Id: FromStr + Clone + Send + Sync + 'static,
    Id::Err: std::error::Error + Send + Sync + 'static,
{
    /// Set limits. Those that are not named stay as they are.
    Set {
        /// Whose.
        owner: Id,
        #[command(flatten)]
        change: Change,
    },
    /// Take limits away: all, or those that are named.
    Clear {
        /// Whose.
        owner: Id,
        /// Which; may be repeated.
        #[arg(long = "only", value_enum)]
        only: Vec<Kind>,
    },
    /// The limits.
    Show {
        /// Whose.
        owner: Id,
    },
}

/// What is to be set.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct Change {
    /// US dollars in a day (UTC).
    #[arg(long)]
    budget_day: Option<NanoUsd>,
    /// US dollars in a week (from Monday, UTC).
    #[arg(long)]
    budget_week: Option<NanoUsd>,
    /// US dollars in a month (UTC).
    #[arg(long)]
    budget_month: Option<NanoUsd>,
    /// US dollars in all.
    #[arg(long)]
    budget_total: Option<NanoUsd>,
    /// A model that may be asked for, by its id or an alias; may be repeated. Others may not.
    #[arg(long = "model")]
    models: Vec<ModelId>,
    /// Requests in a minute.
    #[arg(long)]
    requests_per_minute: Option<u32>,
    /// Prompt and completion tokens in a minute.
    #[arg(long)]
    tokens_per_minute: Option<u32>,
    /// Requests at a time.
    #[arg(long)]
    concurrent_requests: Option<u32>,
    /// The last day (UTC), such as 2026-12-31.
    #[arg(long)]
    expires_after: Option<Day>,
    /// Whether providers on probation may serve.
    #[arg(long)]
    allow_probation: Option<bool>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The budgets, all of them.
    Budgets,
    /// The models that may be asked for.
    Models,
    /// Requests in a minute.
    RequestsPerMinute,
    /// Tokens in a minute.
    TokensPerMinute,
    /// Requests at a time.
    ConcurrentRequests,
    /// The expiry.
    Expiry,
    /// Whether providers on probation may serve.
    Probation,
}

pub(super) async fn run<Id>(
    action: LimitsOf<Id>,
    owner_of: impl FnOnce(Id) -> LimitOwner,
    store: &Store,
) -> anyhow::Result<Report>
where
    Id: FromStr + Clone + Send + Sync + 'static,
    Id::Err: std::error::Error + Send + Sync + 'static,
{
    let owner = match action {
        LimitsOf::Set { owner, change } => {
            let owner = owner_of(owner);
            let mut limits = store.limits(owner).await?;
            change.apply(&mut limits);
            store.set_limits(owner, &limits).await?;
            owner
        }
        LimitsOf::Clear { owner, only } => {
            let owner = owner_of(owner);
            let mut limits = store.limits(owner).await?;
            match only.is_empty() {
                true => limits = Limits::default(),
                false => only.into_iter().for_each(|kind| kind.clear(&mut limits)),
            }
            store.set_limits(owner, &limits).await?;
            owner
        }
        LimitsOf::Show { owner } => owner_of(owner),
    };
    let limits = store.limits(owner).await?;
    Report::new(show(&limits), limits)
}

impl Change {
    fn apply(self, limits: &mut Limits) {
        let budgets = [self.budget_day, self.budget_week, self.budget_month, self.budget_total];
        for (period, budget) in Period::ALL.into_iter().zip(budgets).filter(|(_, budget)| budget.is_some()) {
            limits.budgets.set(period, budget);
        }
        if !self.models.is_empty() {
            limits.models = Some(self.models);
        }
        limits.requests_per_minute = self.requests_per_minute.or(limits.requests_per_minute);
        limits.tokens_per_minute = self.tokens_per_minute.or(limits.tokens_per_minute);
        limits.concurrent_requests = self.concurrent_requests.or(limits.concurrent_requests);
        limits.expires_at_us = self.expires_after.map(|day| day.next().start_us()).or(limits.expires_at_us);
        limits.allow_probation = self.allow_probation.unwrap_or(limits.allow_probation);
    }
}

impl Kind {
    fn clear(self, limits: &mut Limits) {
        let none = Limits::default();
        match self {
            Self::Budgets => limits.budgets = none.budgets,
            Self::Models => limits.models = none.models,
            Self::RequestsPerMinute => limits.requests_per_minute = none.requests_per_minute,
            Self::TokensPerMinute => limits.tokens_per_minute = none.tokens_per_minute,
            Self::ConcurrentRequests => limits.concurrent_requests = none.concurrent_requests,
            Self::Expiry => limits.expires_at_us = none.expires_at_us,
            Self::Probation => limits.allow_probation = none.allow_probation,
        }
    }
}

fn show(limits: &Limits) -> String {
    let text = |value: Option<&dyn Display>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut rows: Vec<[String; 2]> = Period::ALL
        .into_iter()
        .map(|period| {
            let budget = limits.budgets.of(period).map(|budget| format!("${budget}"));
            [format!("{} budget", period.as_str()), text(budget.as_ref().map(|budget| budget as &dyn Display))]
        })
        .collect();
    let models = limits.models.as_ref().map(|models| models.iter().map(ModelId::as_str).collect::<Vec<_>>().join(" "));
    let expiry = limits.expires_at_us.map(time);
    rows.extend([
        ["models".into(), text(models.as_ref().map(|models| models as &dyn Display))],
        ["requests per minute".into(), text(limits.requests_per_minute.as_ref().map(|n| n as &dyn Display))],
        ["tokens per minute".into(), text(limits.tokens_per_minute.as_ref().map(|n| n as &dyn Display))],
        ["requests at a time".into(), text(limits.concurrent_requests.as_ref().map(|n| n as &dyn Display))],
        ["expires".into(), text(expiry.as_ref().map(|at| at as &dyn Display))],
        ["probation".into(), if limits.allow_probation { "allowed" } else { "refused" }.into()],
    ]);
    table(["LIMIT", ""], rows)
}
