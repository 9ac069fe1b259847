//! `lumbung-provider bench`.

use std::process::ExitCode;

#[cfg(feature = "mistral")]
use std::time::Duration;

use clap::Args;

use super::engine::EngineArgs;

/// The model as `serve` has it, and how it is asked.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Answers at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8], value_parser = clap::value_parser!(u32).range(1..))]
    streams: Vec<u32>,
    /// The question.
    #[arg(long, default_value = "Tell me a long story about a rice barn.")]
    prompt: String,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// How long to count for each number of streams, after a second of warming up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Prints how fast the embedded engine is by itself, for each number of streams.
#[cfg(feature = "mistral")]
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    use crate::engine::mistral::{Load, MistralEngine};

    let engine = Box::pin(MistralEngine::load(args.engine.source()?, args.engine.load_options())).await?;
    let mut paces = Vec::with_capacity(args.streams.len());
    for streams in args.streams {
        let load = Load {
            streams: streams as usize,
            prompt: args.prompt.clone(),
            tokens: args.tokens as usize,
            warm_up: Duration::from_secs(1),
            length: Duration::from_secs(args.seconds),
        };
        let pace = engine.pace_alone(&load).await?;
        if !args.json {
            println!(
                "{streams} at once: {:.1} tokens/s, the first after {:.1} ms (median)",
                pace.tokens_per_second, pace.first_token_ms
            );
        }
        paces.push(pace);
    }
    if args.json {
        println!("{}", serde_json::to_string(&paces)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// There is nothing to measure.
#[cfg(not(feature = "mistral"))]
pub async fn run(_: BenchArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{}", super::engine::WITHOUT_MISTRAL)
}
