//! How many instructions a request takes, counted by Valgrind: the same every time, on a busy machine as on an idle one.
//!
//! The whole gateway is counted, with its books switched on, from the socket to the settled job. It is run four times for
//! equally long: with a few requests, with more of one kind, with more of the other, and with more of the first of which some
//! are part of a sampled trace; what is told are the differences, so that starting, stopping and what goes on in the
//! background fall out. There is a pause after each request, in which its settlement and its receipt are dealt with by
//! themselves: how many are taken together would be left to chance.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::ask::Ask;
use crate::client::{Connection, Outcome};
use crate::network::{Network, Setup};
use crate::peers::Upstream;
use crate::tally::Live;

/// How much slower everything is.
const SLOWER: u32 = 10;
/// Asked before anything is compared: keys are cached then, and tables have grown.
const WARM_UP: u32 = 10;
/// One request in so many is part of a sampled trace, where traces are sampled at 1 %…
const SAMPLED_OF: u64 = 100;
/// …and in so many here, so that what they cost stands out.
const SAMPLED_HERE: u32 = 6;
/// As the caller of a sampled one says.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// After each request.
const PAUSE: Duration = Duration::from_millis(150);

/// What to count.
#[derive(Args, Clone, Debug)]
pub struct InstructionsArgs {
    /// Requests of each kind.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: u32,
    /// Compare with this file, and fail where more than a tenth has been added.
    #[arg(long)]
    pub baseline: Option<PathBuf>,
    /// Write that file anew.
    #[arg(long, requires = "baseline")]
    pub write: bool,
    /// A folder to keep Valgrind's profiles in, for `cg_annotate`.
    #[arg(long)]
    pub profiles: Option<PathBuf>,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    pub bin: Option<PathBuf>,
}

/// Instructions of the gateway, in all its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instructions {
    /// For an answer in one piece.
    pub completion: u64,
    /// For a streamed answer of seven pieces.
    pub stream: u64,
    /// For an answer in one piece, where traces are sampled at 1 % and sent.
    #[serde(default, skip_serializing)]
    pub traced: u64,
}

/// By how the programs were built: `x86_64, opt-level 3, dist`. Figures of one say nothing about another.
pub type Baseline = BTreeMap<String, Instructions>;

/// Counts and prints, and compares.
pub async fn run(args: &InstructionsArgs) -> anyhow::Result<()> {
    let counted = count(&Setup::new(args.bin.as_deref())?, args.requests, args.profiles.as_deref()).await?;
    println!("{}: {}, traced {}", build(), serde_json::to_string(&counted)?, counted.traced);
    match &args.baseline {
        Some(path) if args.write => write(path, counted),
        Some(path) => counted.compare(&read(path)?),
        None => Ok(()),
    }
}

/// How this program was built, and with it the gateway.
pub fn build() -> String {
    format!("{}, opt-level {}, {}", std::env::consts::ARCH, env!("LUMBUNG_OPT_LEVEL"), env!("LUMBUNG_PROFILE"))
}

/// Reads a baseline.
pub fn read(path: &Path) -> anyhow::Result<Baseline> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no baseline", path.display()))
}

fn write(path: &Path, counted: Instructions) -> anyhow::Result<()> {
    let mut baseline = if path.exists() { read(path)? } else { Baseline::new() };
    baseline.insert(build(), counted);
    Ok(fs::write(path, serde_json::to_string_pretty(&baseline)? + "\n")?)
}

/// Counts. Valgrind's profiles are left in a folder, if one is named.
pub async fn count(setup: &Setup, requests: u32, profiles: Option<&Path>) -> anyhow::Result<Instructions> {
    let folder = tempfile::tempdir()?;
    let profiles = profiles.unwrap_or(folder.path());
    fs::create_dir_all(profiles)?;
    let spans = Upstream::start(&setup.bin.join("lumbung-loadtest"))?;
    let setup = Setup { environment: spans.as_collector(), ..setup.clone() };
    let run = async |name: &str, asked: Asked| run_once(&setup, asked, &profiles.join(name)).await;
    let (nothing, sampled) = (Asked::default(), requests.div_ceil(SAMPLED_HERE));
    let few = run("few", Asked { idle: requests, ..nothing }).await?;
    let completions = run("completions", Asked { completions: requests, ..nothing }).await?;
    let streams = run("streams", Asked { streams: requests, ..nothing }).await?;
    let traced = run("traced", Asked { completions: requests, sampled, ..nothing }).await?;
    let each = |more: u64, before: u64, requests: u32| more.saturating_sub(before) / u64::from(requests);
    let completion = each(completions, few, requests);
    let traced = completion + each(traced, completions, sampled) / SAMPLED_OF;
    Ok(Instructions { completion, stream: each(streams, few, requests), traced })
}

