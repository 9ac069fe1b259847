//! How the CPU time of a request grows: with the prompt, with providers, with accounts, with replicas and the hop between
//! them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use serde::Serialize;

use crate::ask::Mix;
use crate::client::{Connection, Outcome, Target};
use crate::load::{self, Arrivals, Plan};
use crate::network::{Network, Setup};
use crate::process;
use crate::servers::Server;
use crate::tally::Live;

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
    /// Accounts that ask in turn, in ascending order.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
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
    let mut text = "| | CPU per request, µs | p50, ms | p99, ms |\n|---|---|---|---|\n".to_owned();
    for Row { what, us_per_request, p50_ms, p99_ms } in rows {
        text += &format!("| {what} | {us_per_request:.0} | {p50_ms:.2} | {p99_ms:.2} |\n");
    }
    text
}

async fn prompts(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let network = setup.clone().start()?;
    let mut rows = Vec::new();
    for bytes in &args.prompts {
        // About 40 MB of prompts a second at most.
        let rate = args.rate.min(40e6 / *bytes as f64);
        let what = format!("prompt of {} KiB", bytes >> 10);
        rows.push(measure(args, &what, network.target()?, *bytes, rate, &[&network.gateway]).await?);
    }
    network.check_books()?;
    Ok(rows)
}

async fn providers(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let mut network = Setup { slots: 64, ..setup.clone() }.start()?;
    let mut rows = Vec::new();
    for count in &args.providers {
        while network.provider_count() < *count {
            network.add_provider()?;
        }
        let what = format!("{count} providers");
        rows.push(measure(args, &what, network.target()?, 1024, args.rate, &[&network.gateway]).await?);
    }
    network.check_books()?;
    Ok(rows)
}

async fn accounts(args: &ScaleArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
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
    let targets: Vec<Target> = keys.iter().map(|key| network.target_for(key)).collect::<anyhow::Result<_>>()?;
    let ask = Network::wording().ask(false, 1024);
    let (mut connection, live) = (Connection::open(&targets[0], ask.reader).await?, Live::new()?);
    let mut times = hdrhistogram::Histogram::<u64>::new(3)?;
    // Once round first, so that every key is known.
    let count = ((args.rate * args.seconds) as usize).max(keys.len());
    let (mut before, mut asked) = (None, 0);
    for (number, target) in targets.iter().cycle().take(keys.len() + count).enumerate() {
        if number == keys.len() {
            before = Some(process::used_by(network.gateway.pid())?.cpu);
        }
        let begun = std::time::Instant::now();
        let outcome = connection.ask(target, &ask, &live).await?;
        ensure!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
        if before.is_some() {
            times.saturating_record(begun.elapsed().as_micros() as u64);
            asked += 1;
        }
    }
    let after = process::used_by(network.gateway.pid())?.cpu;
    let spent = after.saturating_sub(before.unwrap_or(after)).as_secs_f64();
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Row {
        what: format!("{} accounts, one connection", keys.len()),
        us_per_request: spent * 1e6 / f64::from(asked.max(1)),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    })
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
    for gateway in gateways {
        gateway.wait_until_quiet().await?;
    }
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
    Ok(Row { what: what.into(), us_per_request, p50_ms, p99_ms })
}
