//! What the provider runtime costs: CPU time of the whole provider for each token that it sends, with an engine that takes
//! none to speak of. It is the most that the runtime can add to an engine's own work.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use crate::ask::Mix;
use crate::load::{self, Arrivals, Plan};
use crate::network::{Network, Setup};

/// How many streams at once.
#[derive(Args, Clone, Debug)]
pub struct RuntimeArgs {
    /// Streams at once, at 50 tokens a second each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    pub streams: Vec<usize>,
    /// How long each load counts.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
}

/// One load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Streams at once.
    pub streams: usize,
    /// CPU of the provider, in microseconds for each token.
    pub us_per_token: f64,
    /// Tokens a second, of all streams together.
    pub tokens_per_second: f64,
    /// What they would be if nothing but the engine's pace counted.
    pub pace_per_second: f64,
}

/// Measures and prints.
pub async fn run(args: &RuntimeArgs) -> anyhow::Result<()> {
    print!("{}", markdown(&runtime(args).await?));
    Ok(())
}

/// Measures.
pub async fn runtime(args: &RuntimeArgs) -> anyhow::Result<Vec<Row>> {
    let network = Setup::new(args.bin.as_deref())?.start()?;
    let mut rows = Vec::new();
    for streams in &args.streams {
        eprintln!("the provider under {streams} streams");
        network.provider()?.wait_until_quiet().await?;
        let plan = Plan {
            target: network.target()?,
            mix: Mix::only(Network::wording().ask(true, 200)),
            arrivals: Arrivals::Closed,
            connections: *streams,
            warm_up: Duration::from_secs(1),
            length: Duration::try_from_secs_f64(args.seconds)?,
            pid: Some(network.provider()?.pid()),
        };
        let report = load::run(plan).await?.report;
        ensure!(report.is_clean(), "not every stream was whole:\n{report}");
        let us_per_token = report.cpu.and_then(|cpu| cpu.us_per_chunk).context("no token came")?;
        let pace_per_second = *streams as f64 * 1000.0 / f64::from(crate::upstream::MS_PER_TOKEN);
        rows.push(Row {
            streams: *streams,
            us_per_token,
            tokens_per_second: report.chunks_per_second,
            pace_per_second,
        });
    }
    network.check_books()?;
    Ok(rows)
}

/// A table.
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| streams | CPU of the provider per token, µs | tokens/s | the engine's pace |\n|---|---|---|---|\n"
            .to_owned();
    for Row { streams, us_per_token, tokens_per_second, pace_per_second } in rows {
        text += &format!(
            "| {streams} | {us_per_token:.1} | {tokens_per_second:.1} | {pace_per_second:.0} ({:.1} %) |\n",
            100.0 * tokens_per_second / pace_per_second
        );
    }
    text
}
