//! `accounts`, `keys` and `credit`.

use clap::Subcommand;
use lumbung_openapi::money::NanoUsd;
use serde_json::json;

use super::limits::LimitsOf;
use super::table::{table, time};
use super::{Report, limits};
use crate::domain::ids::{AccountId, KeyId};
use crate::domain::limits::{LimitOwner, Limits};
use crate::store::{CreditKind, Erasure, KeyRecord, Leftover, NewKey, Store};

/// `accounts …`
#[derive(Debug, Subcommand)]
pub enum Accounts {
    /// Open an account.
    Create {
        /// What to call it.
        name: String,
    },
    /// Every account.
    List,
    /// One account, its balance and its keys.
    Show {
        /// `acct_…`
        account: AccountId,
    },
    /// Close an account: its keys work no longer.
    Close {
        /// `acct_…`
        account: AccountId,
    },
    /// Erase what is personal of an account, for good: its name, keys, kept responses. The ledger stays, under its id.
    Erase {
        /// `acct_…`
        account: AccountId,
        /// What becomes of paid credit that is left.
        #[arg(long, value_enum)]
        balance: Option<Balance>,
    },
    /// What all keys of an account may do together.
    #[command(subcommand)]
    Limits(LimitsOf<AccountId>),
}

/// What becomes of paid credit that an erased account has left.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Balance {
    /// It is paid back, outside these books.
    Refund,
    /// It becomes revenue.
    Forfeit,
}

/// `keys …`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make an API key. It is shown this once.
    Create {
        /// `acct_…`
        account: AccountId,
        /// What to call it.
        #[arg(long, default_value = "")]
        label: String,
        /// A management key: it makes and changes keys of its account, and cannot ask for completions.
        #[arg(long)]
        management: bool,
    },
    /// The keys of an account, or all.
    List {
        /// `acct_…`
        account: Option<AccountId>,
    },
    /// Revoke a key.
    Revoke {
        /// `key_…`
        key: KeyId,
    },
    /// What a key may do.
    #[command(subcommand)]
    Limits(LimitsOf<KeyId>),
}

/// `credit …`
#[derive(Debug, Subcommand)]
pub enum Credit {
    /// Add credit to an account.
    Add {
        /// `acct_…`
        account: AccountId,
        /// US dollars, such as `12.50`.
        usd: NanoUsd,
        /// Given away, not paid for.
        #[arg(long)]
        promotional: bool,
        /// The payment's id: the same one is not credited twice.
        #[arg(long, default_value = "")]
        reference: String,
    },
}

pub(super) async fn accounts(action: Accounts, store: &Store) -> anyhow::Result<Report> {
    match action {
        Accounts::Create { name } => {
            let account = store.create_account(&name).await?;
            Report::new(account.id.to_string(), account)
        }
        Accounts::List => {
            let mut rows = Vec::new();
            let mut list = Vec::new();
            for account in store.accounts().await? {
                let balance = store.account_balance(&account.id).await?;
                let state = match (account.closed_at_us, account.erased_at_us) {
                    (_, Some(_)) => "erased",
                    (Some(_), None) => "closed",
                    (None, None) => "open",
                };
                let spendable = format!("${}", balance.spendable);
                rows.push([
                    account.id.to_string(),
                    time(account.created_at_us),
                    state.into(),
                    spendable,
                    account.name.clone(),
                ]);
                list.push(json!({ "account": account, "balance": balance }));
            }
            Report::new(table(["ACCOUNT", "OPENED", "STATE", "SPENDABLE", "NAME"], rows), list)
        }
        Accounts::Show { account } => show(&account, store).await,
        Accounts::Close { account } => {
            store.close_account(&account).await?;
            Report::new(format!("{account} closed"), store.account(&account).await?)
        }
        Accounts::Erase { account, balance } => {
            let leftover = balance.map(|balance| match balance {
                Balance::Refund => Leftover::Refund,
                Balance::Forfeit => Leftover::Forfeit,
            });
            erased(&account.to_string(), store.erase_account(&account, leftover).await?)
        }
        Accounts::Limits(action) => limits::run(action, LimitOwner::Account, store).await,
    }
}

