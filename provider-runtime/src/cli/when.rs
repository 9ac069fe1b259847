//! When jobs are taken: at which hours, and whether only while nobody else uses the machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use crate::holds::Hold;
use crate::hours::{Hours, WallTime};
use crate::idle::{Idleness, LOOK_EVERY, Watch};
use crate::node::Node;

/// How often the clock on the wall is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// When jobs are taken. Outside of it, what runs is finished and the tunnels stay up.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct WhenArgs {
    /// Take jobs only at these hours, in this machine's local time: 22:00-08:00, "mon-fri 18:00-08:00", "sat-sun"; several are
    /// added up.
    #[arg(long, env = "LUMBUNG_PROVIDER_HOURS", value_delimiter = ',')]
    hours: Vec<Hours>,
    /// Take jobs only while nobody else uses the machine: other processes' part of its processors and NVIDIA GPUs. Beside a
    /// server (--engine openai) this is looked at while no job runs.
    #[arg(long, env = "LUMBUNG_PROVIDER_ONLY_WHEN_IDLE")]
    only_when_idle: bool,
    /// Others use the machine when they take so much of it for five seconds, in percent.
    #[arg(long, env = "LUMBUNG_PROVIDER_BUSY_PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=100))]
    busy_percent: u64,
    /// And they do until they have taken less for so many seconds.
    #[arg(long, env = "LUMBUNG_PROVIDER_IDLE_AFTER_SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_after_secs: u64,
    /// For tests: in place of /proc.
    #[arg(long, hide = true, default_value = "/proc")]
    test_proc: PathBuf,
}

impl WhenArgs {
    /// Notes in the node when no jobs are to be taken, for as long as the returned future is polled. What is so now is noted
    /// before this returns. `tells_apart`: whether all engines compute in this process.
    pub fn keep(self, node: Arc<Node>, tells_apart: bool) -> anyhow::Result<impl Future<Output = ()> + Send> {
        note_hours(&node, &self.hours, WallTime::now());
        let watch = match self.only_when_idle {
            true => {
                node.holds.set(Hold::MachineInUse, true);
                Some(Watch::start(self.test_proc).context("--only-when-idle")?)
            }
            false => {
                node.holds.set(Hold::MachineInUse, false);
                None
            }
        };
        let idleness = Idleness::new(self.busy_percent, Duration::from_secs(self.idle_after_secs));
        let hours = self.hours;
        Ok(async move {
            tokio::join!(keep_hours(&node, hours), keep_idle(&node, watch, idleness, tells_apart));
        })
    }
}

async fn keep_hours(node: &Node, hours: Vec<Hours>) {
    while !hours.is_empty() {
        tokio::time::sleep(CLOCK_EVERY).await;
        note_hours(node, &hours, WallTime::now());
    }
}

fn note_hours(node: &Node, hours: &[Hours], now: WallTime) {
    let is_out = !hours.is_empty() && !hours.iter().any(|hours| hours.include(now));
    if node.holds.set(Hold::OutOfHours, is_out) {
        match is_out {
            true => tracing::info!("outside its hours: no new jobs"),
            false => tracing::info!("its hours begin"),
        }
    }
}

async fn keep_idle(node: &Node, watch: Option<Watch>, mut idleness: Idleness, tells_apart: bool) {
    let Some(mut watch) = watch else { return };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // A server beside this process works for the jobs that run: to the system it is somebody else.
        if !tells_apart && node.models.running() > 0 {
            watch.forget();
            idleness.interrupt();
            continue;
        }
        let others = match watch.look().await {
            Ok(Some(others)) => others,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!("whether others use the machine cannot be told: {error:#}");
                continue;
            }
        };
        let in_use = idleness.look(others, Instant::now());
        if node.holds.set(Hold::MachineInUse, in_use) {
            match in_use {
                true => tracing::info!(others_percent = others, "others use the machine: no new jobs"),
                false => tracing::info!("nobody else uses the machine"),
            }
        }
    }
}
