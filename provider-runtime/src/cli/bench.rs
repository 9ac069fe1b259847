//! `lumbung-provider bench`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::engine::{EngineArgs, EngineKind};
use crate::data_dir;
use crate::pace::{self, Pace, QUESTION, Trial};

const HOUR_SECS: u64 = 3600;

/// The model as `serve` has it, and how it is asked.
#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Answers at once.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8], value_parser = clap::value_parser!(u32).range(1..))]
    streams: Vec<u32>,
    /// The question.
    #[arg(long, default_value = QUESTION)]
    prompt: String,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// How long to count for each number of streams, after a second of warming up; of an engine that is not embedded, how long its
    /// answers may take at most.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// How fast an engine was.
#[derive(Serialize)]
struct Told {
    /// Answers at once.
    streams: u32,
    /// Of all streams together.
    tokens_per_second: f64,
    /// From asking to the first token: the median, in milliseconds.
    first_token_ms: f64,
}

/// Prints how fast an engine is by itself, for each number of streams. The embedded one is asked past everything
/// of this project's, but takes no more answers at once than it gives rightly: on a CPU, one.
pub async fn run(args: BenchArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let told = match args.engine.engine {
        EngineKind::Mistral => embedded(&args).await?,
        _ => any(&args, data_dir).await?,
    };
    if args.json {
        println!("{}", serde_json::to_string(&told)?);
    }
    Ok(ExitCode::SUCCESS)
}

impl Told {
    fn print(&self, args: &BenchArgs) {
        let Self { streams, tokens_per_second, first_token_ms } = self;
        if !args.json {
            println!(
                "{streams} at once: {tokens_per_second:.1} tokens/s, the first after {first_token_ms:.1} ms (median)"
            );
        }
    }
}

/// A server beside this process, or a script. `doctor` and `status` reckon by the best of it, with no more streams than slots.
async fn any(args: &BenchArgs, data_dir: &Path) -> anyhow::Result<Vec<Told>> {
    let engine = args.engine.load().await?;
    let (mut all, mut best) = (Vec::with_capacity(args.streams.len()), None::<Pace>);
    for streams in &args.streams {
        let trial = Trial {
            question: args.prompt.clone(),
            streams: *streams,
            tokens: args.tokens,
            limit: Duration::from_secs(args.seconds),
        };
        let pace = Pace::measure(&*engine, &trial).await?;
        let told = Told {
            streams: *streams,
            tokens_per_second: pace.tokens as f64 * 1e6 / pace.took_us.max(1) as f64,
            first_token_ms: pace.first_token_us as f64 / 1e3,
        };
        told.print(args);
        all.push(told);
        let is_better = best.as_ref().is_none_or(|best| {
            best.streams > args.engine.slots() || pace.tokens_in(HOUR_SECS) > best.tokens_in(HOUR_SECS)
        });
        if is_better && (*streams <= args.engine.slots() || best.is_none()) {
            best = Some(pace);
        }
    }
    if let Some(pace) = best {
        data_dir::create(data_dir)?;
        pace::keep(data_dir, &args.engine.model_id()?, pace)?;
    }
    Ok(all)
}

#[cfg(feature = "mistral")]
async fn embedded(args: &BenchArgs) -> anyhow::Result<Vec<Told>> {
    use crate::engine::mistral::{Load, MistralEngine};

    let engine = Box::pin(MistralEngine::load(args.engine.source()?, args.engine.load_options())).await?;
    let mut all = Vec::with_capacity(args.streams.len());
    for streams in &args.streams {
        let load = Load {
            streams: *streams as usize,
            prompt: args.prompt.clone(),
            tokens: args.tokens as usize,
            warm_up: Duration::from_secs(1),
            length: Duration::from_secs(args.seconds),
        };
        let pace = engine.pace_alone(&load).await?;
        let told =
            Told { streams: *streams, tokens_per_second: pace.tokens_per_second, first_token_ms: pace.first_token_ms };
        told.print(args);
        all.push(told);
    }
    Ok(all)
}

/// There is nothing to measure.
#[cfg(not(feature = "mistral"))]
async fn embedded(_: &BenchArgs) -> anyhow::Result<Vec<Told>> {
    anyhow::bail!("{}", super::engine::WITHOUT_MISTRAL)
}
