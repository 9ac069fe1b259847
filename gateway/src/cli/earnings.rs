//! `earnings`: what providers earned, what is taken back, and what promotional credit paid for.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Subcommand;
use lumbung_openapi::money::NanoUsd;
use serde_json::json;

use super::Report;
use super::table::{table, time};
use crate::domain::ids::{AccountId, JobId, ProviderId};
use crate::store::{Claw, Clawback, PromotionalDecision, Store, Verdict};

/// `earnings …`
#[derive(Debug, Subcommand)]
pub enum Earnings {
    /// What every provider earned, and where it is.
    List,
    /// What one provider earned, and where it is.
    Show {
        /// Its id: its key's thumbprint.
        provider: ProviderId,
    },
    /// Take pending earnings back: of named jobs, to the clients whose jobs they were; or an amount, as revenue.
    Clawback {
        /// Its id: its key's thumbprint.
        provider: ProviderId,
        /// A job; may be given more than once.
        #[arg(long = "job", value_name = "JOB", conflicts_with = "amount", required_unless_present = "amount")]
        jobs: Vec<JobId>,
        /// US dollars, from the latest attempts.
        #[arg(long, value_name = "USD")]
        amount: Option<NanoUsd>,
        /// Why; the provider reads it.
        #[arg(long)]
        reason: String,
        /// What shows it: a file of text or JSON, 16 KiB at most. The provider reads it too.
        #[arg(long, value_name = "FILE")]
        evidence: Option<PathBuf>,
    },
    /// Every clawback, or a provider's.
    Clawbacks {
        /// Its id: its key's thumbprint.
        provider: Option<ProviderId>,
    },
    /// Shares that promotional credit paid for, undecided, by provider and account.
    Promotional {
        /// Its id: its key's thumbprint.
        provider: Option<ProviderId>,
    },
    /// Let a provider have the shares that promotional credit paid for; they are payable at once.
    Approve(Decision),
    /// Do not: the money goes back where the credit came from.
    Refuse(Decision),
}

/// What is decided about.
#[derive(Debug, clap::Args)]
pub struct Decision {
    /// Its id: its key's thumbprint.
    provider: ProviderId,
    /// Only what this account's credit paid for.
    #[arg(long)]
    account: Option<AccountId>,
    /// Why; the provider reads it.
    #[arg(long)]
    reason: String,
}

pub(super) async fn run(action: Earnings, store: &Store) -> anyhow::Result<Report> {
    match action {
        Earnings::List => {
            let providers = store.providers().await?;
            totals(providers.into_iter().map(|provider| provider.id).collect(), store).await
        }
        Earnings::Show { provider } => totals(vec![provider], store).await,
        Earnings::Clawback { provider, jobs, amount, reason, evidence } => {
            let claw = match amount {
                Some(amount) => Claw::Amount(amount),
                None => Claw::Jobs(jobs),
            };
            let evidence = evidence.map_or(Ok(String::new()), |path| {
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
            })?;
            let done = store.claw_back(&provider, &claw, &reason, &evidence).await?;
            let text = format!("{}: ${} taken back, ${} of it refunded", done.id, done.amount, done.refunded);
            Report::new(text, done)
        }
        Earnings::Clawbacks { provider } => {
            let list = store.clawbacks(provider.as_ref()).await?;
            let row = |c: &Clawback| {
                let money = [c.amount, c.refunded].map(|amount| format!("${amount}"));
                let [amount, refunded] = money;
                [c.id.to_string(), time(c.at_us), c.provider.to_string(), amount, refunded, c.reason.clone()]
            };
            let head = ["CLAWBACK", "AT", "PROVIDER", "AMOUNT", "REFUNDED", "REASON"];
            Report::new(table(head, list.iter().map(row).collect()), list)
        }
        Earnings::Promotional { provider } => {
            let list = store.held_shares(provider.as_ref()).await?;
            let row = |held: &crate::store::HeldShares| {
                let money = [held.amount, held.proven].map(|amount| format!("${amount}"));
                let [amount, proven] = money;
                [held.provider.to_string(), held.account.to_string(), held.attempts.to_string(), amount, proven]
            };
            let head = ["PROVIDER", "PAID BY", "ATTEMPTS", "SHARES", "CAN BE DECIDED"];
            Report::new(table(head, list.iter().map(row).collect()), list)
        }
        Earnings::Approve(decision) => decide(decision, Verdict::Approved, store).await,
        Earnings::Refuse(decision) => decide(decision, Verdict::Refused, store).await,
    }
}

async fn decide(decision: Decision, verdict: Verdict, store: &Store) -> anyhow::Result<Report> {
    let Decision { provider, account, reason } = decision;
    let done = store.decide_promotional(&provider, account.as_ref(), verdict, &reason).await?;
    let PromotionalDecision { id, attempts, amount, .. } = &done;
    let what = match verdict {
        Verdict::Approved => "approved and payable",
        Verdict::Refused => "refused",
    };
    Report::new(format!("{id}: ${amount} of {attempts} attempts {what}"), done)
}

async fn totals(providers: Vec<ProviderId>, store: &Store) -> anyhow::Result<Report> {
    if providers.is_empty() {
        bail!("no provider has joined");
    }
    let (mut rows, mut list) = (Vec::new(), Vec::new());
    for provider in providers {
        let totals = store.earnings_totals(&provider).await?;
        let money = [
            totals.earned,
            totals.pending,
            totals.promotional,
            totals.payable,
            totals.in_transit,
            totals.paid,
            totals.withheld,
            totals.clawed_back,
            totals.refused,
        ];
        let [earned, pending, promotional, payable, in_transit, paid, withheld, clawed_back, refused] =
            money.map(|amount| format!("${amount}"));
        let id = provider.to_string();
        rows.push([id, earned, pending, promotional, payable, in_transit, paid, withheld, clawed_back, refused]);
        list.push(json!({ "provider": provider, "totals": totals }));
    }
    let head = [
        "PROVIDER",
        "EARNED",
        "PENDING",
        "PROMOTIONAL",
        "PAYABLE",
        "IN TRANSIT",
        "PAID",
        "WITHHELD",
        "CLAWED BACK",
        "REFUSED",
    ];
    Report::new(table(head, rows), list)
}
