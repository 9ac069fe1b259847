//! `usage`.

use clap::Subcommand;

use super::Report;
use super::table::table;
use crate::domain::calendar::Day;
use crate::domain::ids::{AccountId, KeyId, ModelId, ProviderId};
use crate::store::{Store, UsageBy, UsageLine, UsageQuestion, usage_csv};

/// `usage …`
#[derive(Debug, Subcommand)]
pub enum Usage {
    /// What was used, by whatever is to be told apart.
    Show {
        /// Tell apart by these: account, key, model, provider, day. One line for all of it where none is given.
        #[arg(long, value_delimiter = ',')]
        by: Vec<UsageBy>,
        /// From this day on, UTC: `2026-11-01`.
        #[arg(long)]
        from: Option<Day>,
        /// Up to this day, which is not included.
        #[arg(long)]
        until: Option<Day>,
        /// Only this account's: `acct_…`.
        #[arg(long)]
        account: Option<AccountId>,
        /// Only with this key: `key_…`.
        #[arg(long)]
        key: Option<KeyId>,
        /// Only of this model.
        #[arg(long)]
        model: Option<ModelId>,
        /// Only at this provider.
        #[arg(long)]
        provider: Option<ProviderId>,
        /// Print CSV.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
}

pub(super) async fn run(action: Usage, store: &Store) -> anyhow::Result<Report> {
    let Usage::Show { by, from, until, account, key, model, provider, csv } = action;
    let mut question = UsageQuestion { by, from, until, account, key, model, provider, ..Default::default() };
    let mut lines = Vec::new();
    loop {
        let page = store.usage(&question).await?;
        lines.extend(page.lines);
        question.after = page.next;
        if question.after.is_none() {
            break;
        }
    }
    let text = if csv { usage_csv(&lines).trim_end().to_owned() } else { plain(&lines) };
    Report::new(text, lines)
}

fn plain(lines: &[UsageLine]) -> String {
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "all".into());
    let row = |line: &UsageLine| {
        [
            shown(&line.account),
            shown(&line.key),
            shown(&line.model),
            shown(&line.provider),
            line.day.map_or_else(|| "all".into(), |day| day.to_string()),
            line.used.requests.to_string(),
            line.used.prompt_tokens.to_string(),
            line.used.completion_tokens.to_string(),
            format!("${}", line.used.charge),
            format!("${}", line.used.fee),
        ]
    };
    let head = ["ACCOUNT", "KEY", "MODEL", "PROVIDER", "DAY", "REQUESTS", "PROMPT", "COMPLETION", "CHARGE", "FEE"];
    table(head, lines.iter().map(row).collect())
}
