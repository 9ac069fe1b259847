//! What the provider runtime costs: CPU time of the whole provider for each token that it sends, with an engine that takes
//! none to speak of, which is the most that the runtime can add to an engine's own work; and a real engine's tokens through
//! all of the network, beside the same engine asked directly in a process of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::ask::{Mix, Wording};
use crate::figures::median;
use crate::load::{self, Arrivals, Plan};
use crate::network::{MODEL, Network, Setup};
use crate::process;
use crate::random_model;

/// Tokens of each answer of the real engine.
const TOKENS: u32 = 64;
/// Length of its prompts, in bytes and tokens.
const PROMPT_BYTES: usize = 64;
/// How long the provider is watched while it has nothing to do.
const IDLE: Duration = Duration::from_secs(5);

/// How many streams at once.
#[derive(Args, Clone, Debug)]
pub struct RuntimeArgs {
    /// Streams at once, at 50 tokens a second each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    pub streams: Vec<usize>,
    /// How long each load counts.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Streams at once of the engine with a model of 71 million parameters, beside the engine asked directly; 0: none.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    pub engine_streams: Vec<usize>,
    /// How often each of the two is asked, in turn.
    #[arg(long, default_value_t = 3)]
    pub engine_rounds: usize,
    /// Folder of binaries of which the provider was built with the embedded engine; like the others' by default.
    #[arg(long)]
    pub engine_bin: Option<PathBuf>,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Runtime {
    /// With scripted answers.
    pub rows: Vec<Row>,
    /// With a real engine.
    pub engine: Option<Engine>,
}

/// One load with scripted answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Streams at once.
    pub streams: usize,
    /// CPU of the provider, in microseconds for each token.
    pub us_per_token: f64,
    /// The same without what the provider takes while it has nothing to do.
    pub us_per_token_beyond_idle: f64,
    /// Tokens a second, of all streams together.
    pub tokens_per_second: f64,
    /// What they would be if nothing but the engine's pace counted.
    pub pace_per_second: f64,
}

/// A real engine, and what is left of its pace.
#[derive(Debug, Serialize)]
pub struct Engine {
    /// Parameters of its model.
    pub parameters: u64,
    /// For each number of streams.
    pub rows: Vec<EngineRow>,
}

/// Medians of all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EngineRow {
    /// Streams at once.
    pub streams: usize,
    /// Asked directly.
    pub direct: Pace,
    /// Asked through gateway and provider.
    pub through: Pace,
    /// Tokens per second through them, of those without: the median of each round's.
    pub share: f64,
}

/// How fast an engine is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pace {
    /// Of all streams together.
    pub tokens_per_second: f64,
    /// The median.
    pub first_token_ms: f64,
}

/// Measures and prints.
pub async fn run(args: &RuntimeArgs) -> anyhow::Result<()> {
    print!("{}", runtime(args).await?.markdown());
    Ok(())
}

/// Measures.
pub async fn runtime(args: &RuntimeArgs) -> anyhow::Result<Runtime> {
    let setup = Setup::new(args.bin.as_deref())?;
    let rows = if args.streams.is_empty() { Vec::new() } else { scripted(args, &setup).await? };
    let engine = if args.engine_streams.iter().all(|streams| *streams == 0) {
        None
    } else {
        Some(with_engine(args, &Setup::new(args.engine_bin.as_deref().or(args.bin.as_deref()))?).await?)
    };
    Ok(Runtime { rows, engine })
}

async fn scripted(args: &RuntimeArgs, setup: &Setup) -> anyhow::Result<Vec<Row>> {
    let network = setup.clone().start()?;
    let pid = network.provider()?.pid();
    network.provider()?.wait_until_quiet().await?;
    let before = process::used_by(pid)?.cpu;
    tokio::time::sleep(IDLE).await;
    let idle_us_per_second = (process::used_by(pid)?.cpu - before).as_secs_f64() * 1e6 / IDLE.as_secs_f64();
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
            pid: Some(pid),
        };
        let report = load::run(plan).await?.report;
        ensure!(report.is_clean(), "not every stream was whole:\n{report}");
        let cores = report.cpu.context("no CPU time was read")?.cores;
        let of_each = |us_per_second: f64| us_per_second / report.tokens_per_second;
        let pace_per_second = *streams as f64 * 1000.0 / f64::from(crate::upstream::MS_PER_TOKEN);
        rows.push(Row {
            streams: *streams,
            us_per_token: of_each(cores * 1e6),
            us_per_token_beyond_idle: of_each(cores * 1e6 - idle_us_per_second),
            tokens_per_second: report.tokens_per_second,
            pace_per_second,
        });
    }
    network.check_books()?;
    Ok(rows)
}

