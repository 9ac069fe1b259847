//! `RESULTS.md`: everything that is measured, a section for each, with the commands, the machine, and what was not measured.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::ask::Scenario;
use crate::compare::{self, CompareArgs, Comparison};
use crate::crowd::{self, CrowdArgs};
use crate::instructions;
use crate::network::Setup;
use crate::peers::Peer;
use crate::plot;
use crate::runtime::{self, RuntimeArgs};
use crate::scale::{self, ScaleArgs};
use crate::soak::{self, SoakArgs};

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct ResultsArgs {
    /// The folder of RESULTS.md; its plots go into `results/` beside it.
    #[arg(long, default_value = "loadtest")]
    out: PathBuf,
    /// Sections to write anew; the others stay as they are.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Section::value_variants().to_vec())]
    only: Vec<Section>,
    /// Whom to compare with.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Peer::value_variants().to_vec())]
    beside: Vec<Peer>,
    /// Rounds of the comparison.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Rounds of the engine alone and through gateway and provider.
    #[arg(long, default_value_t = 3)]
    engine_rounds: usize,
    /// Accounts that ask in turn, in ascending order.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000, 100_000])]
    accounts: Vec<usize>,
    /// How long each load counts, of those that are compared.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// How long the mixture runs.
    #[arg(long, default_value_t = 900.0)]
    soak_seconds: f64,
    /// An empty Postgres database, for several gateways on the same books and for books that are not in SQLite.
    #[arg(long, env = "LUMBUNG_TEST_POSTGRES", hide_env_values = true)]
    database: Option<String>,
    /// A Redis for the same.
    #[arg(long, env = "LUMBUNG_TEST_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// Folder of binaries of which the provider was built with the embedded engine; like the others' by default.
    #[arg(long)]
    engine_bin: Option<PathBuf>,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    bin: Option<PathBuf>,
}

/// One section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    Compare,
    Crowd,
    Soak,
    Scale,
    Runtime,
    Instructions,
}

/// What surrounds the sections; each stands where its name is.
const PAGE: &str = include_str!("results.md");

/// Measures, and writes each section as soon as it is measured.
pub async fn run(args: &ResultsArgs) -> anyhow::Result<()> {
    let plots = args.out.join("results");
    fs::create_dir_all(&plots)?;
    let path = args.out.join("RESULTS.md");
    for section in &args.only {
        let text = section.measure(args, &plots).await?;
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, page(&before, *section, &format!("{}\n\n{}", machine(), text.trim())))?;
    }
    Ok(())
}

