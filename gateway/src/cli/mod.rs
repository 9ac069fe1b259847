//! The operator's work on the books, from the command line: directly on the database, whether or not a gateway runs.
//!
//! Amounts are decimal dollars. `--json` prints one JSON value for scripts. What fails says so on stderr and exits with 1.

mod accounts;
mod admin;
mod books;
mod earnings;
pub mod health;
mod invoices;
mod limits;
mod models;
mod payouts;
mod providers;
mod receipt;
mod signing_keys;
mod table;
mod tokenizer;
mod usage;

use std::io::Write;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::store::{self, Store};

/// What the operator can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Customers' accounts.
    Accounts(Group<accounts::Accounts>),
    /// Accounts' API keys.
    Keys(Group<accounts::Keys>),
    /// Accounts' credit.
    Credit(Group<accounts::Credit>),
    /// The catalogue of models.
    Models(Group<models::Models>),
    /// Providers and how far they are trusted.
    Providers(Group<providers::Providers>),
    /// What providers earned.
    Earnings(Group<earnings::Earnings>),
    /// Runs that pay providers.
    Payouts(Group<payouts::Payouts>),
    /// The ledger.
    Books(Group<books::Books>),
    /// Operators' access to the API under /admin/v1.
    Admin(Group<admin::Admin>),
    /// The keys that the network itself signs with.
    SigningKeys(Group<signing_keys::SigningKeys>),
    /// Clients' receipts.
    Receipt(Group<receipt::Receipt>),
    /// What was used.
    Usage(Group<usage::Usage>),
    /// Accounts' monthly invoices.
    Invoices(Group<invoices::Invoices>),
}

/// A group of commands.
#[derive(Debug, Args)]
pub struct Group<T: Subcommand> {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: T,
}

/// Does it. The books are opened only where they are needed.
pub async fn run(command: Command, open: impl AsyncFnOnce() -> store::Result<Store>) -> anyhow::Result<()> {
    let (json, report) = match command {
        Command::Accounts(Group { json, action }) => (json, accounts::accounts(action, &open().await?).await?),
        Command::Keys(Group { json, action }) => (json, accounts::keys(action, &open().await?).await?),
        Command::Credit(Group { json, action }) => (json, accounts::credit(action, &open().await?).await?),
        Command::Models(Group { json, action }) => (json, models::run(action, &open().await?).await?),
        Command::Providers(Group { json, action }) => (json, providers::run(action, &open().await?).await?),
        Command::Earnings(Group { json, action }) => (json, earnings::run(action, &open().await?).await?),
        Command::Payouts(Group { json, action }) => (json, payouts::run(action, &open().await?).await?),
        Command::Books(Group { json, action }) => (json, books::run(action, &open().await?).await?),
        Command::Admin(Group { json, action }) => (json, admin::run(action, &open().await?).await?),
        Command::SigningKeys(Group { json, action }) => (json, signing_keys::run(action, &open().await?).await?),
        Command::Receipt(Group { json, action }) => (json, receipt::run(action)?),
        Command::Usage(Group { json, action }) => (json, usage::run(action, &open().await?).await?),
        Command::Invoices(Group { json, action }) => (json, invoices::run(action, &open().await?).await?),
    };
    report.print(json)
}

/// What a command says when it is done.
struct Report {
    text: String,
    json: Value,
    /// Why the exit code is 1 all the same.
    wrong: Option<&'static str>,
}

impl Report {
    fn new(text: impl Into<String>, json: impl Serialize) -> anyhow::Result<Self> {
        Ok(Self { text: text.into(), json: serde_json::to_value(json)?, wrong: None })
    }

    fn print(self, json: bool) -> anyhow::Result<()> {
        let text = if json { format!("{:#}", self.json) } else { self.text };
        writeln!(std::io::stdout(), "{text}")?;
        match self.wrong {
            Some(why) => anyhow::bail!(why),
            None => Ok(()),
        }
    }
}
