//! Settings that are read again while the provider runs: models come and go, without a tunnel or a job being lost.
//!
//! What leaves goes first, so that memory never has to hold both what was and what will be; `upgrade` is for those who have the
//! memory and want no gap.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Command};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::limits::LimitArgs;
use super::model::ModelArgs;
use super::serve::{ServeArgs, ServingArgs, computes_all, load_one};
use super::when::WhenArgs;
use super::{config, settings_now};
use crate::control::{ReloadAsked, Reloaded};
use crate::node::Node;
use crate::served::Served;

/// How long memory may take to be given back once the last job of a model has ended.
const FREED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What can be taken up again.
pub struct Settings {
    /// The models that are served, or to be.
    pub models: Vec<ModelArgs>,
    /// What of the machine may be used.
    pub limits: LimitArgs,
    /// How.
    pub serving: ServingArgs,
}

/// Takes them up.
pub struct Reloading {
    node: Arc<Node>,
    now: Settings,
    /// What it was started with, the file's settings as flags.
    arguments: Vec<OsString>,
    /// Notes when jobs are taken.
    kept: JoinHandle<()>,
}

impl Drop for Reloading {
    fn drop(&mut self) {
        self.kept.abort();
    }
}

impl Reloading {
    /// For a node that serves by these settings.
    pub fn new(node: Arc<Node>, now: Settings, kept: JoinHandle<()>) -> anyhow::Result<Self> {
        let (_, given) = settings_now()?;
        Ok(Self { node, now, arguments: given.arguments, kept })
    }

    /// Does it each time that somebody asks, one after another.
    pub async fn run(mut self, mut asked: mpsc::Receiver<ReloadAsked>) {
        while let Some(answer) = asked.recv().await {
            let reloaded = Box::pin(self.reload()).await;
            match &reloaded {
                Ok(Reloaded { added, removed, changed, failed, .. }) => {
                    tracing::info!(?added, ?removed, ?changed, ?failed, "settings were read again");
                }
                Err(error) => tracing::warn!("settings were read again, and stay as they were: {error:#}"),
            }
            let _ = answer.send(reloaded); // whoever asked need not wait for it
        }
    }

    async fn reload(&mut self) -> anyhow::Result<Reloaded> {
        let (args, given) = settings_now()?;
        config::check(&args, &given.tables, |_| Ok(()))?; // what fits is seen below, when others have gone
        let ServeArgs { model, limits, serving, .. } = args;
        let wanted = model.with_others(&given.tables)?;

        let mut done = Reloaded { left_out: not_taken_up(&self.arguments, &given.arguments), ..Reloaded::default() };
        let to_load = self.let_go(&wanted, &mut done)?;
        self.now.limits = limits;
        self.keep_hours(serving, &wanted, &mut done)?;
        if !to_load.is_empty() {
            self.node.models.gone_within(Duration::from_secs(self.now.serving.drain_secs)).await;
        }
        for model in to_load {
            let id = model.engine.model_id()?;
            let loaded = match fits_within(&self.now.limits, &model, FREED_WITHIN).await {
                Ok(()) => load_aside(&model, &self.now.limits).await,
                Err(error) => Err(error),
            };
            match loaded {
                Ok(served) => {
                    self.node.serve(served);
                    self.now.models.push(model);
                    // One that is loaded anew was noted as changed.
                    if !done.changed.contains(&id) {
                        done.added.push(id);
                    }
                }
                Err(error) => {
                    done.changed.retain(|changed| *changed != id);
                    done.failed.push((id, format!("{error:#}")));
                }
            }
        }
        Ok(done)
    }

    /// Takes the models away that are not wanted any more, or not with that engine; changes the others. Returns what is to be
    /// loaded.
    fn let_go(&mut self, wanted: &[ModelArgs], done: &mut Reloaded) -> anyhow::Result<Vec<ModelArgs>> {
        let mut kept = Vec::new();
        for before in std::mem::take(&mut self.now.models) {
            let id = before.engine.model_id()?;
            let mut same = None;
            for model in wanted {
                if model.engine.model_id()? == id {
                    same = Some(model);
                }
            }
            match same {
                Some(model) if *model == before => kept.push(before),
                Some(model) if model.engine.are_of(&before.engine) => {
                    self.node
                        .models
                        .find(&id)
                        .iter()
                        .for_each(|served| served.change(model.ask(), model.engine.slots()));
                    kept.push(model.clone());
                    done.changed.push(id);
                }
                Some(_) => {
                    self.node.leave(&id);
                    done.changed.push(id);
                }
                None => {
                    self.node.leave(&id);
                    done.removed.push(id);
                }
            }
        }
        let to_load = wanted.iter().filter(|model| !kept.contains(model)).cloned().collect();
        self.now.models = kept;
        Ok(to_load)
    }

    /// When jobs are taken.
    fn keep_hours(&mut self, serving: ServingArgs, wanted: &[ModelArgs], done: &mut Reloaded) -> anyhow::Result<()> {
        let is_same = serving.when == self.now.serving.when;
        if !is_same || computes_all(wanted) != computes_all(&self.now.models) {
            let keep = serving.when.clone().keep(self.node.clone(), computes_all(wanted))?;
            self.kept.abort();
            self.kept = tokio::spawn(keep);
        }
        done.hours = !is_same;
        self.now.serving = serving;
        Ok(())
    }
}

/// Loads a model while the thread that tunnels and jobs share goes on.
async fn load_aside(model: &ModelArgs, limits: &LimitArgs) -> anyhow::Result<Served> {
    let (model, limits, runtime) = (model.clone(), limits.clone(), Handle::current());
    let loading = tokio::task::spawn_blocking(move || runtime.block_on(load_one(&model, &limits)));
    loading.await.context("loading it broke off")?
}

/// Whether there is room for a model, at the latest after so long.
async fn fits_within(limits: &LimitArgs, model: &ModelArgs, limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match limits.check_before(std::slice::from_ref(model)) {
            Err(_) if begun.elapsed() < limit => tokio::time::sleep(LOOK_EVERY).await,
            fits => return fits,
        }
    }
}

/// Settings that have changed and are for the next start.
fn not_taken_up(before: &[OsString], now: &[OsString]) -> Vec<String> {
    let mut taken_up = names_of::<ModelArgs>();
    taken_up.extend(names_of::<WhenArgs>());
    taken_up.insert("max-memory".to_owned());
    let (before, now): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
    let changed = before.symmetric_difference(&now).map(|argument| argument.to_string_lossy());
    let names = changed.filter_map(|flag| Some(flag.strip_prefix("--")?.split('=').next()?.to_owned()));
    let names: BTreeSet<String> = names.filter(|name| !taken_up.contains(name)).collect();
    names.into_iter().collect()
}

fn names_of<Arguments: Args>() -> BTreeSet<String> {
    let command = Arguments::augment_args(Command::new("settings"));
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_running_process_cannot_take_up_is_told_by_name() {
        let before =
            ["lumbung-provider", "serve", "--hours=22:00-08:00", "--tunnels=2", "--region=eu"].map(OsString::from);
        let now = ["lumbung-provider", "serve", "--slots=2", "--tunnels=3", "--gpus=0"].map(OsString::from);
        assert_eq!(not_taken_up(&before, &now), ["gpus", "region", "tunnels"]);
        assert!(not_taken_up(&before, &before).is_empty());
    }
}
