//! What a request costs the gateway, and what it costs others: the same loads on each in turn, several rounds, medians,
//! and ratios to the first peer of the same round, because microseconds of different machines cannot be compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use crate::ask::{Mix, Wording};
use crate::client::Target;
use crate::load::{self, Arrivals, Done, Plan};
use crate::network::{Network, Setup};
use crate::peers::{Peer, Running, Upstream};
use crate::process;
use crate::report::{Memory, Report};
use crate::servers::Server;

/// What the gateway is called beside its peers.
const OURS: &str = "lumbung";
/// The upstream, asked without anybody between.
const DIRECT: &str = "direct";

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Servers to run beside the gateway. Ratios are to the first; one that is not installed is left out, and named.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Nginx])]
    pub beside: Vec<Peer>,
    /// How often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long each load counts.
    #[arg(long, default_value_t = 8.0)]
    pub seconds: f64,
    /// Connections of the load that is not streamed.
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Its requests per second: fewer than SQLite settles, because a queue that fills answers 503.
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// Streams at once, at 50 tokens a second each.
    #[arg(long, default_value_t = 256)]
    pub streams: usize,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
    /// Where the books are: a database's URL; a SQLite file, whose work is the gateway's own, if absent.
    #[arg(long)]
    pub database: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The figures.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Of the gateway's binary, in MiB.
    pub binary_mib: f64,
    /// Of the gateway before any load.
    pub idle: Memory,
    /// Everyone's figures, the gateway's first.
    pub servers: Vec<Figures>,
    /// Peers that are not installed.
    pub missing: Vec<&'static str>,
    /// The load that is not streamed, on the gateway, in the last round.
    pub completion: Report,
    /// The streamed load, on the gateway, in the last round.
    pub stream: Report,
}

/// Medians over all rounds.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Who.
    pub name: &'static str,
    /// Its version, as installed.
    pub version: String,
    /// By name, each with its ratio to the first peer's in the same round.
    pub medians: BTreeMap<&'static str, Median>,
}

/// One figure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Median {
    /// Itself.
    pub figure: f64,
    /// Times the first peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// What is measured, with units.
pub const FIGURES: [&str; 8] = [
    "CPU µs per request",
    "without the books",
    "CPU µs per chunk",
    "added p50, µs",
    "added p99, µs",
    "added to the first token p50, µs",
    "added to the first token p99, µs",
    "peak memory, MiB",
];

/// Someone who is put under load.
struct Contestant<'a> {
    name: &'static str,
    version: String,
    target: Target,
    server: Option<&'a Server>,
    share: f64,
    rounds: Vec<[f64; FIGURES.len()]>,
}

/// Measures and prints.
pub async fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let comparison = compare(args).await?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&comparison)?),
        false => print!("{}", comparison.markdown()),
    }
    Ok(())
}

/// Measures.
pub async fn compare(args: &CompareArgs) -> anyhow::Result<Comparison> {
    let setup = Setup::new(args.bin.as_deref())?;
    let binary_mib = fs::metadata(setup.bin.join("lumbung-gateway"))?.len() as f64 / f64::from(1 << 20);
    let network = Setup { database: args.database.clone(), ..setup }.start()?;
    let idle = Memory::of(&process::used_by(network.gateway.pid())?);
    let upstream = Upstream::start(&std::env::current_exe()?)?;
    let (mut peers, mut missing): (Vec<(Peer, Running)>, _) = (Vec::new(), Vec::new());
    for peer in &args.beside {
        match peer.start(&upstream)? {
            Some(running) => peers.push((*peer, running)),
            None => missing.push(peer.name()),
        }
    }
    let mut all = vec![
        Contestant::new(DIRECT, upstream.target.clone(), None),
        Contestant::new(OURS, network.target()?, Some(&network.gateway)),
    ];
    all[1].version = env!("CARGO_PKG_VERSION").to_owned();
    for (peer, running) in &peers {
        let mut contestant = Contestant::new(peer.name(), running.target.clone(), Some(&running.server));
        contestant.share = peer.share();
        contestant.version = peer.version().unwrap_or_default();
        all.push(contestant);
    }

    let (mut last, mut loads) = (None, Vec::new());
    for round in 0..args.rounds {
        for contestant in &mut all {
            eprintln!("round {} of {}: {}", round + 1, args.rounds, contestant.name);
            let measured = contestant.measure(args).await.with_context(|| contestant.name)?;
            contestant.rounds.push(measured.figures);
            if contestant.name == OURS {
                last = Some((measured.completion.report.clone(), measured.stream.report.clone()));
                loads.extend([measured.completion, measured.stream, measured.single, measured.single_stream]);
            }
        }
    }
    network.reconcile(&loads.iter().map(|load| &load.tally).collect::<Vec<_>>()).await?;
    let (completion, stream) = last.context("no round")?;
    Ok(Comparison { binary_mib, idle, servers: figures(&all), missing, completion, stream })
}

/// One round of one contestant.
struct Measured {
    figures: [f64; FIGURES.len()],
    completion: Done,
    stream: Done,
    single: Done,
    single_stream: Done,
}

