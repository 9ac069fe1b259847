//! How the CPU time of a request grows: with the prompt, with providers, with accounts, with replicas and the hop between
//! them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::ask::Mix;
use crate::client::{Connection, Outcome, Target};
use crate::load::{self, Arrivals, Plan};
use crate::network::{Network, Setup};
use crate::process;
use crate::servers::Server;
use crate::stub::Trade;
use crate::tally::Live;
use crate::tunnels::Tunnels;

const CONNECTIONS: usize = 8;

/// How far.
#[derive(Args, Clone, Debug)]
pub struct ScaleArgs {
    /// Lengths of prompts, in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20])]
    pub prompts: Vec<usize>,
    /// Providers that serve the model, in ascending order; each is a process.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    pub providers: Vec<usize>,
    /// Providers beyond those: tunnels of this program's own, without a process for each. In ascending order.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
    pub stubs: Vec<usize>,
    /// Accounts that ask in turn, in ascending order.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 100_000])]
    pub accounts: Vec<usize>,
    /// Gateways on the same books, in ascending order; only the last is asked, and the provider is at the first. Needs a
    /// database and Redis.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    pub replicas: Vec<usize>,
    /// Requests per second.
    #[arg(long, default_value_t = 400.0)]
    pub rate: f64,
    /// How long each load counts.
    #[arg(long, default_value_t = 6.0)]
    pub seconds: f64,
    /// Seconds in which a gateway with tunnels is left alone, and as many again in which it is watched, before anybody asks.
    #[arg(long, default_value_t = 10.0)]
    pub rest: f64,
    /// An empty Postgres database for what needs one.
    #[arg(long, env = "LUMBUNG_TEST_POSTGRES", hide_env_values = true)]
    pub database: Option<String>,
    /// A Redis for the same.
    #[arg(long, env = "LUMBUNG_TEST_REDIS", hide_env_values = true)]
    pub redis: Option<String>,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
}

/// One load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What there was.
    pub what: String,
    /// CPU of all gateways together, in microseconds for each request.
    pub us_per_request: f64,
    /// Median of the whole answer, in milliseconds.
    pub p50_ms: f64,
    /// One in a hundred took longer.
    pub p99_ms: f64,
    /// Memory of all gateways together at the end, in MiB.
    pub rss_mib: f64,
}

/// Measures and prints.
pub async fn run(args: &ScaleArgs) -> anyhow::Result<()> {
    print!("{}", markdown(&scale(args).await?));
    Ok(())
}

/// Measures.
pub async fn scale(args: &ScaleArgs) -> anyhow::Result<Vec<Row>> {
    let setup = Setup::new(args.bin.as_deref())?;
    let mut rows = prompts(args, &setup).await?;
    rows.extend(providers(args, &setup).await?);
    rows.extend(stubs(args, &setup).await?);
    rows.extend(accounts(args, &setup).await?);
    if let (Some(database), Some(redis)) = (&args.database, &args.redis) {
        let shared = Setup { database: Some(database.clone()), redis: Some(redis.clone()), ..setup };
        rows.extend(replicas(args, &shared).await?);
    } else {
        eprintln!("replicas are left out: they need --database and --redis");
    }
    Ok(rows)
}

/// A table.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = "| | CPU per request, µs | p50, ms | p99, ms | memory, MiB |\n|---|---|---|---|---|\n".to_owned();
    for Row { what, us_per_request, p50_ms, p99_ms, rss_mib } in rows {
        text += &format!("| {what} | {us_per_request:.0} | {p50_ms:.2} | {p99_ms:.2} | {rss_mib:.0} |\n");
    }
    text
}

async fn prompts(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    if args.prompts.is_empty() {
        return Ok(Vec::new());
    }
    let network = setup.clone().start()?;
    let mut rows = Vec::new();
    for bytes in &args.prompts {
        // About 40 MB of prompts a second at most.
        let rate = args.rate.min(40e6 / *bytes as f64);
        let what = format!("prompt of {} KiB", bytes >> 10);
        network.gateway.wait_until_quiet().await?;
        rows.push(measure(args, &what, network.target()?, *bytes, rate, &[&network.gateway]).await?);
    }
    network.check_books()?;
    Ok(rows)
}

async fn providers(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    if args.providers.is_empty() {
        return Ok(Vec::new());
    }
    let mut network = Setup { slots: 64, ..setup.clone() }.start()?;
    let mut rows = Vec::new();
    for count in &args.providers {
        while network.provider_count() < *count {
            network.add_provider()?;
        }
        let what = format!("{count} providers");
        network.gateway.wait_until_quiet().await?;
        rows.push(measure(args, &what, network.target()?, 1024, args.rate, &[&network.gateway]).await?);
    }
    network.check_books()?;
    Ok(rows)
}

/// The same with providers that have no process; what their polls take without a request is taken off and told.
async fn stubs(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    if args.stubs.is_empty() {
        return Ok(Vec::new());
    }
    let rest = Duration::try_from_secs_f64(args.rest)?;
    let network = Setup { providers: 0, ..setup.clone() }.start()?;
    let mut tunnels = Tunnels::new(network.port, Trade::Answers)?;
    let mut rows = Vec::new();
    for count in &args.stubs {
        eprintln!("{count} providers without processes");
        tunnels.open(*count).await?;
        tokio::time::sleep(rest).await;
        network.is_served_at(&network.gateway, network.port)?;
        let before = process::used_by(network.gateway.pid())?.cpu;
        tokio::time::sleep(rest).await;
        let spent = process::used_by(network.gateway.pid())?.cpu.saturating_sub(before);
        let cores = spent.as_secs_f64() / args.rest;
        let mut row = measure(args, "", network.target()?, 1024, args.rate, &[&network.gateway]).await?;
        row.us_per_request -= cores * 1e6 / args.rate;
        row.what =
            format!("{count} providers without processes; {:.1} % of a core for polling them taken off", 100.0 * cores);
        rows.push(row);
        let open = tunnels.count();
        ensure!(open == *count, "{open} of {count} tunnels are left");
    }
    network.check_books()?;
    Ok(rows)
}

