//! Many at once: streams, idle connections and idle tunnels; what the gateway needs for each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ask::{Mix, Wording};
use crate::load::{self, Arrivals, Plan};
use crate::network::{EPIC, NOVEL, Network, Setup};
use crate::process;
use crate::report::{Latency, Report};
use crate::stub::Trade;
use crate::tunnels::Tunnels;
use crate::upstream::ANSWER_TOKENS;

/// How long streams take to begin, all together, so that they are not in step.
const RAMP: Duration = Duration::from_secs(4);
/// How long an allocator may keep what is free.
const SETTLING: Duration = Duration::from_secs(3);
/// Connections that are opened one after another before others get a turn.
const BURST: usize = 64;

/// How many of what.
#[derive(Args, Clone, Debug)]
pub struct CrowdArgs {
    /// Streams of 200 tokens at once, at 20 tokens a second each; 0: none.
    #[arg(long, default_value_t = 512)]
    pub streams: usize,
    /// The same at 2 tokens a second each; 0: none.
    #[arg(long, default_value_t = 4096)]
    pub slow_streams: usize,
    /// Connections that were used once and are kept open; 0: none.
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Tunnels whose providers do nothing; 0: none.
    #[arg(long, default_value_t = 2000)]
    pub tunnels: usize,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
}

/// What they took.
#[derive(Debug, Default, Serialize)]
pub struct Crowd {
    /// Streams at 20 tokens a second.
    pub streams: Option<Streams>,
    /// Streams at 2 tokens a second.
    pub slow_streams: Option<Streams>,
    /// Idle connections.
    pub connections: Option<Held>,
    /// Idle tunnels.
    pub tunnels: Option<Held>,
}

/// Many streams at once.
#[derive(Debug, Serialize)]
pub struct Streams {
    /// How many.
    pub count: usize,
    /// Those that were whole: all.
    pub whole: u64,
    /// Memory of the gateway, in KiB for each, while all run.
    pub kib_each: f64,
    /// From token to token.
    pub between_tokens_ms: Latency,
    /// What it cost.
    pub report: Report,
}

/// Many that are held open.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Held {
    /// How many.
    pub count: usize,
    /// Memory of the gateway, in KiB for each.
    pub kib_each: f64,
}

/// Measures and prints.
pub async fn run(args: &CrowdArgs) -> anyhow::Result<()> {
    print!("{}", crowd(args).await?.markdown());
    Ok(())
}

/// Measures, each on a network of its own, so that memory that one left behind does not serve the next.
pub async fn crowd(args: &CrowdArgs) -> anyhow::Result<Crowd> {
    let setup = Setup::new(args.bin.as_deref())?;
    let mut crowd = Crowd::default();
    if args.streams > 0 {
        crowd.streams = Some(streams(&setup, args.streams, NOVEL, Duration::from_millis(50)).await?);
    }
    if args.slow_streams > 0 {
        crowd.slow_streams = Some(streams(&setup, args.slow_streams, EPIC, Duration::from_millis(500)).await?);
    }
    if args.connections > 0 {
        crowd.connections = Some(connections(&setup, args.connections).await?);
    }
    if args.tunnels > 0 {
        crowd.tunnels = Some(tunnels(&setup, args.tunnels).await?);
    }
    Ok(crowd)
}