/// What is done with one gateway.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    completions: u32,
    /// How many of them are sampled.
    sampled: u32,
    streams: u32,
    /// Pauses without a request.
    idle: u32,
}

/// Instructions of a gateway from its start to its end.
async fn run_once(setup: &Setup, asked: Asked, profile: &Path) -> anyhow::Result<u64> {
    let log = profile.with_extension("log");
    let under = [
        "valgrind".to_owned(),
        "--tool=cachegrind".into(),
        "--cache-sim=no".into(),
        format!("--cachegrind-out-file={}", profile.display()),
        format!("--log-file={}", log.display()),
    ];
    let network = Setup { under: under.into(), patience: SLOWER, ..setup.clone() }.start()?;
    let target = network.target()?;
    let (mut connection, live) = (Connection::open(&target, crate::ask::Reader::Steady).await?, Live::new()?);
    let mut wording = Network::wording();
    wording.stream_cue = String::new(); // answered at once
    let (completion, stream) = (wording.ask(false, 1024), wording.ask(true, 1024));
    let mut ask = async |ask: &Ask, count: u32| {
        for _ in 0..count {
            let outcome = connection.ask(&target, ask, &live).await?;
            ensure!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::Ok(())
    };
    let sampled = Ask { traceparent: Some(TRACEPARENT), ..completion.clone() };
    ask(&completion, WARM_UP + asked.completions - asked.sampled).await?;
    ask(&sampled, asked.sampled).await?;
    ask(&stream, WARM_UP + asked.streams).await?;
    tokio::time::sleep(PAUSE * asked.idle).await;
    network.gateway.stop()?;
    let log = fs::read_to_string(log)?;
    total(&log).with_context(|| format!("Valgrind did not say how many instructions there were:\n{log}"))
}

/// `==7== I   refs:      1,234,567`
fn total(log: &str) -> Option<u64> {
    let (_, count) = log.lines().find(|line| line.contains("refs:"))?.rsplit_once("refs:")?;
    count.trim().replace(',', "").parse().ok()
}

impl Instructions {
    /// Neither kind may have grown by more than a tenth, and traces of one request in a hundred may add a twentieth.
    ///
    /// # Errors
    /// Says what has grown; and where there is nothing to compare with, that there is not.
    pub fn compare(&self, baseline: &Baseline) -> anyhow::Result<()> {
        self.compare_traced()?;
        let before = baseline.get(&build()).with_context(|| format!("the baseline has nothing for {}", build()))?;
        for (what, now, before) in
            [("completion", self.completion, before.completion), ("stream", self.stream, before.stream)]
        {
            ensure!(
                now <= before + before / 10,
                "a {what} takes {now} instructions, {before} in the baseline: more than a tenth was added. If that is \
                 meant, write the baseline anew (make instructions WRITE=1)"
            );
        }
        Ok(())
    }

    /// Traces that are sampled at 1 % may add a twentieth.
    ///
    /// # Errors
    /// Says what they add.
    pub fn compare_traced(&self) -> anyhow::Result<()> {
        let Self { completion, traced, .. } = *self;
        ensure!(
            traced <= completion + completion / 20,
            "traces add {} to {completion} instructions",
            traced - completion
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_is_let_pass_and_no_more() {
        let counted = |completion, stream, traced| Instructions { completion, stream, traced };
        let baseline: Baseline = [(build(), counted(1000, 2000, 0))].into();
        assert!(counted(1100, 100, 1100).compare(&baseline).is_ok());
        assert!(counted(1101, 100, 1101).compare(&baseline).is_err());
        assert!(counted(1, 2201, 1).compare(&baseline).is_err());
        assert!(counted(1, 1, 1).compare(&Baseline::new()).is_err(), "built otherwise");
        assert!(counted(1000, 100, 1050).compare(&baseline).is_ok());
        assert!(counted(1000, 100, 1051).compare(&baseline).is_err(), "traces add more than a twentieth");
    }

    #[test]
    fn valgrinds_sum_is_read() {
        assert_eq!(total("==1== Command: x\n==1== \n==1== I   refs:      1,234,567\n"), Some(1_234_567));
        assert_eq!(total("==1== Command: x"), None);
    }
}