impl Section {
    async fn measure(self, args: &ResultsArgs, plots: &Path) -> anyhow::Result<String> {
        let bin = args.bin.clone();
        Ok(match self {
            Self::Compare => {
                let (beside, on_postgres) = (args.beside.clone(), args.database.clone());
                let (rounds, seconds, warm_up) = (args.rounds, args.seconds, 2.0);
                let (connections, rates, streams, database, json) = (8, vec![1000.0, 3000.0], 256, None, false);
                let shown = compare::cpu_per_request(rates[0]);
                let args =
                    CompareArgs { beside, rounds, seconds, warm_up, connections, rates, streams, bin, database, json };
                let comparison = compare::compare(&args).await?;
                draw(&comparison, &shown, plots)?;
                let mut text = format!("{rounds} rounds of {seconds} s for each load.\n\n{}", comparison.markdown());
                if let Some(database) = on_postgres {
                    let args = CompareArgs { beside: vec![Peer::Nginx], database: Some(database), ..args };
                    let comparison = compare::compare(&args).await?.markdown();
                    text += &format!(
                        "\nThe same with the books in Postgres, whose own work is not counted:\n\n{comparison}"
                    );
                }
                text
            }
            Self::Crowd => {
                let args = CrowdArgs { streams: 512, slow_streams: 4096, connections: 10_000, tunnels: 2000, bin };
                crowd::crowd(&args).await?.markdown()
            }
            Self::Soak => {
                let (rate, connections, scenario) = (100.0, 1024, Scenario::Mixed);
                let args = SoakArgs { seconds: args.soak_seconds, rate, connections, scenario, bin };
                let soaked = soak::soak(&args).await?;
                soaked.check()?;
                let latencies = soaked.report.latencies();
                let lines: Vec<_> = latencies.iter().map(|(name, latency)| (*name, &latency.curve[..])).collect();
                fs::write(plots.join("soak.svg"), plot::percentiles("A mixture of everything", &lines))?;
                soaked.markdown()
            }
            Self::Scale => {
                let prompts = (0..6).map(|power| 1024 << (2 * power)).collect();
                let (providers, stubs) = (vec![1, 10, 100], vec![100, 1000, 10_000]);
                let (accounts, replicas) = (args.accounts.clone(), vec![1, 2, 3]);
                // Every tunnel is polled within the time of rest.
                let (rate, seconds, rest) = (400.0, args.seconds, 6.0);
                let (database, redis) = (args.database.clone(), args.redis.clone());
                let args = ScaleArgs {
                    prompts,
                    providers,
                    stubs,
                    accounts,
                    replicas,
                    rate,
                    seconds,
                    rest,
                    database,
                    redis,
                    bin,
                };
                scale::markdown(&scale::scale(&args).await?)
            }
            Self::Runtime => {
                let (streams, engine_streams, seconds) = (vec![1, 8, 64], vec![1, 8], args.seconds);
                let (engine_rounds, engine_bin) = (args.engine_rounds, args.engine_bin.clone());
                let args = RuntimeArgs { streams, seconds, engine_streams, engine_rounds, engine_bin, bin };
                runtime::runtime(&args).await?.markdown()
            }
            Self::Instructions => {
                let counted = instructions::count(&Setup::new(args.bin.as_deref())?, 60, None).await?;
                format!(
                    "Built for {}: {} instructions for an answer in one piece ({} with traces sampled at 1 %), {} for a streamed one of 7 pieces.",
                    instructions::build(),
                    counted.completion,
                    counted.traced,
                    counted.stream
                )
            }
        })
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn draw(comparison: &Comparison, cpu_per_request: &str, plots: &Path) -> anyhow::Result<()> {
    let files = [(cpu_per_request, "request.svg"), ("CPU µs per chunk", "chunk.svg")];
    for (figure, file) in files {
        // One that takes a hundred times as much would leave nothing to be seen of the others.
        let mut row = comparison.table.row(figure);
        let least = row.iter().map(|(_, figure)| *figure).fold(f64::INFINITY, f64::min);
        row.retain(|(_, figure)| *figure < 50.0 * least);
        fs::write(plots.join(file), plot::bars(figure, "µs", &row))?;
    }
    let curves = [
        ("in one piece", &comparison.completion.total_ms),
        ("first token", &comparison.stream.first_token_ms),
        ("next token", comparison.stream.between_tokens_ms.as_ref().unwrap_or(&comparison.stream.first_token_ms)),
    ];
    let lines: Vec<_> = curves.iter().map(|(name, latency)| (*name, &latency.curve[..])).collect();
    Ok(fs::write(plots.join("latency.svg"), plot::percentiles("lumbung: times by percentile", &lines))?)
}

/// The page with one section anew and the others as they were.
fn page(before: &str, section: Section, text: &str) -> String {
    let mut page = PAGE.to_owned();
    for other in Section::value_variants() {
        let (begin, end) = (format!("<!-- {} -->", other.name()), format!("<!-- /{} -->", other.name()));
        let kept = before.split_once(&begin).and_then(|(_, rest)| Some(rest.split_once(&end)?.0.trim()));
        let body = if *other == section { text } else { kept.unwrap_or("Not measured yet.") };
        page = page.replace(&format!("{begin}{end}"), &format!("{begin}\n{body}\n{end}"));
    }
    page
}

/// What it was measured on, and when.
fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "*{cores} cores ({model}), Linux {}; {}; load average when it was done: {load}.*",
        kernel.trim(),
        instructions::build()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_written_and_the_others_stay() {
        let first = page("", Section::Crowd, "many");
        let second = page(&first, Section::Soak, "long");
        assert!(second.contains("<!-- crowd -->\nmany\n<!-- /crowd -->"), "{second}");
        assert!(second.contains("<!-- soak -->\nlong\n<!-- /soak -->"), "{second}");
        let third = page(&second, Section::Crowd, "more");
        assert!(third.contains("\nmore\n") && third.contains("\nlong\n") && !third.contains("\nmany\n"), "{third}");
        let begins = |section: &Section| PAGE.contains(&format!("<!-- {0} --><!-- /{0} -->", section.name()));
        assert!(Section::value_variants().iter().all(begins), "each has its place");
    }
}
