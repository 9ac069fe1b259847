//! The command line. The only place that reads the environment.

mod bench;
mod config;
mod control;
mod doctor;
mod earnings;
mod engine;
mod life;
mod limits;
mod model;
mod notify;
mod reload;
mod serve;
mod status;
mod when;

pub use config::reference;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use config::ConfigCommand;

use crate::control::Request;
use crate::data_dir;
use crate::identity::Identity;

/// Joins a lumbung gateway from behind NAT, serves a model, signs receipts for what it delivers.
#[derive(Parser)]
#[command(name = "lumbung-provider", version)]
struct Cli {
    /// A TOML file with settings by the names of their flags. Flags and the environment come before it.
    #[arg(long, env = config::VARIABLE, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// Where the identity, the receipts and the status are kept. Default: lumbung-provider in $XDG_DATA_HOME or ~/.local/share.
    #[arg(long, global = true, env = "LUMBUNG_PROVIDER_DATA_DIR", default_value_os_t = default_data_dir(), hide_default_value = true)]
    data_dir: PathBuf,
    /// How logs are written to standard error.
    #[arg(long, global = true, env = "LUMBUNG_PROVIDER_LOG", value_enum, default_value_t = LogFormat::Console)]
    log: LogFormat,
    /// Which logs are written: a level, or directives such as `info,lumbung_provider=debug`. Default: what RUST_LOG says, or info.
    #[arg(long, global = true, env = "LUMBUNG_PROVIDER_LOG_LEVEL")]
    log_level: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Join a gateway and serve until told to stop (SIGTERM or Ctrl-C: finish what runs; a second time: at once).
    Serve(Box<serve::ServeArgs>),
    /// The configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look at this machine, the model and the gateway, and say what to do about what prevents serving.
    Doctor(Box<doctor::DoctorArgs>),
    /// Say how fast the engine makes tokens on this machine when nothing else asks it.
    Bench(Box<bench::BenchArgs>),
    /// Print what this provider earned, job by job, and where it is.
    Earnings(Box<earnings::EarningsArgs>),
    /// Where this provider is paid to.
    PayoutDetails {
        #[command(subcommand)]
        action: earnings::PayoutDetails,
    },
    /// Print this provider's id, making its key if there is none.
    Identity,
    /// Show what a provider that uses this data directory does: live on a terminal.
    Status(status::StatusArgs),
    /// Have it take no new jobs until told to resume, also after a restart. What runs goes on, and it stays connected.
    Pause,
    /// Have it take jobs again.
    Resume,
    /// Have it finish what runs and end, and wait for that.
    Drain {
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
    },
    /// Have it read its settings again: models that are new in the file are loaded and offered, those that are gone finish what
    /// they have; prices, slots, hours and idleness are as they say from then on. Tunnels stay, and no job is lost.
    Reload,
    /// Have the program as it is installed now take its place without losing a job, and wait for that. Both have their models in
    /// memory for a while; where that is too much, stop it and start it anew.
    Upgrade,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Console,
    /// One JSON object per line.
    Json,
}

/// Runs the program.
pub fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("lumbung-provider: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let given = config::settings().with_file(std::env::args_os().collect())?;
    let (cli, tables) = (Cli::parse_from(given.arguments), given.tables);
    start_logs(&cli.common);
    let data_dir = cli.common.data_dir;
    match cli.command {
        Command::Serve(args) => block_on(serve::run(*args, &tables, data_dir))?,
        Command::Config(ConfigCommand::Check(args)) => {
            config::check(&args, &tables, |models| args.limits.check_before(models))?;
            println!("the configuration is right");
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Reference) => {
            print!("{}", reference());
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(args) => block_on(doctor::run(*args, &tables, data_dir))?,
        Command::Bench(args) => block_on(bench::run(*args, &data_dir))?,
        Command::Earnings(args) => block_on(earnings::run(*args, &data_dir))?,
        Command::PayoutDetails { action } => block_on(earnings::payout_details(action, &data_dir))?,
        Command::Identity => {
            data_dir::create(&data_dir)?;
            println!("{}", Identity::open(&data_dir)?.id);
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(args) => status::show(&args, &data_dir),
        Command::Pause => control::tell(&data_dir, Request::Pause),
        Command::Resume => control::tell(&data_dir, Request::Resume),
        Command::Reload => control::reload(&data_dir),
        Command::Upgrade => control::upgrade(&data_dir),
        Command::Drain { no_wait } => control::drain(&data_dir, !no_wait),
    }
}

/// What `serve` was started with, as flags, environment and file say now. An error names what is wrong with them.
fn settings_now() -> anyhow::Result<(serve::ServeArgs, lumbung_settings::Given)> {
    let given = config::settings().with_file(std::env::args_os().collect())?;
    let cli = Cli::try_parse_from(&given.arguments)?;
    match cli.command {
        Command::Serve(args) => Ok((*args, given)),
        _ => anyhow::bail!("this process does not serve"),
    }
}

/// One worker: where a job's tasks are on one thread, none of them wakes another, which costs more than what they do. Engines compute
/// on threads of their own.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let output = runtime.block_on(future);
    // An engine's blocking work is not waited for: what had to be finished is finished.
    runtime.shutdown_background();
    Ok(output)
}

fn start_logs(common: &Common) {
    let level = common.log_level.clone().or_else(|| std::env::var("RUST_LOG").ok());
    let filter = level.and_then(|level| EnvFilter::try_new(level).ok()).unwrap_or_else(|| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match common.log {
        LogFormat::Console => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

fn default_data_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")));
    base.unwrap_or_default().join("lumbung-provider")
}
