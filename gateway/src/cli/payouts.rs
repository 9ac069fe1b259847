//! `payouts`: runs that pay providers, and what became of each payout.

use std::time::Duration;

use clap::Subcommand;
use lumbung_openapi::money::NanoUsd;
use serde_json::json;

use super::Report;
use super::table::{table, time};
use crate::domain::csv::Csv;
use crate::domain::ids::{PayoutId, PayoutRunId};
use crate::store::{Payout, PayoutRun, PayoutTerms, Store};

/// `payouts …`
#[derive(Debug, Subcommand)]
pub enum Payouts {
    /// Send everything payable on its way: to providers that are not banned and have said where to.
    Create {
        /// Leave out providers that can be paid less, in US dollars.
        #[arg(long, value_name = "USD", default_value = "10")]
        minimum: NanoUsd,
        /// Leave out providers that changed where they want to be paid less than so many seconds ago.
        #[arg(long, env = "LUMBUNG_PAYOUT_COOLDOWN_SECS", default_value_t = 3 * 86_400)]
        cooldown_secs: u64,
        /// Your own name for the run: the same one does not run twice.
        #[arg(long, default_value = "")]
        reference: String,
    },
    /// Every run.
    List,
    /// The payouts of a run.
    Show {
        /// `run_…`
        run: PayoutRunId,
        /// Print CSV, for a bank or a spreadsheet.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// A payout has arrived.
    Confirm {
        /// `pay_…`
        payout: PayoutId,
        /// What shows it, such as the transfer's id.
        #[arg(long)]
        reference: String,
    },
    /// A payout has not arrived and will not: the money is payable again.
    Reverse {
        /// `pay_…`
        payout: PayoutId,
    },
}

pub(super) async fn run(action: Payouts, store: &Store) -> anyhow::Result<Report> {
    match action {
        Payouts::Create { minimum, cooldown_secs, reference } => {
            let terms = PayoutTerms { minimum, cooldown: Duration::from_secs(cooldown_secs), reference };
            let run = store.create_payouts(&terms).await?;
            let payouts = store.payouts_of(&run.id).await?;
            Report::new(payout_table(&payouts), json!({ "run": run, "payouts": payouts }))
        }
        Payouts::List => {
            let runs = store.payout_runs().await?;
            let row = |run: &PayoutRun| {
                let (payouts, total) = (run.payouts.to_string(), format!("${}", run.total));
                [run.id.to_string(), time(run.created_at_us), payouts, total, run.reference.clone()]
            };
            Report::new(table(["RUN", "AT", "PAYOUTS", "TOTAL", "REFERENCE"], runs.iter().map(row).collect()), runs)
        }
        Payouts::Show { run, csv } => {
            let (run, payouts) = (store.payout_run(&run).await?, store.payouts_of(&run).await?);
            let text = if csv { payout_csv(&payouts) } else { payout_table(&payouts) };
            Report::new(text, json!({ "run": run, "payouts": payouts }))
        }
        Payouts::Confirm { payout, reference } => {
            let payout = store.confirm_payout(&payout, &reference).await?;
            Report::new(format!("{} confirmed", payout.id), payout)
        }
        Payouts::Reverse { payout } => {
            let payout = store.reverse_payout(&payout).await?;
            Report::new(format!("{} reversed: ${} is payable again", payout.id, payout.amount), payout)
        }
    }
}

fn payout_table(payouts: &[Payout]) -> String {
    let row = |p: &Payout| {
        let (amount, state) = (format!("${}", p.amount), p.state.as_str().to_owned());
        [p.id.to_string(), p.provider.to_string(), amount, state, p.details.clone(), p.reference.clone()]
    };
    table(["PAYOUT", "PROVIDER", "AMOUNT", "STATE", "TO", "REFERENCE"], payouts.iter().map(row).collect())
}

fn payout_csv(payouts: &[Payout]) -> String {
    let head = ["payout", "run", "provider", "amount_usd", "details", "state", "reference"];
    let row = |csv: Csv, p: &Payout| {
        let csv = csv.number(p.id).number(p.run).number(&p.provider).number(p.amount);
        csv.text(&p.details).text(p.state.as_str()).text(&p.reference).end()
    };
    payouts.iter().fold(Csv::new(&head), row).finish()
}
