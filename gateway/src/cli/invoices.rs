//! `invoices`.

use clap::Subcommand;

use super::Report;
use super::table::{table, time};
use crate::domain::calendar::Month;
use crate::domain::ids::AccountId;
use crate::store::{Invoice, Store};

/// `invoices …`
#[derive(Debug, Subcommand)]
pub enum Invoices {
    /// What an account had, paid in and used in a month, and what is left.
    Show {
        /// `acct_…`
        account: AccountId,
        /// `2026-11`
        month: Month,
        /// Print CSV.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
}

pub(super) async fn run(action: Invoices, store: &Store) -> anyhow::Result<Report> {
    let Invoices::Show { account, month, csv } = action;
    let invoice = store.invoice(&account, month).await?;
    let text = if csv { invoice.to_csv().trim_end().to_owned() } else { plain(&invoice) };
    Report::new(text, invoice)
}

fn plain(invoice: &Invoice) -> String {
    let state = if invoice.is_final { "" } else { " (so far)" };
    let mut rows = vec![["opening balance".into(), String::new(), String::new(), format!("${}", invoice.opening)]];
    for entry in &invoice.credits {
        let at = entry.at_us.map_or_else(|| "several".into(), time);
        rows.push([entry.kind.clone(), at, entry.reference.clone(), format!("${}", entry.amount)]);
    }
    for line in &invoice.usage {
        let tokens = format!("{} + {} tokens", line.used.prompt_tokens, line.used.completion_tokens);
        let key = if line.label.is_empty() { &line.key } else { &line.label };
        rows.push([line.model.clone(), key.clone(), tokens, format!("-${}", line.used.charge)]);
    }
    rows.push(["closing balance".into(), String::new(), String::new(), format!("${}", invoice.closing)]);
    let table = table(["WHAT", "WHEN OR KEY", "FOR", "AMOUNT"], rows);
    format!("{} {}, {}{state}\n{table}", invoice.account, invoice.name, invoice.month)
}
