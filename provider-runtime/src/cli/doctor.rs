//! `lumbung-provider doctor`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::engine::EngineKind;
use super::limits::LimitArgs;
use super::model::ModelArgs;
use super::serve::GatewayArgs;
use crate::doctor::{EnginePatient, Level, Patient, Report, Ware, examine};

/// The same options as `serve`, as far as they matter here.
#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what was found. Exit code 1 if something prevents serving.
pub async fn run(args: DoctorArgs, tables: &[Vec<OsString>], data_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let models = args.model.with_tables(tables)?;
    let mut engines = Vec::new();
    for model in &models {
        let engine = &model.engine;
        engines.push(match engine.engine {
            EngineKind::Mistral => EnginePatient::Embedded(engine.model.clone()),
            EngineKind::Openai => EnginePatient::Sidecar(engine.sidecar().await.map(Box::new)),
            EngineKind::Scripted => EnginePatient::Script(engine.script().map(drop)),
        });
    }
    let ware = |model: &ModelArgs| {
        Some(Ware {
            model: model.engine.model_id().ok()?,
            ask: model.ask(),
            slots: model.engine.slots(),
            is_embedded: model.engine.engine == EngineKind::Mistral,
        })
    };
    let patient = Patient {
        data_dir,
        wares: models.iter().filter_map(ware).collect(),
        fits: args.limits.check_before(&models),
        gateway: (!args.gateway.gateway.is_empty()).then(|| args.gateway.open()),
        engines,
    };
    let report = examine(&patient).await;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print_for_people(&report),
    }
    Ok(if report.can_serve { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_for_people(report: &Report) {
    for finding in &report.findings {
        let mark = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        println!("{mark:8} {:10} {}", finding.check, finding.found);
        if !finding.advice.is_empty() {
            println!("{:19} → {}", "", finding.advice);
        }
    }
    match report.can_serve {
        true => println!("\nThis machine can serve."),
        false => println!("\nThis machine cannot serve yet."),
    }
}
