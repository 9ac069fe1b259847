//! What a request costs the gateway, and what it costs others: the same loads on each in turn, several rounds. What is added
//! to an answer's time is the time through a server less that of what stands behind it: the plain upstream behind peers, a
//! provider behind the gateway.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use crate::ask::{Ask, Mix};
use crate::client::Target;
use crate::direct;
use crate::figures::{Column, Round, Table};
use crate::load::{self, Arrivals, Done, Plan};
use crate::network::{Network, Setup};
use crate::peers::{Peer, Running, Upstream};
use crate::process;
use crate::report::{Latency, Memory, Report};
use crate::servers::Server;
use crate::tally::Tally;

/// What the gateway is called beside its peers.
const OURS: &str = "lumbung";

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
    /// Load before that.
    #[arg(long, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Connections of the load that is not streamed.
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Its requests per second, one load for each: fewer than SQLite settles, because a queue that fills answers 503.
    #[arg(long = "rate", value_name = "RATE", value_delimiter = ',', default_values_t = [1000.0, 3000.0])]
    pub rates: Vec<f64>,
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

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Of the gateway's binary, in MiB.
    pub binary_mib: f64,
    /// Of the gateway before any load.
    pub idle: Memory,
    /// Everyone's figures, the gateway's first.
    #[serde(flatten)]
    pub table: Table,
    /// Peers that are not installed.
    pub missing: Vec<&'static str>,
    /// The load that is not streamed, on the gateway, at the first rate in the last round.
    pub completion: Report,
    /// The streamed load, on the gateway, in the last round.
    pub stream: Report,
}

/// What the figure is called that has the CPU time of a request at so many a second.
pub fn cpu_per_request(rate: f64) -> String {
    format!("CPU µs per request at {rate}/s")
}

/// Someone who is put under load.
struct Contestant<'a> {
    target: Target,
    /// Whose CPU time and memory is told.
    server: Option<&'a Server>,
    /// What providers still have to offer after a load.
    network: Option<&'a Network>,
    share: f64,
    column: Column,
}

/// One round of one contestant.
struct Measured {
    completions: Vec<Done>,
    stream: Done,
    singles: [Done; 2],
}

/// How long answers take over one connection, each asked for when the one before has come, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    p50: f64,
    p99: f64,
    first_token_p50: f64,
    first_token_p99: f64,
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
    let setup = Setup { database: args.database.clone(), ..Setup::new(args.bin.as_deref())? };
    let binary_mib = fs::metadata(setup.bin.join("lumbung-gateway"))?.len() as f64 / f64::from(1 << 20);
    let network = setup.clone().start()?;
    let idle = Memory::of(&process::used_by(network.gateway.pid())?);
    let upstream = Upstream::start(&setup.bin.join("lumbung-loadtest"))?;
    let (mut running, mut missing): (Vec<(Peer, Running)>, _) = (Vec::new(), Vec::new());
    for peer in &args.beside {
        match peer.start(&upstream)? {
            Some(started) => running.push((*peer, started)),
            None => missing.push(peer.name()),
        }
    }
    let upstream = Contestant::new("the upstream alone", upstream.target.clone(), None);
    let mut ours = Contestant::new(OURS, network.target()?, Some(&network.gateway));
    env!("CARGO_PKG_VERSION").clone_into(&mut ours.column.version);
    ours.network = Some(&network);
    let mut peers: Vec<Contestant<'_>> = running.iter().map(|(peer, running)| Contestant::of(*peer, running)).collect();

    let (mut last, mut tallies) = (None, Vec::new());
    for round in 1..=args.rounds {
        let tell = |who: &str| eprintln!("round {round} of {}: {who}", args.rounds);
        tell(upstream.column.name);
        let upstream_alone = Times::of(&upstream.singles(args).await.context("the upstream alone")?);
        tell("the provider alone");
        let provider_alone = Times::of_provider(&setup, args).await?;
        tell(OURS);
        let measured = ours.measure(args).await.context(OURS)?;
        ours.column.rounds.push(measured.figures(args, provider_alone, Some(upstream_alone))?);
        last = Some((measured.completions[0].report.clone(), measured.stream.report.clone()));
        tallies.extend(measured.into_tallies());
        for peer in &mut peers {
            tell(peer.column.name);
            let measured = peer.measure(args).await.context(peer.column.name)?;
            peer.column.rounds.push(measured.figures(args, upstream_alone, None)?);
        }
    }
    network.reconcile(&tallies.iter().collect::<Vec<_>>()).await?;
    let (completion, stream) = last.context("no round")?;
    let columns: Vec<&Column> = [&ours].into_iter().chain(&peers).map(|contestant| &contestant.column).collect();
    Ok(Comparison { binary_mib, idle, table: Table::of(&columns), missing, completion, stream })
}

impl<'a> Contestant<'a> {
    fn new(name: &'static str, target: Target, server: Option<&'a Server>) -> Self {
        Self { target, server, network: None, share: 1.0, column: Column::new(name, String::new()) }
    }

    fn of(peer: Peer, running: &'a Running) -> Self {
        let column = Column::new(peer.name(), peer.version().unwrap_or_default());
        let contestant = Self::new(peer.name(), running.target.clone(), Some(&running.server));
        Self { share: peer.share(), column, ..contestant }
    }

