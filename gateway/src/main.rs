//! `lumbung-gateway`: serves, or does the operator's work on the books.

use clap::{Parser, Subcommand};
use lumbung_gateway::app::threads::Threads;
use lumbung_gateway::config::{BooksConfig, LogFormat, ServeConfig};
use lumbung_gateway::lines::Lines;
use lumbung_gateway::store::Store;
use lumbung_gateway::{app, cli};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// OpenAI-compatible inference on community providers, metered and billed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    books: BooksConfig,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve clients and providers.
    Serve(Box<ServeConfig>),
    #[command(flatten)]
    Operator(cli::Command),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Serve(config) => {
            start_logging(config.log);
            Threads::start(config.threads)?.run(async |books_thread| {
                let stop = CancellationToken::new();
                tokio::spawn(stop_on_signal(stop.clone()));
                app::run(&arguments.books, &config, books_thread, stop).await
            })
        }
        Command::Operator(command) => {
            let url = arguments.books.url()?;
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
