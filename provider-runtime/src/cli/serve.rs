//! `lumbung-provider serve`: puts the parts together, and takes them apart in order.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use lumbung_telemetry::otlp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::EngineKind;
use super::limits::LimitArgs;
use super::model::ModelArgs;
use super::when::WhenArgs;
use crate::control::{Control, Listening, Told};
use crate::gateway::{Gateway, GatewayAddress};
use crate::hardware::Hardware;
use crate::identity::Identity;
use crate::journal::Journal;
use crate::node::{Node, Served};
use crate::sign::Offering;
use crate::{data_dir, observe, status, tunnel};

/// How long jobs that were cut off may take to end, and the last receipts to be offered.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(2);
const LAST_OFFER_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub serving: ServingArgs,
}

/// How it is served.
#[derive(Args)]
pub struct ServingArgs {
    #[command(flatten)]
    when: WhenArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
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
    drain_secs: u64,
}

/// Serves until told to stop; what the flags name, and what the configuration file's tables do.
pub async fn run(args: ServeArgs, tables: &[Vec<OsString>], data_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let ServeArgs { gateway, model, serving: args } = args;
    args.limits.choose_gpus()?;
    let mut signals = StopSignals::new()?;
    data_dir::create(&data_dir)?;
    let _lock = data_dir::lock(&data_dir)?;
    let identity = Arc::new(Identity::open(&data_dir)?);
    let gateway = Arc::new(gateway.open()?);
    let models = model.with_others(tables)?;
    let served = tokio::select! {
        served = load(&models, &args.limits) => served?,
        () = signals.told() => return Ok(ExitCode::SUCCESS),
    };
    let journal =
        Journal::open(&data_dir).with_context(|| format!("cannot open the journal in {}", data_dir.display()))?;

    let hardware = Hardware::detect().summary();
    let node = Arc::new(Node::new(identity.id.clone(), gateway, journal, served, args.region.clone(), hardware));
    let computes_all = models.iter().all(|model| model.engine.engine != EngineKind::Openai);
    let kept = tokio::spawn(args.when.clone().keep(node.clone(), computes_all)?);
    tracing::info!(
        provider = identity.id,
        gateway = node.gateway.address.origin(),
        models = ?node.models().iter().map(|served| (&served.model, served.slot_count())).collect::<Vec<_>>(),
        receipts = node.journal.backlog().len(),
        "serving"
    );
    let otlp = otlp::start("lumbung-provider", node.provider.clone()).context("cannot send to OpenTelemetry")?;
    let scraped = match args.metrics_listen {
        Some(address) => Some(tokio::spawn(observe::serve(address, node.clone()).await?)),
        None => None,
    };
    let served = serve_until_told(&args, node, identity, &data_dir, signals).await;
    scraped.into_iter().chain([kept]).for_each(|task| task.abort());
    otlp.stop().await;
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Loads one model after the other, as far as there is room for them.
async fn load(models: &[ModelArgs], limits: &LimitArgs) -> anyhow::Result<Vec<Served>> {
    limits.check_before(models)?;
    let mut served = Vec::new();
    for model in models {
        let id = model.engine.model_id()?;
        let engine = model.engine.load().await.with_context(|| format!("cannot load the model '{id}'"))?;
        limits.check_after(&id)?;
        served.push(Served::new(id, model.ask(), engine, model.engine.slots()));
    }
    Ok(served)
}

async fn serve_until_told(
    args: &ServingArgs,
    node: Arc<Node>,
    identity: Arc<Identity>,
    dir: &Path,
    mut signals: StopSignals,
) -> anyhow::Result<()> {
    let (stop_tunnels, stop_status) = (CancellationToken::new(), CancellationToken::new());
    let (told, mut control_tells) = mpsc::channel(4);
    let listening = Listening::start(dir)?;
    let control = Arc::new(Control::new(node.clone(), identity.clone(), dir, told));
    let controlled = tokio::spawn(async move { listening.serve(control).await });
    let status = tokio::spawn({
        let (node, dir, stop) = (node.clone(), dir.to_owned(), stop_status.clone());
        async move { status::keep_written(&node, &dir, stop).await }
    });
    let mut tunnels = JoinSet::new();
    let most = args.tunnels as usize;
    for number in 0..most {
        tunnels.spawn(tunnel::keep_up(node.clone(), identity.clone(), number, most, stop_tunnels.clone()));
    }
    let mut offering = Offering::new(node.gateway.clone(), identity, node.journal.clone());
    tokio::select! {
        () = signals.told() => {}
        told = control_tells.recv() => if let Some(Told::Drain) = told {
            tracing::info!("told to finish what runs and end");
        },
        () = offering.run() => {}
    }

    let ended = async {
        node.drain();
        tracing::info!(limit_s = args.drain_secs, "stopping: finishing what runs");
        tokio::select! {
            idle = node.idle_within(Duration::from_secs(args.drain_secs)) => {
                if !idle {
                    tracing::warn!("jobs still run at the end of the time to finish; cutting them off");
                }
            }
            () = offering.run() => {}
        }
        stop_tunnels.cancel();
        tunnels.join_all().await;
        node.idle_within(CUT_OFF_TIMEOUT).await;
        node.journal.unreserved_within(CUT_OFF_TIMEOUT).await;
        node.journal.synced().await;
        let _ = tokio::time::timeout(LAST_OFFER_TIMEOUT, offering.run_out()).await;
        node.journal.synced().await;
        stop_status.cancel();
        let _ = status.await;
        controlled.abort();
        let _ = controlled.await;
    };
    tokio::select! {
        () = ended => {}
        () = signals.told() => bail!("told to stop a second time: jobs were cut off"),
    }
    tracing::info!(receipts = node.journal.backlog().len(), "stopped");
    Ok(())
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