/// What was erased.
pub(super) fn erased(id: &str, erasure: Erasure) -> anyhow::Result<Report> {
    let rows = erasure.rows.iter().map(|(kind, rows)| [(*kind).to_owned(), rows.to_string()]);
    let mut text = format!("{id} is erased\n{}", table(["WHAT", "ROWS"], rows.collect()));
    for (amount, what) in
        [(erasure.refunded, "to be paid back"), (erasure.forfeited, "became revenue"), (erasure.lapsed, "lapsed")]
    {
        if amount > NanoUsd::ZERO {
            text.push_str(&format!("\n${amount} {what}"));
        }
    }
    let rows: serde_json::Map<_, _> =
        erasure.rows.iter().map(|(kind, rows)| ((*kind).to_owned(), json!(rows))).collect();
    let (refunded, forfeited, lapsed) = (erasure.refunded, erasure.forfeited, erasure.lapsed);
    let json = json!({ "id": id, "at_us": erasure.at_us, "rows": rows, "refunded_usd": refunded, "forfeited_usd": forfeited,
                       "lapsed_usd": lapsed });
    Report::new(text, json)
}

async fn show(account: &AccountId, store: &Store) -> anyhow::Result<Report> {
    let (record, balance) = (store.account(account).await?, store.account_balance(account).await?);
    let keys = store.keys(Some(account)).await?;
    let closed = record.closed_at_us.map_or_else(String::new, |at| format!(", closed {}", time(at)));
    let erased = record.erased_at_us.map_or_else(String::new, |at| format!(", erased {}", time(at)));
    let mut text = format!(
        "{} {}\nopened {}{closed}{erased}\nspendable ${} (credit ${}, set aside ${})\n",
        record.id,
        record.name,
        time(record.created_at_us),
        balance.spendable,
        balance.credit,
        balance.allowances,
    );
    text.push_str(&key_table(&keys));
    Report::new(text, json!({ "account": record, "balance": balance, "keys": keys }))
}

pub(super) async fn keys(action: Keys, store: &Store) -> anyhow::Result<Report> {
    match action {
        Keys::Create { account, label, management } => {
            let new = NewKey { label, management, limits: Limits::default() };
            let (key, secret) = store.create_key_with(&account, &new).await?;
            Report::new(secret.clone(), json!({ "key": key, "secret": secret }))
        }
        Keys::List { account } => {
            let keys = store.keys(account.as_ref()).await?;
            Report::new(key_table(&keys), keys)
        }
        Keys::Revoke { key } => {
            store.revoke_key(&key).await?;
            Report::new(format!("{key} revoked"), json!({ "key": key, "revoked": true }))
        }
        Keys::Limits(action) => limits::run(action, LimitOwner::Key, store).await,
    }
}

fn key_table(keys: &[KeyRecord]) -> String {
    let row = |key: &KeyRecord| {
        let state = match (key.revoked_at_us, key.disabled, key.management) {
            (Some(_), ..) => "revoked",
            (None, true, _) => "disabled",
            (None, false, true) => "management",
            (None, false, false) => "good",
        };
        let shown = format!("{}…", key.shown_prefix);
        [key.id.to_string(), key.account.to_string(), shown, time(key.created_at_us), state.into(), key.label.clone()]
    };
    table(["KEY", "ACCOUNT", "BEGINS", "MADE", "STATE", "LABEL"], keys.iter().map(row).collect())
}

pub(super) async fn credit(action: Credit, store: &Store) -> anyhow::Result<Report> {
    let Credit::Add { account, usd, promotional, reference } = action;
    let kind = if promotional { CreditKind::Promotional } else { CreditKind::Paid };
    let balance = store.add_credit(&account, usd, kind, &reference).await?;
    Report::new(
        format!("{account} can spend ${}", balance.spendable),
        json!({ "account": account, "balance": balance }),
    )
}