/// Every stream once; all run at the same time for most of it. Those that begin are not timed: all do so while it warms up.
async fn streams(setup: &Setup, count: usize, cue: &str, pace: Duration) -> anyhow::Result<Streams> {
    eprintln!("{count} streams");
    // As many as one tunnel carries would leave no room for the gateway's own polls on it.
    let (network, before) = fresh(&Setup { providers: 2, ..setup.clone() }).await?;
    let wording = Wording { stream_cue: cue.into(), ..Network::wording() };
    let ramp = RAMP.max(Duration::from_millis(3 * count as u64));
    // The first to begin must not have ended when it is over.
    let length = (pace * ANSWER_TOKENS).saturating_sub(ramp);
    let plan = Plan {
        target: network.target()?,
        mix: Mix::only(wording.ask(true, 200)),
        arrivals: Arrivals::Once,
        connections: count,
        warm_up: ramp * 2,
        length: length.saturating_sub(ramp).max(Duration::from_secs(1)),
        pid: Some(network.gateway.pid()),
    };
    let done = load::run(plan).await?;
    ensure!(done.report.is_clean(), "not every stream was whole:\n{}", done.report);
    let memory = done.report.memory.context("no memory was read")?;
    network.reconcile(&[&done.tally]).await?;
    let kib_each = (memory.rss_mib * 1024.0 - before) / count as f64;
    let between_tokens_ms = done.report.between_tokens_ms.clone().context("no token followed another")?;
    Ok(Streams { count, whole: done.report.whole, kib_each, between_tokens_ms, report: done.report })
}

async fn connections(setup: &Setup, count: usize) -> anyhow::Result<Held> {
    eprintln!("{count} idle connections");
    let (network, before) = fresh(setup).await?;
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        for _ in 0..BURST.min(count - held.len()) {
            held.push(used_once(network.port).await?);
        }
        tokio::task::yield_now().await;
    }
    let after = rss(&network)?;
    let open = process::used_by(network.gateway.pid())?.open_files;
    ensure!(open as usize >= count, "only {open} files are open");
    Ok(Held { count, kib_each: (after - before) / count as f64 })
}

/// A connection that has had one answer.
async fn used_once(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET /health/live HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).await?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).await?;
    ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
    Ok(stream)
}

async fn tunnels(setup: &Setup, count: usize) -> anyhow::Result<Held> {
    eprintln!("{count} idle tunnels");
    let (network, before) = fresh(setup).await?;
    let mut tunnels = Tunnels::new(network.port, Trade::Idle)?;
    tunnels.open(count).await?;
    // Each has been polled by then.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let after = rss(&network)?;
    let open = tunnels.count();
    ensure!(open == count, "{open} of {count} tunnels are left");
    Ok(Held { count, kib_each: (after - before) / count as f64 })
}

/// A network, and its gateway's memory once what starting took has been given back.
async fn fresh(setup: &Setup) -> anyhow::Result<(Network, f64)> {
    let network = setup.clone().start()?;
    network.gateway.wait_until_quiet().await?;
    tokio::time::sleep(SETTLING).await;
    let before = rss(&network)?;
    Ok((network, before))
}

/// Resident memory of the gateway, in KiB.
fn rss(network: &Network) -> anyhow::Result<f64> {
    Ok(process::used_by(network.gateway.pid())?.rss as f64 / 1024.0)
}

impl Crowd {
    /// A table.
    pub fn markdown(&self) -> String {
        let mut text = "| at once | whole | memory of each, KiB | between tokens p50 / p99 / p99.9 / max, ms | CPU per chunk, µs |\n|---|---|---|---|---|\n".to_owned();
        for (streams, pace) in [(&self.streams, 20), (&self.slow_streams, 2)] {
            let Some(Streams { count, whole, kib_each, between_tokens_ms: gap, report }) = streams else { continue };
            let cpu = report.cpu.and_then(|cpu| cpu.us_per_chunk).map_or("-".into(), |micros| format!("{micros:.1}"));
            text += &format!(
                "| {count} streams at {pace} tokens/s | {whole} of {whole} | {kib_each:.1} | {:.1} / {:.1} / {:.1} / {:.1} | {cpu} |\n",
                gap.p50, gap.p99, gap.p999, gap.max
            );
        }
        for (held, name) in [(self.connections, "idle connections"), (self.tunnels, "idle tunnels")] {
            let Some(Held { count, kib_each }) = held else { continue };
            text += &format!("| {count} {name} | | {kib_each:.1} | | |\n");
        }
        text
    }
}
