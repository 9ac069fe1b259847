//! `lumbung-provider earnings` and `lumbung-provider payout-details`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use lumbung_openapi::earnings::{EarningState, EarningsLine, EarningsStatement, PromotionalLine, PromotionalState};
use lumbung_openapi::money::NanoUsd;

use super::serve::GatewayArgs;
use crate::earnings;
use crate::identity::{Identity, KEY_FILE};

/// What is asked.
#[derive(Args)]
pub struct EarningsArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Only jobs settled since that day (UTC), as 2026-11-25.
    #[arg(long, value_name = "DAY", value_parser = day)]
    since: Option<u64>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Where this provider is paid to.
#[derive(Subcommand)]
pub enum PayoutDetails {
    /// Set it. Nothing is paid for some days after a change, so that a thief of the key gains nothing at once.
    Set {
        #[command(flatten)]
        gateway: GatewayArgs,
        /// In your own words, one line: an IBAN, a wallet.
        details: String,
    },
}

/// Prints the statement.
pub async fn run(args: EarningsArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let (identity, gateway) = (existing(data_dir)?, args.gateway.open()?);
    let statement = earnings::statement(&gateway, &identity.key, args.since.unwrap_or(0)).await?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&statement)?),
        false => println!("{}", for_people(&statement)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says where to pay.
pub async fn payout_details(action: PayoutDetails, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let PayoutDetails::Set { gateway, details } = action;
    let (identity, gateway) = (existing(data_dir)?, gateway.open()?);
    let set = earnings::set_payout_details(&gateway, &identity.key, &details).await?;
    println!("payout details, version {}: used from {} UTC on", set.version, time(set.used_from));
    Ok(ExitCode::SUCCESS)
}

/// A key made now would have earned nothing.
fn existing(data_dir: &Path) -> anyhow::Result<Identity> {
    if !data_dir.join(KEY_FILE).exists() {
        bail!("there is no identity in {}; is --data-dir right?", data_dir.display());
    }
    Identity::open(data_dir)
}

fn for_people(statement: &EarningsStatement) -> String {
    let mut text = String::new();
    let mut rows =
        vec![["SETTLED", "JOB", "MODEL", "IN", "OUT", "CHARGED", "FEE", "SHARE", "STATE"].map(str::to_owned)];
    rows.extend(statement.data.iter().map(|line| {
        [
            time(line.settled_at),
            format!("{}/{}", line.job, line.attempt),
            line.model.clone(),
            line.prompt_tokens.to_string(),
            line.completion_tokens.to_string(),
            format!("${}", line.gross),
            format!("${}", line.fee),
            format!("${}", line.share),
            explained(line),
        ]
    }));
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            match column + 1 == row.len() {
                true => text.push_str(cell),
                false => text.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.push('\n');
    }
    for payout in &statement.payouts {
        let reference = if payout.reference.is_empty() { String::new() } else { format!(" ({})", payout.reference) };
        let (at, amount) = (time(payout.created_at), payout.amount);
        text.push_str(&format!(
            "\npayout {} of {at}: ${amount} {}{reference}",
            payout.id,
            payout.state.replace('_', " ")
        ));
    }
    text.push_str(&totals(statement));
    text
}

fn totals(statement: &EarningsStatement) -> String {
    let totals = &statement.totals;
    let mut lines = vec![
        ("earned, all in all", totals.earned),
        ("  pending", totals.pending),
        ("  payable", totals.payable),
        ("  on its way", totals.in_transit),
        ("  paid out", totals.paid),
    ];
    let rare = [
        ("  promotional, undecided", totals.promotional),
        ("  promotional, refused", totals.refused),
        ("  withheld: no signed receipt", totals.withheld),
        ("  clawed back", totals.clawed_back),
    ];
    lines.extend(rare.into_iter().filter(|(_, amount)| *amount != NanoUsd::ZERO));
    let mut text: String = lines.iter().map(|(what, amount)| format!("\n{what:<30} ${amount}")).collect();
    text.push_str(&match &statement.payout_details {
        Some(details) => format!("\n\npaid to: payout details, version {}", details.version),
        None => "\n\nnot paid until it is known where to: lumbung-provider payout-details set".to_owned(),
    });
    text
}

/// Where the share is, and why it is less than it was.
fn explained(line: &EarningsLine) -> String {
    let mut text = match line.state {
        EarningState::AwaitingReceipt => {
            format!("pending; its receipt must come by {}", line.receipt_by.map_or_else(String::new, time))
        }
        EarningState::Pending => format!("pending until {}", line.payable_from.map_or_else(String::new, time)),
        EarningState::Payable => "payable".to_owned(),
        EarningState::InTransit => format!("on its way in {}", line.payout.as_deref().unwrap_or_default()),
        EarningState::Paid => format!("paid in {}", line.payout.as_deref().unwrap_or_default()),
        EarningState::Withheld => {
            format!("withheld: no signed receipt came by {}", line.receipt_by.map_or_else(String::new, time))
        }
    };
    if let Some(before) = line.corrected_from {
        text.push_str(&format!("; corrected from ${before} to ${}: your receipt claims less", line.share));
    }
    for clawback in &line.clawbacks {
        text.push_str(&format!("; ${} clawed back: {} ({})", clawback.amount, clawback.reason, clawback.id));
    }
    if let Some(promotional) = &line.promotional {
        text.push_str(&explained_promotional(promotional));
    }
    text
}

fn explained_promotional(promotional: &PromotionalLine) -> String {
    let PromotionalLine { share, state, reason, payout } = promotional;
    let payout = payout.as_deref().unwrap_or_default();
    let state = match state {
        PromotionalState::Held => "waits for the operator's decision".to_owned(),
        PromotionalState::Payable => "approved, payable".to_owned(),
        PromotionalState::InTransit => format!("approved, on its way in {payout}"),
        PromotionalState::Paid => format!("approved, paid in {payout}"),
        PromotionalState::Refused => "refused".to_owned(),
        PromotionalState::Withheld => "withheld with the rest".to_owned(),
    };
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("; ${share} paid for with promotional credit {state}{reason}")
}

/// Midnight UTC of a day, Unix seconds.
fn day(text: &str) -> Result<u64, String> {
    let expected = || "expected a day, as 2026-11-25".to_owned();
    let parts: Vec<u64> =
        text.split('-').map(|part| part.parse().map_err(|_| expected())).collect::<Result<_, String>>()?;
    let [year, month, day] = parts[..] else { return Err(expected()) };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(expected());
    }
    // H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    Ok((era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468) * 86_400)
}

/// `2026-11-25 16:30`, UTC.
pub(super) fn time(secs: u64) -> String {
    let (days, minutes) = (secs / 86_400 + 719_468, secs % 86_400 / 60);
    // The same, civil_from_days.
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02} {:02}:{:02}", era * 400 + year + next, minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_printed() {
        for (text, secs) in [("1970-01-01", 0), ("2000-02-29", 951_782_400), ("2026-11-25", 1_795_564_800)] {
            assert_eq!(day(text), Ok(secs));
            assert_eq!(time(secs), format!("{text} 00:00"));
        }
        for wrong in ["", "yesterday", "2026-13-01", "2026-11", "1969-12-31"] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }
}