impl<'a> Contestant<'a> {
    fn new(name: &'static str, target: Target, server: Option<&'a Server>) -> Self {
        Self { name, version: String::new(), target, server, share: 1.0, rounds: Vec::new() }
    }

    async fn measure(&self, args: &CompareArgs) -> anyhow::Result<Measured> {
        let wording = Network::wording();
        let quick = Wording { stream_cue: String::new(), ..Network::wording() };
        let asks = [wording.ask(false, 1024), wording.ask(true, 200), wording.ask(false, 1024), quick.ask(true, 200)];
        let [completion, stream, single, single_stream] = asks.map(Mix::only);
        let streams = ((args.streams as f64 * self.share) as usize).max(2);
        let rate = Arrivals::Rate(args.rate * self.share);
        let stream = self.load(args, stream, Arrivals::Closed, streams).await?;
        let completion = self.load(args, completion, rate, args.connections).await?;
        let single = self.load(args, single, Arrivals::Closed, 1).await?;
        let single_stream = self.load(args, single_stream, Arrivals::Closed, 1).await?;
        let micros = |ms: f64| ms * 1000.0;
        let figures = [
            completion.report.cpu.map_or(0.0, |cpu| cpu.us_per_request),
            completion.report.cpu.map_or(0.0, |cpu| cpu.us_per_request - cpu.books_us_per_request),
            stream.report.cpu.and_then(|cpu| cpu.us_per_chunk).unwrap_or(0.0),
            micros(single.report.total_ms.p50),
            micros(single.report.total_ms.p99),
            micros(single_stream.report.first_token_ms.p50),
            micros(single_stream.report.first_token_ms.p99),
            completion.report.memory.map_or(0.0, |memory| memory.peak_rss_mib),
        ];
        Ok(Measured { figures, completion, stream, single, single_stream })
    }

    async fn load(&self, args: &CompareArgs, mix: Mix, arrivals: Arrivals, connections: usize) -> anyhow::Result<Done> {
        if let Some(server) = self.server {
            server.wait_until_quiet().await?;
        }
        let plan = Plan {
            target: self.target.clone(),
            mix,
            arrivals,
            connections,
            warm_up: Duration::from_secs(2),
            length: Duration::try_from_secs_f64(args.seconds)?,
            pid: self.server.map(Server::pid),
        };
        let done = load::run(plan).await?;
        ensure!(done.report.is_clean(), "not every answer was whole:\n{}", done.report);
        Ok(done)
    }

    /// A figure of each round, less what the upstream takes by itself where it is a time.
    fn column(&self, figure: usize, direct: &Self) -> Vec<f64> {
        let taken_off =
            |round: usize| if FIGURES[figure].starts_with("added") { direct.rounds[round][figure] } else { 0.0 };
        self.rounds.iter().enumerate().map(|(round, figures)| figures[figure] - taken_off(round)).collect()
    }
}

fn figures(all: &[Contestant<'_>]) -> Vec<Figures> {
    let (direct, floor) = (&all[0], all.get(2));
    let of = |contestant: &Contestant<'_>| {
        let medians = FIGURES.iter().enumerate().map(|(place, name)| {
            let column = contestant.column(place, direct);
            let ratio = floor.map(|floor| {
                let floor = floor.column(place, direct);
                median(column.iter().zip(&floor).map(|(ours, floor)| ours / floor.max(0.1)).collect())
            });
            (*name, Median { figure: median(column), ratio })
        });
        Figures { name: contestant.name, version: contestant.version.clone(), medians: medians.collect() }
    };
    all[1..].iter().map(of).collect()
}

/// The middle one; of two, the mean.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => figures[count / 2],
        count => f64::midpoint(figures[count / 2 - 1], figures[count / 2]),
    }
}

impl Comparison {
    /// A figure of everyone.
    pub fn row(&self, figure: &str) -> Vec<(String, f64)> {
        let of = |server: &Figures| Some((server.name.to_owned(), server.medians.get(figure)?.figure));
        self.servers.iter().filter_map(of).collect()
    }

    /// A table: a row for each figure, a column for each server.
    pub fn markdown(&self) -> String {
        let names = self.servers.iter().map(|server| format!(" {} {} |", server.name, server.version));
        let mut text = format!("| |{}\n|---|{}\n", names.collect::<String>(), "---|".repeat(self.servers.len()));
        for figure in FIGURES {
            text += &format!("| {figure} |");
            for server in &self.servers {
                let Some(Median { figure, ratio }) = server.medians.get(figure) else { continue };
                match ratio {
                    Some(ratio) => text += &format!(" {figure:.1} ({ratio:.2} ×) |"),
                    None => text += &format!(" {figure:.1} |"),
                }
            }
            text += "\n";
        }
        let floor = self.servers.get(1).map_or("nobody", |server| server.name);
        text += &format!(
            "\nIn brackets: times {floor}'s in the same round. The gateway's memory before any load: {:.1} MiB; its binary: {:.1} MiB.\n",
            self.idle.rss_mib, self.binary_mib
        );
        if !self.missing.is_empty() {
            text += &format!("Not installed here, and so not measured: {}.\n", self.missing.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