async fn with_engine(args: &RuntimeArgs, setup: &Setup) -> anyhow::Result<Engine> {
    let folder = tempfile::tempdir()?;
    let parameters = random_model::write(folder.path())?;
    let most = args.engine_streams.iter().max().copied().unwrap_or(1) as u32;
    let (answering, mut flags) = (Some(folder.path().to_owned()), setup.flags.clone());
    // On a CPU one answer after another is computed: whoever is the eighth in line waits longer than a gateway would.
    flags.extend(["--first-token-floor".into(), "60s".into()]);
    let network = Setup { answering, slots: most, flags, ..setup.clone() }.start()?;
    let wording = Wording { max_tokens: Some(TOKENS), greedy: true, prompt: Some(prompt()), ..Wording::of(MODEL) };
    let mut rows = Vec::new();
    for streams in args.engine_streams.iter().copied().filter(|streams| *streams > 0) {
        let (mut direct, mut through) = (Vec::new(), Vec::new());
        for round in 0..args.engine_rounds {
            eprintln!("the engine under {streams} streams, round {} of {}", round + 1, args.engine_rounds);
            network.provider()?.wait_until_quiet().await?;
            direct.push(alone(args, setup, folder.path(), streams).await?);
            through.push(through_all(args, &network, &wording, streams).await?);
        }
        let middle = |paces: &[Pace]| Pace {
            tokens_per_second: median(paces.iter().map(|pace| pace.tokens_per_second).collect()),
            first_token_ms: median(paces.iter().map(|pace| pace.first_token_ms).collect()),
        };
        let shares = through.iter().zip(&direct).map(|(ours, alone)| ours.tokens_per_second / alone.tokens_per_second);
        let share = median(shares.collect());
        rows.push(EngineRow { streams, direct: middle(&direct), through: middle(&through), share });
    }
    network.check_books()?;
    Ok(Engine { parameters, rows })
}

fn prompt() -> String {
    "padi ".chars().cycle().take(PROMPT_BYTES).collect()
}

/// `lumbung-provider bench`, which has the engine and nothing else.
async fn alone(args: &RuntimeArgs, setup: &Setup, model: &Path, streams: usize) -> anyhow::Result<Pace> {
    let mut command = Command::new(setup.bin.join("lumbung-provider"));
    command.args(["bench", "--json", "--streams", &streams.to_string(), "--tokens", &TOKENS.to_string()]);
    command.args(["--prompt", &prompt(), "--seconds", &args.seconds.ceil().to_string(), "--model"]).arg(model);
    let output = command.kill_on_drop(true).output().await.context("lumbung-provider bench does not start")?;
    ensure!(output.status.success(), "lumbung-provider bench: {}", String::from_utf8_lossy(&output.stderr));
    let paces: Vec<Pace> = serde_json::from_slice(&output.stdout)?;
    paces.first().copied().context("lumbung-provider bench measured nothing")
}

async fn through_all(args: &RuntimeArgs, network: &Network, wording: &Wording, streams: usize) -> anyhow::Result<Pace> {
    let plan = Plan {
        target: network.target()?,
        mix: Mix::only(wording.ask(true, 0)),
        arrivals: Arrivals::Closed,
        connections: streams,
        warm_up: Duration::from_secs(1),
        length: Duration::try_from_secs_f64(args.seconds)?,
        pid: Some(network.provider()?.pid()),
    };
    let report = load::run(plan).await?.report;
    ensure!(report.is_clean(), "not every stream was whole:\n{report}");
    Ok(Pace { tokens_per_second: report.tokens_per_second, first_token_ms: report.first_token_ms.p50 })
}

impl Runtime {
    /// Two tables.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.rows.is_empty() {
            text += "| streams | CPU of the provider per token, µs | without what it takes at rest, µs | tokens/s | the engine's pace |\n|---|---|---|---|---|\n";
        }
        for row in &self.rows {
            let Row { streams, us_per_token, us_per_token_beyond_idle, tokens_per_second, pace_per_second } = row;
            text += &format!(
                "| {streams} | {us_per_token:.1} | {us_per_token_beyond_idle:.1} | {tokens_per_second:.1} | {pace_per_second:.0} ({:.1} %) |\n",
                100.0 * tokens_per_second / pace_per_second
            );
        }
        let Some(Engine { parameters, rows }) = &self.engine else { return text };
        text += &format!(
            "\nA model of {:.0} million parameters (random weights, F32), answers of {TOKENS} tokens:\n\n\
             | streams | engine alone, tokens/s | through gateway and provider | share | first token alone, ms | through both |\n|---|---|---|---|---|---|\n",
            *parameters as f64 / 1e6
        );
        for EngineRow { streams, direct, through, share } in rows {
            text += &format!(
                "| {streams} | {:.1} | {:.1} | {:.1} % | {:.1} | {:.1} |\n",
                direct.tokens_per_second,
                through.tokens_per_second,
                100.0 * share,
                direct.first_token_ms,
                through.first_token_ms
            );
        }
        text
    }
}
