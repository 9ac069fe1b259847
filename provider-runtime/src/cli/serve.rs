//! `lumbung-provider serve`: puts the parts together. `life` has them run, and takes them apart in order.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lumbung_openapi::provider::is_name;
use lumbung_telemetry::otlp;
use tokio::sync::mpsc;

use super::engine::EngineKind;
use super::life::{Life, Place, StopSignals};
use super::limits::LimitArgs;
use super::model::ModelArgs;
use super::reload::{Reloading, Settings};
use super::when::WhenArgs;
use crate::gateway::{Gateway, GatewayAddress};
use crate::hardware::Hardware;
use crate::identity::Identity;
use crate::journal::{self, Journal};
use crate::node::{About, Node};
use crate::outlook::Outlook;
use crate::served::Served;
use crate::{control, data_dir, pace};

/// How to reach the gateway.
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// The gateway, as https://host[:port]. Several that share their books: one address of all of them, or each of them.
    #[arg(long, env = "LUMBUNG_PROVIDER_GATEWAY", value_name = "URL", value_delimiter = ',')]
    pub gateway: Vec<String>,
    /// Allow http:// to hosts other than this one.
    #[arg(long, env = "LUMBUNG_PROVIDER_INSECURE_HTTP")]
    pub insecure_http: bool,
    /// Authorities to trust beside the system's, as a PEM file.
    #[arg(long, env = "LUMBUNG_PROVIDER_GATEWAY_CA", value_name = "FILE")]
    pub gateway_ca: Option<PathBuf>,
}

impl GatewayArgs {
    /// The gateway and a client for it.
    pub fn open(&self) -> anyhow::Result<Gateway> {
        let addresses = self.gateway.iter().map(|url| GatewayAddress::parse(url.trim(), self.insecure_http));
        let mut addresses = addresses.collect::<anyhow::Result<Vec<_>>>()?.into_iter();
        let first = addresses.next().context("--gateway is missing: the gateway's address, https://host")?;
        Gateway::new(first, addresses.collect(), self.gateway_ca.as_deref())
    }
}

/// What is served to whom, and for how much.
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub gateway: GatewayArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub serving: ServingArgs,
}

/// How it is served.
#[derive(Args, Clone, Debug)]
pub struct ServingArgs {
    #[command(flatten)]
    pub when: WhenArgs,
    /// What clients may call this provider, instead of its id, once the operator trusts it. Several may have the same name.
    #[arg(long, env = "LUMBUNG_PROVIDER_NAME", default_value = "", value_parser = parse_name)]
    name: String,
    /// Where this machine is, such as eu-west; shown to clients.
    #[arg(long, env = "LUMBUNG_PROVIDER_REGION", default_value = "")]
    region: String,
    /// Tunnels to keep up, each to another gateway where several share their books: when one is lost, the next is there.
    #[arg(long, env = "LUMBUNG_PROVIDER_TUNNELS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    tunnels: u32,
    /// Where Prometheus asks for /metrics, such as 127.0.0.1:9464. Without it there is none.
    #[arg(long, env = "LUMBUNG_PROVIDER_METRICS_LISTEN", value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    /// Seconds that running jobs get to finish once told to stop.
    #[arg(long, env = "LUMBUNG_PROVIDER_DRAIN_SECS", default_value_t = 60)]
    pub drain_secs: u64,
    /// Take the place of the provider that uses the data directory, if one does: it goes on until this one is ready, then
    /// finishes what it has and ends. `lumbung-provider upgrade` starts the successor so.
    #[arg(long)]
    take_over: bool,
}

fn parse_name(text: &str) -> Result<String, &'static str> {
    match text.is_empty() || is_name(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("a name has 1 to 64 letters, digits, spaces, '.', '_' and '-', and begins with a letter or a digit")
        }
    }
}