async fn accounts(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    if args.accounts.is_empty() {
        return Ok(Vec::new());
    }
    let network = setup.clone().start()?;
    let (mut rows, mut keys) = (Vec::new(), Vec::new());
    for count in &args.accounts {
        keys.extend(network.add_accounts(count.saturating_sub(keys.len())).await?);
        rows.push(in_turn(args, &network, &keys).await?);
    }
    network.check_books()?;
    Ok(rows)
}

/// Each account asks in turn, over the same connection.
async fn in_turn(args: &ScaleArgs, network: &Network, keys: &[String]) -> anyhow::Result<Row> {
    eprintln!("{} accounts", keys.len());
    let targets: Arc<[Target]> = keys.iter().map(|key| network.target_for(key)).collect::<anyhow::Result<_>>()?;
    // Once round first, so that every key is known.
    let mut asking = JoinSet::new();
    for part in 0..CONNECTIONS {
        asking.spawn(ask_each(targets.clone(), part, CONNECTIONS));
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    network.gateway.wait_until_quiet().await?;
    let ask = Network::wording().ask(false, 1024);
    let (mut connection, live) = (Connection::open(&targets[0], ask.reader).await?, Live::new()?);
    let mut times = hdrhistogram::Histogram::<u64>::new(3)?;
    let count = ((args.rate * args.seconds) as usize).max(keys.len());
    let before = process::used_by(network.gateway.pid())?.cpu;
    for target in targets.iter().cycle().take(count) {
        let begun = Instant::now();
        let outcome = connection.ask(target, &ask, &live).await?;
        ensure!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
        times.saturating_record(begun.elapsed().as_micros() as u64);
    }
    let after = process::used_by(network.gateway.pid())?;
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Row {
        what: format!("{} accounts, one connection", keys.len()),
        us_per_request: after.cpu.saturating_sub(before).as_secs_f64() * 1e6 / count as f64,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        rss_mib: mib(after.rss),
    })
}

/// Has every account with this place in each so many ask once.
async fn ask_each(targets: Arc<[Target]>, place: usize, of: usize) -> anyhow::Result<()> {
    let ask = Network::wording().ask(false, 1024);
    let (mut connection, live) = (Connection::open(&targets[0], ask.reader).await?, Live::new()?);
    for target in targets.iter().skip(place).step_by(of) {
        let outcome = connection.ask(target, &ask, &live).await?;
        ensure!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn replicas(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let network = setup.clone().start()?;
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for count in &args.replicas {
        while others.len() + 1 < *count {
            let (gateway, port) = network.add_gateway(&format!("gateway-{}", others.len() + 2))?;
            network.is_served_at(&gateway, port)?;
            others.push((gateway, port));
        }
        let (what, target) = match others.last() {
            None => ("1 replica on Postgres and Redis".to_owned(), network.target()?),
            Some((_, port)) => {
                (format!("{count} replicas, the provider at another than is asked"), network.target_at(*port)?)
            }
        };
        let gateways: Vec<&Server> =
            [&network.gateway].into_iter().chain(others.iter().map(|(gateway, _)| gateway)).collect();
        for gateway in &gateways {
            gateway.wait_until_quiet().await?;
        }
        rows.push(measure(args, &what, target, 1024, args.rate, &gateways).await?);
    }
    network.check_books()?;
    Ok(rows)
}

async fn measure(
    args: &ScaleArgs,
    what: &str,
    target: Target,
    prompt_bytes: usize,
    rate: f64,
    gateways: &[&Server],
) -> anyhow::Result<Row> {
    eprintln!("{what}");
    let cpu = || -> anyhow::Result<Duration> {
        gateways.iter().map(|gateway| Ok(process::used_by(gateway.pid())?.cpu)).sum()
    };
    let plan = Plan {
        target,
        mix: Mix::only(Network::wording().ask(false, prompt_bytes)),
        arrivals: Arrivals::Rate(rate),
        connections: CONNECTIONS,
        warm_up: Duration::ZERO,
        length: Duration::try_from_secs_f64(args.seconds)?,
        pid: None,
    };
    load::run(Plan { length: Duration::from_secs(2), ..plan.clone() }).await?;
    let before = cpu()?;
    let done = load::run(plan).await?;
    let spent = cpu()?.saturating_sub(before);
    ensure!(done.report.is_clean(), "{what}: not every answer was whole:\n{}", done.report);
    let us_per_request = spent.as_secs_f64() * 1e6 / done.tally.whole.max(1) as f64;
    let (p50_ms, p99_ms) = (done.report.total_ms.p50, done.report.total_ms.p99);
    let rss: u64 =
        gateways.iter().map(|gateway| Ok(process::used_by(gateway.pid())?.rss)).sum::<anyhow::Result<u64>>()?;
    Ok(Row { what: what.into(), us_per_request, p50_ms, p99_ms, rss_mib: mib(rss) })
}
