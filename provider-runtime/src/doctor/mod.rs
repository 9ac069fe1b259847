//! `lumbung-provider doctor`: what this machine has, what stands in the way of serving, and what to do about it.

mod expectation;
mod gateway;
mod gguf;
mod gpu;
mod machine;
mod model;

use std::path::{Path, PathBuf};

pub use expectation::Ware;
pub use model::weight_bytes;
use serde::Serialize;

use crate::engine::openai::OpenAiEngine;
use crate::hardware::Hardware;

/// Whether this program computes on NVIDIA GPUs.
const HAS_CUDA: bool = cfg!(feature = "cuda");

/// What is to be looked at.
pub struct Patient {
    /// Where identity and receipts are to be kept.
    pub data_dir: PathBuf,
    /// The gateway, or why its address cannot be used; `None` if none was named.
    pub gateway: Option<anyhow::Result<crate::gateway::Gateway>>,
    /// What is to answer: each of the models.
    pub engines: Vec<EnginePatient>,
    /// What is to be served: each of the models that have a name.
    pub wares: Vec<Ware>,
    /// How much memory may be taken, if it was said.
    pub fits: anyhow::Result<()>,
}

/// What is to answer.
pub enum EnginePatient {
    /// The embedded engine with this model; `None` if none was named.
    Embedded(Option<String>),
    /// A server beside this process, or why it cannot be asked.
    Sidecar(anyhow::Result<Box<OpenAiEngine>>),
    /// A script, or why it cannot be read.
    Script(anyhow::Result<()>),
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Serving works, though not as well as it could.
    Warning,
    /// Serving does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), advice: String::new() }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), advice: advice.into() }
    }

    fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Problem, found: found.into(), advice: advice.into() }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether a provider could serve.
    pub can_serve: bool,
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
}

/// Looks at everything.
pub async fn examine(patient: &Patient) -> Report {
    let hardware = Hardware::detect();
    let is_embedded = patient.engines.iter().any(|engine| matches!(engine, EnginePatient::Embedded(_)));
    let used = match (is_embedded, HAS_CUDA) {
        (true, true) => gpu::Use::Here,
        (true, false) => gpu::Use::Unused,
        (false, _) => gpu::Use::Beside,
    };
    let gpus = gpu::Told::ask();
    let mut findings = machine::examine(&hardware, is_embedded);
    findings.extend(gpu::examine(&hardware, &gpus, used));
    findings.push(machine::examine_data_dir(&patient.data_dir));
    if cfg!(not(feature = "mistral")) && is_embedded {
        let advice = "build with the feature `mistral` (on by default), or use --engine openai";
        findings.push(Finding::problem("engine", "this build has no embedded engine", advice));
    }
    for engine in &patient.engines {
        match engine {
            EnginePatient::Embedded(named) => {
                let on_gpu = |weights| if HAS_CUDA { gpu::fits(&gpus, weights) } else { None };
                findings.extend(model::examine(named.as_deref(), &hardware, on_gpu));
            }
            EnginePatient::Sidecar(engine) => findings.push(model::examine_sidecar(engine).await),
            EnginePatient::Script(Ok(())) => findings.push(Finding::ok("model", "a script")),
            EnginePatient::Script(Err(error)) => {
                findings.push(Finding::problem("model", format!("{error:#}"), "correct the script"));
            }
        }
    }
    if let Err(error) = &patient.fits {
        let advice = "raise --max-memory, or take a smaller model or quantization";
        findings.push(Finding::problem("memory", format!("{error:#}"), advice));
    }
    let of_gateway = gateway::examine(patient.gateway.as_ref()).await;
    let is_reached = of_gateway.iter().all(|finding| finding.level != Level::Problem);
    findings.extend(of_gateway);
    if let Some(Ok(gateway)) = patient.gateway.as_ref().filter(|_| is_reached) {
        findings.extend(expectation::examine(gateway, &patient.wares, &patient.data_dir).await);
    }
    Report { can_serve: findings.iter().all(|finding| finding.level != Level::Problem), findings }
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes < 1 << 30 {
        true => format!("{} MiB", bytes.div_ceil(1 << 20)),
        false => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
    }
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}