/// Serves until told to stop; what the flags name, and what the configuration file's tables do.
pub async fn run(args: ServeArgs, tables: &[Vec<OsString>], data_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let ServeArgs { gateway, model, limits, serving: args } = args;
    limits.choose_gpus()?;
    let mut signals = StopSignals::new()?;
    data_dir::create(&data_dir)?;
    let place = Place::find(&data_dir, args.take_over)?;
    let identity = Arc::new(Identity::open(&data_dir)?);
    let gateway = Arc::new(gateway.open()?);
    let models = model.with_others(tables)?;
    let served = tokio::select! {
        served = load(&models, &limits) => served?,
        () = signals.told() => return Ok(ExitCode::SUCCESS),
    };
    let cannot = || format!("cannot open the journal in {}", data_dir.display());
    let own = journal::Own::find(&data_dir).with_context(cannot)?;
    let journal = Journal::open(&data_dir, own.name).with_context(cannot)?;
    for model in served.iter().filter(|served| is_tried(&models, &served.model)) {
        pace::measure_once(&data_dir, &model.model, &*model.engine, model.slot_count()).await;
    }
    let adopting = tokio::spawn(journal::adopt(journal.clone(), data_dir.clone(), own.name));

    let about = About { name: args.name.clone(), region: args.region.clone(), hardware: Hardware::detect().summary() };
    let node = Arc::new(Node::new(identity.id.clone(), gateway, journal, served, about));
    control::take_up_pause(&node, &data_dir);
    let kept = tokio::spawn(args.when.clone().keep(node.clone(), computes_all(&models))?);
    tracing::info!(
        provider = identity.id,
        gateway = node.gateway.address.origin(),
        models = ?node.models.list().iter().map(|served| (&served.model, served.slot_count())).collect::<Vec<_>>(),
        receipts = node.journal.backlog().len(),
        "serving"
    );
    let otlp = otlp::start("lumbung-provider", node.provider.clone()).context("cannot send to OpenTelemetry")?;
    let (telling, dir) = (node.clone(), data_dir.clone());
    let telling = tokio::spawn(async move { Outlook::tell_once_connected(&telling, &dir).await });
    let (reloads, asked) = mpsc::channel(1);
    let reloading = Reloading::new(node.clone(), Settings { models, limits, serving: args.clone() }, kept)?;
    let reloading = tokio::spawn(reloading.run(asked));
    let life = Life {
        node,
        identity,
        dir: data_dir,
        tunnels: args.tunnels as usize,
        drain: Duration::from_secs(args.drain_secs),
        metrics: args.metrics_listen,
        reloads,
    };
    let ended = life.live(place, signals).await;
    [reloading, telling, adopting].into_iter().for_each(|task| task.abort());
    otlp.stop().await;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Loads one model after the other, as far as there is room for them.
async fn load(models: &[ModelArgs], limits: &LimitArgs) -> anyhow::Result<Vec<Served>> {
    limits.check_before(models)?;
    let mut served = Vec::new();
    for model in models {
        served.push(load_one(model, limits).await?);
    }
    Ok(served)
}

/// Loads a model, if there is room for it.
pub async fn load_one(model: &ModelArgs, limits: &LimitArgs) -> anyhow::Result<Served> {
    let id = model.engine.model_id()?;
    let engine = model.engine.load().await.with_context(|| format!("cannot load the model '{id}'"))?;
    limits.check_after(&id)?;
    Ok(Served::new(id, model.ask(), engine, model.engine.slots()))
}

/// Whether an engine of this process' own answers for it: that is tried before there are jobs. A server beside it is not asked
/// unless somebody wants it to be.
fn is_tried(models: &[ModelArgs], id: &str) -> bool {
    let mut of_id = models.iter().filter(|model| model.engine.model_id().is_ok_and(|of_it| of_it == id));
    of_id.any(|model| model.engine.engine == EngineKind::Mistral && !model.engine.has_fault())
}

/// Whether no other process works for the jobs that run.
pub fn computes_all(models: &[ModelArgs]) -> bool {
    models.iter().all(|model| model.engine.engine != EngineKind::Openai)
}
