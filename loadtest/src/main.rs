//! The command line of the load test.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Parser};
use lumbung_loadtest::ask::{Mix, Scenario, Wording};
use lumbung_loadtest::client::Target;
use lumbung_loadtest::load::{self, Arrivals, Plan};
use lumbung_loadtest::report::Report;
use lumbung_loadtest::{compare, crowd, direct, instructions, plot, results, runtime, scale, soak, upstream};

/// Load for any OpenAI-compatible gateway, and what it cost.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Put a running gateway under load. Fails if an answer was refused, lost or not whole.
    Run(RunArgs),
    /// Start a gateway, a provider with scripted answers, and peers of the gateway; put each under the same load in turn,
    /// and say what a request costs.
    Compare(compare::CompareArgs),
    /// Start a provider with scripted answers and ask it without a gateway between, one job at a time.
    Direct(direct::DirectArgs),
    /// Start a gateway and a provider, hold many streams, idle connections and idle tunnels open, and say what each takes.
    Crowd(crowd::CrowdArgs),
    /// Start a gateway and a provider, put them under a mixture for long, and check that nothing grows and the books are
    /// exact.
    Soak(soak::SoakArgs),
    /// Say how the CPU time of a request grows with prompts, providers, accounts and replicas.
    Scale(scale::ScaleArgs),
    /// Say what the provider runtime costs for each token, beside its engine.
    Runtime(runtime::RuntimeArgs),
    /// Measure all of that, and write it into RESULTS.md with its plots.
    Results(results::ResultsArgs),
    /// Count the instructions that a request takes, under Valgrind.
    Instructions(instructions::InstructionsArgs),
    /// The least that can answer a chat, for another server to stand in front of.
    Upstream(upstream::UpstreamArgs),
}

#[derive(Args)]
struct RunArgs {
    /// As an SDK has it: http://host:port/v1
    #[arg(long, env = "BASE_URL")]
    base_url: String,
    /// The key.
    #[arg(long, env = "API_KEY", hide_env_values = true)]
    api_key: String,
    /// The model.
    #[arg(long, env = "MODEL")]
    model: String,
    /// What is asked, and how answers are read.
    #[arg(long, value_enum, default_value_t = Scenario::Completion)]
    scenario: Scenario,
    /// Connections at once, at most.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// How long to count.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Load before that.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Requests per second over all connections; times then count from when a request was due. As fast as possible if absent.
    #[arg(long)]
    rate: Option<f64>,
    /// The prompt; so many bytes of one word if absent.
    #[arg(long)]
    prompt: Option<String>,
    /// Length of the prompt that is made up.
    #[arg(long, default_value_t = 200, conflicts_with = "prompt")]
    prompt_bytes: usize,
    /// The most tokens of an answer.
    #[arg(long)]
    max_tokens: Option<u32>,
    /// A process on this machine whose CPU time and memory is reported, children included.
    #[arg(long)]
    pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// A folder for the report: report.json, report.md, report.svg.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// One thread: on a small machine the load must leave room for what is loaded.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(args) => run(args).await,
        Command::Compare(args) => compare::run(&args).await,
        Command::Direct(args) => direct::run(&args).await,
        Command::Crowd(args) => crowd::run(&args).await,
        Command::Soak(args) => soak::run(&args).await,
        Command::Scale(args) => scale::run(&args).await,
        Command::Runtime(args) => runtime::run(&args).await,
        Command::Results(args) => results::run(&args).await,
        Command::Instructions(args) => instructions::run(&args).await,
        Command::Upstream(args) => upstream::run(&args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lumbung-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let wording = Wording {
        prompt: args.prompt,
        prompt_bytes: args.prompt_bytes,
        max_tokens: args.max_tokens,
        ..Wording::of(&args.model)
    };
    let done = load::run(Plan {
        target: Target::new(&args.base_url, &args.api_key)?,
        mix: Mix::of(args.scenario, &wording),
        arrivals: args.rate.map_or(Arrivals::Closed, Arrivals::Rate),
        connections: args.connections,
        warm_up: Duration::try_from_secs_f64(args.warm_up)?,
        length: Duration::try_from_secs_f64(args.seconds)?,
        pid: args.pid,
    })
    .await?;
    if let Some(folder) = &args.report {
        write(&done.report, folder)?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&done.report)?),
        false => print!("{}", done.report),
    }
    ensure!(done.report.is_clean(), "not every answer was whole");
    Ok(())
}

fn write(report: &Report, folder: &PathBuf) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("report.json"), serde_json::to_string_pretty(report)?)?;
    fs::write(folder.join("report.md"), format!("# Load\n\n{}\n![times](report.svg)\n", report.markdown()))?;
    let latencies = report.latencies();
    let lines: Vec<_> = latencies.iter().map(|(name, latency)| (*name, &latency.curve[..])).collect();
    fs::write(folder.join("report.svg"), plot::percentiles("Times by percentile", &lines))?;
    Ok(())
}
