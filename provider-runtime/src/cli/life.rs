//! A provider's life once its models are loaded: it takes its place, or that of its predecessor; serves until it is told to stop,
//! or a successor takes its place; finishes what runs, hands in its receipts, and ends.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::notify;
use crate::control::client::Running;
use crate::control::{Control, Listening, ReloadAsked, Request, Told};
use crate::identity::Identity;
use crate::node::Node;
use crate::sign::Offering;
use crate::{data_dir, observe, status, tunnel};

/// How long jobs that were cut off may take to end, and the last receipts to be offered.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(2);
const LAST_OFFER_TIMEOUT: Duration = Duration::from_secs(5);
/// A successor that has no tunnel by then cannot serve; its predecessor goes on.
const TUNNEL_WITHIN: Duration = Duration::from_secs(60);
/// Behind a proxy it may take some dials until it has tunnels to the same gateways as its predecessor.
const SAME_TUNNELS_WITHIN: Duration = Duration::from_secs(20);
/// How long jobs still come over a predecessor's tunnels, after its gateways know its successor's.
const STILL_COMING: Duration = Duration::from_secs(2);
/// How long a predecessor may take to finish what it has: nobody waits for it.
const SUCCEEDED_DRAIN: Duration = Duration::from_secs(3600);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a provider lives by.
pub struct Life {
    /// What it is.
    pub node: Arc<Node>,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Its data directory.
    pub dir: PathBuf,
    /// Tunnels that it keeps up.
    pub tunnels: usize,
    /// How long what runs may take to finish, once it is told to stop.
    pub drain: Duration,
    /// Where metrics are told.
    pub metrics: Option<SocketAddr>,
    /// Who reads the settings again.
    pub reloads: mpsc::Sender<ReloadAsked>,
}

/// Whose the data directory is when a provider begins.
pub enum Place {
    /// This process'.
    Free(File),
    /// Another's, which is to be asked for it.
    Taken,
}

impl Place {
    /// Takes the directory, or finds out that its user can be asked for it.
    pub fn find(dir: &Path, takes_over: bool) -> anyhow::Result<Self> {
        match data_dir::lock(dir) {
            Ok(lock) => Ok(Self::Free(lock)),
            Err(error) => match takes_over && Running::find(dir)?.is_some() {
                true => Ok(Self::Taken),
                false => Err(error),
            },
        }
    }
}

/// What only one process at a time has: the directory's lock, the socket, the status file, the metrics' port.
struct Office {
    controlled: JoinHandle<()>,
    status: JoinHandle<()>,
    stop_status: CancellationToken,
    scraped: Option<JoinHandle<()>>,
    _lock: File,
}

impl Office {
    async fn enter(life: &Life, lock: File, told: mpsc::Sender<Told>) -> anyhow::Result<Self> {
        let listening = Listening::start(&life.dir)?;
        let (node, identity) = (life.node.clone(), life.identity.clone());
        let control = Arc::new(Control::new(node, identity, &life.dir, told, life.reloads.clone()));
        let controlled = tokio::spawn(async move { listening.serve(control).await });
        let stop_status = CancellationToken::new();
        let (node, dir, stop) = (life.node.clone(), life.dir.clone(), stop_status.clone());
        let status = tokio::spawn(async move { status::keep_written(&node, &dir, stop).await });
        let scraped = match life.metrics {
            Some(address) => Some(tokio::spawn(observe::serve(address, life.node.clone()).await?)),
            None => None,
        };
        Ok(Self { controlled, status, stop_status, scraped, _lock: lock })
    }

    /// Conversations over the socket go on to their end.
    async fn leave(self) {
        self.scraped.iter().for_each(JoinHandle::abort);
        self.stop_status.cancel();
        let _ = self.status.await;
        self.controlled.abort();
        let _ = self.controlled.await;
        if let Some(scraped) = self.scraped {
            let _ = scraped.await;
        }
    }
}