    async fn measure(&self, args: &CompareArgs) -> anyhow::Result<Measured> {
        let wording = Network::wording();
        let streams = ((args.streams as f64 * self.share) as usize).max(2);
        let stream = self.load(args, wording.ask(true, 200), Arrivals::Closed, streams).await?;
        let mut completions = Vec::new();
        for rate in &args.rates {
            let arrivals = Arrivals::Rate(rate * self.share);
            completions.push(self.load(args, wording.ask(false, 1024), arrivals, args.connections).await?);
        }
        Ok(Measured { completions, stream, singles: self.singles(args).await? })
    }

    /// Over one connection, as fast as it is answered: in one piece, and streamed.
    async fn singles(&self, args: &CompareArgs) -> anyhow::Result<[Done; 2]> {
        let [whole, streamed] = direct::asks();
        let whole = self.load(args, whole, Arrivals::Closed, 1).await?;
        Ok([whole, self.load(args, streamed, Arrivals::Closed, 1).await?])
    }

    async fn load(&self, args: &CompareArgs, ask: Ask, arrivals: Arrivals, connections: usize) -> anyhow::Result<Done> {
        if let Some(server) = self.server {
            server.wait_until_quiet().await?;
        }
        let plan = Plan {
            target: self.target.clone(),
            mix: Mix::only(ask),
            arrivals,
            connections,
            warm_up: Duration::try_from_secs_f64(args.warm_up)?,
            length: Duration::try_from_secs_f64(args.seconds)?,
            pid: self.server.map(Server::pid),
        };
        let done = load::run(plan).await?;
        ensure!(done.report.is_clean(), "not every answer was whole:\n{}", done.report);
        if let Some(network) = self.network {
            network.wait_for_receipts().await?;
        }
        Ok(done)
    }
}

impl Measured {
    /// What it came to. `behind` it stands what takes so long by itself; where that is not the upstream, which stands behind
    /// its peers, what is added to the `upstream` is told, too.
    fn figures(&self, args: &CompareArgs, behind: Times, upstream: Option<Times>) -> anyhow::Result<Round> {
        let mut figures = Round::default();
        for (rate, completion) in args.rates.iter().zip(&self.completions) {
            let cpu = completion.report.cpu.context("no CPU time was read")?;
            let name = cpu_per_request(*rate);
            let without_books = cpu.us_per_request - cpu.books_us_per_request;
            figures.note(&*name, cpu.us_per_request);
            figures.note(format!("{name}, without the books"), without_books);
        }
        let per_chunk = self.stream.report.cpu.and_then(|cpu| cpu.us_per_chunk);
        figures.note("CPU µs per chunk", per_chunk.context("nothing was streamed")?);
        let times = Times::of(&self.singles);
        figures.note("added p50, µs", times.p50 - behind.p50);
        figures.note("added p99, µs", times.p99 - behind.p99);
        figures.note("added to the first token p50, µs", times.first_token_p50 - behind.first_token_p50);
        figures.note("added to the first token p99, µs", times.first_token_p99 - behind.first_token_p99);
        if let Some(upstream) = upstream {
            let added = times.first_token_p50 - upstream.first_token_p50;
            figures.note("added p50 with the provider, µs", times.p50 - upstream.p50);
            figures.note("added to the first token p50 with the provider, µs", added);
        }
        let memory = self.completions.last().and_then(|completion| completion.report.memory);
        figures.note("peak memory, MiB", memory.context("no memory was read")?.peak_rss_mib);
        Ok(figures)
    }

    fn into_tallies(self) -> impl Iterator<Item = Tally> {
        self.completions.into_iter().chain([self.stream]).chain(self.singles).map(|done| done.tally)
    }
}

impl Times {
    fn of([whole, streamed]: &[Done; 2]) -> Self {
        Self::from_latencies(&whole.report.total_ms, &streamed.report.first_token_ms)
    }

    /// Of a provider that is asked directly: [`crate::direct`].
    async fn of_provider(setup: &Setup, args: &CompareArgs) -> anyhow::Result<Self> {
        let [warm_up, length] = [args.warm_up, args.seconds].map(Duration::try_from_secs_f64);
        let (warm_up, length, [whole, streamed]) = (warm_up?, length?, direct::asks());
        let whole = direct::measure(setup, &whole, warm_up, length).await?;
        let streamed = direct::measure(setup, &streamed, warm_up, length).await?;
        Ok(Self::from_latencies(&whole.total_ms, &streamed.first_token_ms))
    }

    fn from_latencies(whole: &Latency, first_token: &Latency) -> Self {
        let micros = |ms: f64| ms * 1000.0;
        Self {
            p50: micros(whole.p50),
            p99: micros(whole.p99),
            first_token_p50: micros(first_token.p50),
            first_token_p99: micros(first_token.p99),
        }
    }
}

impl Comparison {
    /// A table: a row for each figure, a column for each server.
    pub fn markdown(&self) -> String {
        let floor = self.table.servers.get(1).map_or("nobody", |server| server.name);
        let mut text = format!(
            "{}\nIn brackets: times {floor}'s in the same round. The gateway's memory before any load: {:.1} MiB; its binary: {:.1} MiB.\n",
            self.table.markdown(),
            self.idle.rss_mib,
            self.binary_mib
        );
        if !self.missing.is_empty() {
            text += &format!("Not installed here, and so not measured: {}.\n", self.missing.join(", "));
        }
        text
    }
}
