//! A mixture for a long time: nothing grows once it is warm, and the books are exact in the end.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use serde::Serialize;

use crate::ask::{Mix, Scenario};
use crate::figures::median;
use crate::load::{self, Arrivals, Plan};
use crate::network::{Network, Reconciled, Setup};
use crate::process;
use crate::report::Report;

/// How often memory and files are looked at.
const SAMPLED: Duration = Duration::from_millis(500);
/// What may come and go beside what grows: an allocator's arenas, files of a moment.
const SLACK_MIB: f64 = 8.0;
const SLACK_FILES: f64 = 24.0;

/// How much for how long.
#[derive(Args, Clone, Debug)]
pub struct SoakArgs {
    /// How long.
    #[arg(long, default_value_t = 900.0)]
    pub seconds: f64,
    /// Requests per second, of all kinds together.
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// Connections at once, at most.
    #[arg(long, default_value_t = 1024)]
    pub connections: usize,
    /// What is asked, and how answers are read.
    #[arg(long, value_enum, default_value_t = Scenario::Mixed)]
    pub scenario: Scenario,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Soaked {
    /// The load.
    pub report: Report,
    /// Memory of the gateway, in MiB: the medians of the second and of the last quarter.
    pub rss_mib: (f64, f64),
    /// Its open files in the same quarters.
    pub open_files: (f64, f64),
    /// Memory over time, in MiB, for a plot.
    pub rss_curve: Vec<f64>,
    /// What clients and books agree on.
    #[serde(skip)]
    pub books: Reconciled,
}

/// Runs, prints, and checks.
pub async fn run(args: &SoakArgs) -> anyhow::Result<()> {
    let soaked = soak(args).await?;
    print!("{}", soaked.markdown());
    soaked.check()
}

/// Runs. Answers that are not whole and books that are not exact are errors.
pub async fn soak(args: &SoakArgs) -> anyhow::Result<Soaked> {
    let network = Setup::new(args.bin.as_deref())?.start()?;
    let pid = network.gateway.pid();
    let load = load::run(Plan {
        target: network.target()?,
        mix: Mix::of(args.scenario, &Network::wording()),
        arrivals: Arrivals::Rate(args.rate),
        connections: args.connections,
        warm_up: Duration::from_secs(2),
        length: Duration::try_from_secs_f64(args.seconds)?,
        pid: Some(pid),
    });
    let (mut load, mut samples) = (pin!(load), Vec::new());
    let length = Duration::try_from_secs_f64(args.seconds)?;
    let begun = Instant::now();
    let done = loop {
        tokio::select! {
            done = load.as_mut() => break done?,
            () = tokio::time::sleep(SAMPLED) => {
                // What the last answers leave as they end is no part of it.
                if begun.elapsed() < length {
                    samples.push(process::used_by(pid)?);
                }
            }
        }
    };
    ensure!(done.report.is_clean(), "not every answer was whole:\n{}", done.report);
    let books = network.reconcile(&[&done.tally]).await?;
    let mib: Vec<f64> = samples.iter().map(|used| used.rss as f64 / f64::from(1 << 20)).collect();
    let files: Vec<f64> = samples.iter().map(|used| used.open_files as f64).collect();
    let quarters = |series: &[f64]| {
        let quarter = series.len() / 4;
        (median(series[quarter..2 * quarter].to_vec()), median(series[3 * quarter..].to_vec()))
    };
    let (rss_mib, open_files) = (quarters(&mib), quarters(&files));
    Ok(Soaked { report: done.report, rss_mib, open_files, rss_curve: mib, books })
}

impl Soaked {
    /// Nothing may have grown between the second quarter and the last, by more than a tenth and a little.
    pub fn check(&self) -> anyhow::Result<()> {
        let ((before, after), (files, later)) = (self.rss_mib, self.open_files);
        ensure!(after <= before * 1.1 + SLACK_MIB, "memory grew from {before:.1} to {after:.1} MiB");
        ensure!(later <= files * 1.1 + SLACK_FILES, "open files grew from {files} to {later}");
        ensure!(self.report.whole > 0 && self.report.left > 0, "nobody left, or everybody did");
        Ok(())
    }

    /// The figures.
    pub fn markdown(&self) -> String {
        let Reconciled { requests, left, prompt_tokens, completion_tokens, charge } = self.books;
        format!(
            "{}\nMemory of the gateway: {:.1} MiB in the second quarter, {:.1} MiB in the last (medians). \
             Open files: {:.0} and {:.0}.\n\nBooks and clients agree on {requests} requests ({left} left by their readers), \
             {prompt_tokens} + {completion_tokens} tokens, ${charge}.\n",
            self.report.markdown(),
            self.rss_mib.0,
            self.rss_mib.1,
            self.open_files.0,
            self.open_files.1,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soaked(rss_mib: (f64, f64), open_files: (f64, f64)) -> Soaked {
        let report = Report { whole: 1, left: 1, ..Report::default() };
        Soaked { report, rss_mib, open_files, rss_curve: Vec::new(), books: Reconciled::default() }
    }

    #[test]
    fn what_grows_is_found() {
        assert!(soaked((60.0, 70.0), (300.0, 310.0)).check().is_ok());
        assert!(soaked((60.0, 80.0), (300.0, 300.0)).check().is_err());
        assert!(soaked((60.0, 60.0), (300.0, 400.0)).check().is_err());
    }
}
