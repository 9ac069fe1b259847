//! `lumbung-gateway`: serves, or does the operator's work on the books.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use lumbung_gateway::app::threads::Threads;
use lumbung_gateway::config::{BooksConfig, LogFormat, ServeConfig, reference, with_file};
use lumbung_gateway::lines::Lines;
use lumbung_gateway::store::Store;
use lumbung_gateway::{app, cli};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// OpenAI-compatible inference on community providers, metered and billed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A TOML file with settings by the names of their flags. Flags and the environment come before it.
    #[arg(long, env = "LUMBUNG_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    books: BooksConfig,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve clients and providers.
    Serve(Box<ServeConfig>),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask a gateway on this machine for its health; exit code 1 if it is not ready. For images without a shell.
    Health {
        /// Its address: what it was told with --listen.
        #[arg(long, env = "LUMBUNG_LISTEN", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The certificate that it was told to serve with, if it ends TLS itself: then it is asked over TLS.
        #[arg(long, env = "LUMBUNG_TLS_CERT")]
        tls_cert: Option<PathBuf>,
        /// Ask whether it is alive, not whether it is ready.
        #[arg(long)]
        live: bool,
    },
    #[command(flatten)]
    Operator(cli::Command),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Find what is wrong with the configuration that `serve` would get, without starting anything.
    Check(Box<ServeConfig>),
    /// Print every setting with its default, as Markdown.
    Reference,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse_from(with_file(std::env::args_os().collect())?);
    match arguments.command {
        Command::Serve(config) => {
            start_logging(config.log);
            Threads::start(config.threads)?.run(async |books_thread| {
                let stop = CancellationToken::new();
                tokio::spawn(stop_on_signal(stop.clone()));
                app::run(&arguments.books, &config, books_thread, stop).await
            })
        }
        Command::Config(ConfigCommand::Check(config)) => {
            app::check(&arguments.books, &config)?;
            Ok(writeln!(std::io::stdout(), "the configuration is right")?)
        }
        Command::Config(ConfigCommand::Reference) => Ok(write!(std::io::stdout(), "{}", reference())?),
        Command::Health { listen, tls_cert, live } => {
            let answer =
                tokio::runtime::Runtime::new()?.block_on(cli::health::ask(listen, tls_cert.is_some(), live))?;
            Ok(writeln!(std::io::stdout(), "{answer}")?)
        }
        Command::Operator(command) => {
            let (url, _) = arguments.books.place()?;
            tokio::runtime::Runtime::new()?.block_on(cli::run(command, async || Store::open(&url).await))
        }
    }
}

/// `RUST_LOG` chooses what is logged; the default is everything of ours that an operator should see.
fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines);
    match format {
        LogFormat::Console => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// The first signal drains; the second ends the process at once.
async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    for first in [true, false] {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        match first {
            true => stop.cancel(),
            false => std::process::exit(130),
        }
    }
}
