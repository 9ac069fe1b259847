//! `lumbung-provider status`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::data_dir;
use crate::status::{STATUS_FILE, StatusFile};

/// Prints the status file. Exit code 1 if the process that wrote it is gone.
pub fn print(data_dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let file = StatusFile::read(data_dir)
        .with_context(|| format!("cannot read {}; has a provider run here?", data_dir.join(STATUS_FILE).display()))?;
    let is_running = data_dir::is_used(data_dir);
    match json {
        true => println!("{}", serde_json::to_string_pretty(&file)?),
        false => print_for_people(&file, is_running),
    }
    Ok(if is_running { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_for_people(file: &StatusFile, is_running: bool) {
    let status = &file.status;
    let state = match (is_running, status.connected.as_slice(), status.draining) {
        (false, ..) => "not running".to_owned(),
        (true, _, true) => "finishing what runs".to_owned(),
        (true, [], false) => "not connected".to_owned(),
        (true, replicas, false) => format!("connected to {}", replicas.join(", ")),
    };
    println!("provider   {}", status.provider);
    println!("gateway    {}", status.gateway);
    println!("state      {state}");
    for (model, of_model) in &status.models {
        println!("model      {model}: {} of {} slots taken", of_model.running, of_model.slots);
    }
    let jobs = &status.jobs;
    println!(
        "jobs       {} begun, {} complete, {} cancelled, {} failed, {} refused",
        jobs.started, jobs.finished, jobs.cancelled, jobs.failed, jobs.refused
    );
    println!("tokens     {} generated", status.completion_tokens);
    println!("receipts   {} not acknowledged", status.receipts_unacknowledged);
}