impl Life {
    /// From its first tunnel to its last receipt.
    pub async fn live(self, place: Place, mut signals: StopSignals) -> anyhow::Result<()> {
        let stop_tunnels = CancellationToken::new();
        let mut tunnels = JoinSet::new();
        for number in 0..self.tunnels {
            let (node, identity) = (self.node.clone(), self.identity.clone());
            tunnels.spawn(tunnel::keep_up(node, identity, number, self.tunnels, stop_tunnels.clone()));
        }
        let mut offering = Offering::new(self.node.gateway.clone(), self.identity.clone(), self.node.journal.clone());
        let (told, mut control_tells) = mpsc::channel(4);
        let begun = async {
            let is_successor = matches!(place, Place::Taken);
            let lock = match place {
                Place::Free(lock) => lock,
                Place::Taken => self.succeed().await?,
            };
            let office = Office::enter(&self, lock, told).await?;
            notify::ready(is_successor);
            anyhow::Ok(office)
        };
        let office = tokio::select! {
            office = begun => office?,
            () = signals.told() => return Ok(()), // as a successor: its predecessor goes on
            () = offering.run() => return Ok(()),
        };
        let told = tokio::select! {
            () = signals.told() => Told::Drain,
            told = control_tells.recv() => told.unwrap_or(Told::Drain),
            () = offering.run() => Told::Drain,
        };
        let ended = async {
            let (office, limit) = match told {
                Told::Drain => (Some(office), self.drain),
                Told::HandOver(free) => {
                    tracing::info!("its successor serves: finishing what runs");
                    office.leave().await;
                    let _ = free.send(());
                    tokio::select! { () = tokio::time::sleep(STILL_COMING) => {}, () = offering.run() => {} }
                    (None, SUCCEEDED_DRAIN)
                }
            };
            self.finish(limit, &mut offering).await;
            stop_tunnels.cancel();
            tunnels.join_all().await;
            self.hand_in(&mut offering).await;
            if let Some(office) = office {
                office.leave().await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = signals.told() => bail!("told to stop a second time: jobs were cut off"),
        }
        tracing::info!(receipts = self.node.journal.backlog().len(), "stopped");
        Ok(())
    }

    /// Takes no new jobs, and waits for those that run.
    async fn finish(&self, limit: Duration, offering: &mut Offering) {
        self.node.drain();
        tracing::info!(limit_s = limit.as_secs(), "stopping: finishing what runs");
        tokio::select! {
            idle = self.node.models.idle_within(limit) => {
                if !idle {
                    tracing::warn!("jobs still run at the end of the time to finish; cutting them off");
                }
            }
            () = offering.run() => {}
        }
    }

    /// Offers the last receipts.
    async fn hand_in(&self, offering: &mut Offering) {
        let node = &self.node;
        node.models.idle_within(CUT_OFF_TIMEOUT).await;
        node.journal.unreserved_within(CUT_OFF_TIMEOUT).await;
        node.journal.synced().await;
        let _ = tokio::time::timeout(LAST_OFFER_TIMEOUT, offering.run_out()).await;
        node.journal.synced().await;
    }

    /// Takes the place of the process that has it, once jobs can come here from every gateway that it is connected to.
    async fn succeed(&self) -> anyhow::Result<File> {
        let predecessor = ask(&self.dir, Request::Status { earnings: false }).await?;
        tracing::info!(process = predecessor.pid, version = predecessor.version, "taking its place");
        let begun = Instant::now();
        loop {
            let here = self.node.offered_to();
            let is_everywhere = predecessor.connected.iter().all(|replica| here.contains(replica));
            if !here.is_empty() && (is_everywhere || begun.elapsed() >= SAME_TUNNELS_WITHIN) {
                break;
            }
            if begun.elapsed() >= TUNNEL_WITHIN {
                bail!("no tunnel within {} s: process {} goes on", TUNNEL_WITHIN.as_secs(), predecessor.pid);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        ask(&self.dir, Request::HandOver).await?;
        data_dir::lock(&self.dir)
    }
}

/// Asks the process that has the place.
async fn ask(dir: &Path, request: Request) -> anyhow::Result<status::Status> {
    let dir = dir.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        Running::find(&dir)?.context("the process that was there has ended: start this one again")?.ask(request)
    });
    asked.await.context("it could not be asked")?
}

/// SIGTERM and SIGINT.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on they do not end the process by themselves.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
