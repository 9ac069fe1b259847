//! `lumbung-provider status`: what a provider on this machine does, as it changes.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lumbung_openapi::earnings::EarningsTotals;
use lumbung_openapi::money::NanoUsd;

use super::control::describe;
use super::earnings::time;
use crate::clock::local_secs;
use crate::control::Request;
use crate::control::client::Running;
use crate::data_dir;
use crate::outlook::Outlook;
use crate::prospect::rounded;
use crate::status::{Earnings, ModelStatus, STATUS_FILE, Status, StatusFile};

/// How often a terminal's page is written anew.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Back to the top of a terminal, and what was below the page away.
const TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_REST: &str = "\x1b[J";

/// How it is shown.
#[derive(Args)]
pub struct StatusArgs {
    /// As JSON, once.
    #[arg(long)]
    json: bool,
    /// Once, also on a terminal. Elsewhere it always is.
    #[arg(long)]
    once: bool,
    /// What is known on this machine: the gateway is not asked for earnings. For health checks.
    #[arg(long)]
    local: bool,
}

/// Prints it. Exit code 1 if no provider runs.
pub fn show(args: &StatusArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let request = Request::Status { earnings: !args.local };
    let Some(mut running) = Running::find(data_dir)? else { return show_last(args, data_dir) };
    let status = running.ask(request)?;
    if args.json {
        let told = StatusFile { status, written_at: local_secs() };
        println!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(ExitCode::SUCCESS);
    }
    if args.once || !io::stdout().is_terminal() {
        print!("{}", for_people(&status, true));
        return Ok(ExitCode::SUCCESS);
    }
    show_live(running, status, request)
}

/// What the last one left.
fn show_last(args: &StatusArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let file = StatusFile::read(data_dir)
        .with_context(|| format!("cannot read {}; has a provider run here?", data_dir.join(STATUS_FILE).display()))?;
    let is_running = data_dir::is_used(data_dir); // one that has just started does not listen yet
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&file)?),
        false => print!("{}", for_people(&file.status, is_running)),
    }
    Ok(if is_running { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Until the provider ends, or whoever looks at it has seen enough (Ctrl-C).
fn show_live(mut running: Running, mut status: Status, request: Request) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    write!(out, "\x1b[2J")?;
    loop {
        let page = for_people(&status, true).replace('\n', CLEAR_LINE);
        write!(out, "{TOP}{page}{CLEAR_LINE}Ctrl-C leaves this page; the provider goes on.{CLEAR_REST}")?;
        out.flush()?;
        std::thread::sleep(REFRESH_EVERY);
        status = match running.ask(request) {
            Ok(status) => status,
            Err(error) => {
                writeln!(out, "\n{error:#}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
    }
}

fn for_people(status: &Status, is_running: bool) -> String {
    let mut page = String::new();
    let mut line = |what: &str, said: String| {
        let _ = writeln!(page, "{what:<10} {said}");
    };
    let standing = if status.standing.is_empty() { String::new() } else { format!(" ({})", status.standing) };
    line("provider", format!("{}{standing}", status.provider));
    line("gateway", status.gateway.clone());
    line("state", state(status, is_running));
    line("since", format!("{} UTC, version {}, process {}", time(status.started_at), status.version, status.pid));
    for (model, of_model) in &status.models {
        line("model", format!("{model}: {}", of_one(of_model)));
    }
    let jobs = &status.jobs;
    line(
        "jobs",
        format!(
            "{} begun, {} complete, {} cancelled, {} failed, {} refused",
            jobs.started, jobs.finished, jobs.cancelled, jobs.failed, jobs.refused
        ),
    );
    line("tokens", format!("{} read, {} generated", status.prompt_tokens, status.completion_tokens));
    line("last hour", format!("${} claimed", status.claimed_last_hour));
    match &status.earnings {
        Some(Earnings::Totals(totals)) => line("earned", earned(totals)),
        Some(Earnings::Unknown(why)) => line("earned", format!("not known: {why}")),
        None => {}
    }
    line("receipts", format!("{} not acknowledged", status.receipts_unacknowledged));
    page
}

fn state(status: &Status, is_running: bool) -> String {
    if !is_running {
        return "not running".to_owned();
    }
    let link = match status.connected.as_slice() {
        [] => "not connected".to_owned(),
        replicas => format!("connected to {}", replicas.join(", ")),
    };
    match status.holds.as_slice() {
        [] => link,
        holds => {
            let holds: Vec<&str> = holds.iter().map(|hold| describe(*hold)).collect();
            format!("no new jobs: {}; {link}", holds.join(", and "))
        }
    }
}

fn of_one(model: &ModelStatus) -> String {
    let ModelStatus { running, slots, ask, jobs, completion_tokens, claimed, per_busy_hour, outlook } = model;
    let ask = format!("asks ${} in, ${} out per million", ask.prompt, ask.completion);
    let mut text =
        format!("{running} of {slots} slots taken; {jobs} jobs, {completion_tokens} tokens, ${claimed}; {ask}");
    match (outlook, per_busy_hour) {
        (Some(Outlook::Nothing(why)), _) => drop(write!(text, "; NO JOBS COME: {why}")),
        (Some(Outlook::Expected(prospect)), _) => drop(write!(text, "; {}", prospect.for_people())),
        (None, Some(hour)) => drop(write!(text, "; up to ${} an hour with every slot taken", rounded(*hour))),
        (None, None) => {}
    }
    text
}

fn earned(totals: &EarningsTotals) -> String {
    let parts = [
        ("pending", totals.pending),
        ("payable", totals.payable),
        ("on its way", totals.in_transit),
        ("paid", totals.paid),
        ("promotional", totals.promotional),
        ("withheld", totals.withheld),
        ("clawed back", totals.clawed_back),
        ("refused", totals.refused),
    ];
    let parts = parts.into_iter().filter(|(_, amount)| *amount != NanoUsd::ZERO);
    let parts: Vec<String> = parts.map(|(what, amount)| format!("${amount} {what}")).collect();
    match parts.is_empty() {
        true => format!("${} by the gateway's books", totals.earned),
        false => format!("${} by the gateway's books: {}", totals.earned, parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holds::Hold;

    fn usd(text: &str) -> NanoUsd {
        text.parse().unwrap()
    }

    #[test]
    fn a_page_says_what_is_held_back_and_what_was_earned() {
        let mut status = Status { provider: "abc".into(), standing: "trusted".into(), ..Status::default() };
        status.connected = vec!["replica-1".into()];
        let model = ModelStatus {
            slots: 4,
            claimed: usd("0.5"),
            per_busy_hour: Some(usd("1.234567891")),
            ..ModelStatus::default()
        };
        status.models.insert("a/b".into(), model);
        let page = for_people(&status, true);
        assert!(page.contains("abc (trusted)") && page.contains("connected to replica-1"), "{page}");
        assert!(page.contains("up to $1.2345 an hour") && page.contains("0 of 4 slots taken"), "{page}");
        status.holds = vec![Hold::Paused, Hold::OutOfHours];
        let totals =
            EarningsTotals { earned: usd("3"), pending: usd("1"), paid: usd("2"), ..EarningsTotals::default() };
        status.earnings = Some(Earnings::Totals(totals));
        let page = for_people(&status, true);
        assert!(page.contains("no new jobs: paused by its owner, and outside its hours; connected"), "{page}");
        assert!(page.contains("$3 by the gateway's books: $1 pending, $2 paid\n"), "{page}");
        assert!(for_people(&status, false).contains("not running"));
    }
}
