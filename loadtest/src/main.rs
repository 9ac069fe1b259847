//! The command line of the load test.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Parser, ValueEnum};
use lumbung_loadtest::client::Target;
use lumbung_loadtest::load::{self, Plan};
use lumbung_loadtest::{measure, upstream};
use serde_json::json;

/// Load for any OpenAI-compatible gateway, and what it cost.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Put a running gateway under load. Fails if an answer was refused, lost or not whole.
    Run(RunArgs),
    /// Start a gateway and a provider with scripted answers, put them under load, and say what a request costs the gateway.
    Measure(measure::MeasureArgs),
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
    /// Whether answers are streamed.
    #[arg(long, value_enum, default_value_t = Mode::Completion)]
    mode: Mode,
    /// Connections at once.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// How long to count.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Load before that.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Requests per second over all connections; latency then counts from when a request was due. As fast as possible if absent.
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
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Completion,
    Stream,
}

/// One thread: on a small machine the load must leave room for what is loaded.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Run(args) => run(args).await,
        Command::Measure(args) => measure::run(&args).await,
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
    let prompt = args.prompt.unwrap_or_else(|| "padi ".chars().cycle().take(args.prompt_bytes).collect());
    let mut request = json!({ "model": args.model, "messages": [{ "role": "user", "content": prompt }] });
    if args.mode == Mode::Stream {
        request["stream"] = json!(true);
        request["stream_options"] = json!({ "include_usage": true });
    }
    if let Some(most) = args.max_tokens {
        request["max_tokens"] = json!(most);
    }
    let report = load::run(Plan {
        target: Target::new(&args.base_url, &args.api_key, &request)?,
        connections: args.connections,
        rate: args.rate,
        warm_up: Duration::try_from_secs_f64(args.warm_up)?,
        length: Duration::try_from_secs_f64(args.seconds)?,
        pid: args.pid,
    })
    .await?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{report}"),
    }
    ensure!(report.is_clean(), "not every answer was whole");
    Ok(())
}
