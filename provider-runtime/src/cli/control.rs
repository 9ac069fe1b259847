//! `lumbung-provider pause`, `resume`, `reload`, `upgrade` and `drain`: telling the provider that runs on this machine.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::control::client::Running;
use crate::control::{Reloaded, Request};
use crate::holds::Hold;
use crate::status::Status;

/// How often it is looked whether a provider has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Tells it, and prints what follows from that.
pub fn tell(data_dir: &Path, request: Request) -> anyhow::Result<ExitCode> {
    let status = running(data_dir)?.ask(request)?;
    let holds: Vec<&str> =
        status.holds.iter().filter(|hold| **hold != Hold::Paused).map(|hold| describe(*hold)).collect();
    match (request, holds.as_slice()) {
        (Request::Pause, _) => {
            println!("paused: no new jobs until `lumbung-provider resume`; {}", still_running(&status))
        }
        (_, []) => println!("takes jobs"),
        (_, others) => println!("not paused any more, but {}", others.join(", and ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Has it finish what runs, and end.
pub fn drain(data_dir: &Path, waits: bool) -> anyhow::Result<ExitCode> {
    let status = running(data_dir)?.ask(Request::Drain)?;
    println!("takes no new jobs, and ends when it can; {}", still_running(&status));
    if waits {
        while Running::find(data_dir)?.is_some() {
            std::thread::sleep(LOOK_EVERY);
        }
        println!("it has ended");
    }
    Ok(ExitCode::SUCCESS)
}

/// Has it read its settings again, and prints what follows from that. Exit code 1 if not everything could be done.
pub fn reload(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let Reloaded { added, removed, changed, hours, failed, left_out } = running(data_dir)?.reload()?;
    for (what, models) in [("removed", &removed), ("changed", &changed), ("added", &added)] {
        models.iter().for_each(|model| println!("{what:<8} {model}"));
    }
    if hours {
        println!("changed  when jobs are taken");
    }
    for setting in &left_out {
        println!("later    {setting}: `lumbung-provider upgrade`, or a restart, takes it up");
    }
    for (model, why) in &failed {
        eprintln!("lumbung-provider: {model} is not served: {why}");
    }
    if [added.len(), removed.len(), changed.len(), failed.len(), left_out.len()] == [0; 5] && !hours {
        println!("nothing has changed");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Has it start its successor, and waits until that has taken its place.
pub fn upgrade(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let mut running = running(data_dir)?;
    let before = running.ask(Request::Status { earnings: false })?;
    println!("version {} (process {}) goes on until its successor is ready", before.version, before.pid);
    let jobs = still_running(&running.wait_for(Request::Upgrade)?);
    let after = successor(data_dir, before.pid)?;
    println!("version {} (process {}) serves; in its predecessor {jobs}", after.version, after.pid);
    Ok(ExitCode::SUCCESS)
}

/// What the process says that listens after the one before, which has made way for it.
fn successor(data_dir: &Path, before: u32) -> anyhow::Result<Status> {
    for _ in 0..100 {
        if let Some(mut running) = Running::find(data_dir)? {
            let status = running.ask(Request::Status { earnings: false })?;
            if status.pid != before {
                return Ok(status);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    bail!("the successor was there and does not answer: see its log")
}

fn running(data_dir: &Path) -> anyhow::Result<Running> {
    let found = Running::find(data_dir)?;
    found.with_context(|| {
        format!("no provider runs with the data directory {}; is --data-dir right?", data_dir.display())
    })
}

fn still_running(status: &Status) -> String {
    match status.models.values().map(|model| model.running).sum() {
        0u32 => "nothing runs".to_owned(),
        1 => "1 job still runs, and is finished".to_owned(),
        jobs => format!("{jobs} jobs still run, and are finished"),
    }
}

/// For people, as the end of a sentence.
pub fn describe(hold: Hold) -> &'static str {
    match hold {
        Hold::Paused => "paused by its owner",
        Hold::OutOfHours => "outside its hours",
        Hold::MachineInUse => "the machine is in use",
        Hold::Draining => "finishing what runs, to end then",
    }
}
