//! A running provider's end of the socket.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::{Answer, MAX_REQUEST, ReloadAsked, Reloaded, Request, SOCKET};
use crate::earnings;
use crate::holds::Hold;
use crate::identity::Identity;
use crate::node::Node;
use crate::outlook::{Outlook, Outlooks};
use crate::status::{Earnings, Status};

/// In the data directory while its owner has paused the provider: a restart must not surprise whoever did.
const PAUSED_FILE: &str = "paused";
/// The flag of a successor.
const TAKE_OVER: &str = "--take-over";
const ENDING: &str = "it ends already";
/// Connections at a time.
const MOST: usize = 16;
/// How long the gateway's books are not asked again, and how long they may take to answer.
const EARNINGS_FOR: Duration = Duration::from_secs(30);
const EARNINGS_WITHIN: Duration = Duration::from_secs(5);

/// Takes up a pause from before a restart. To be called before there are tunnels.
pub fn take_up_pause(node: &Node, dir: &Path) {
    if dir.join(PAUSED_FILE).exists() {
        node.holds.set(Hold::Paused, true);
        tracing::info!("paused, as before the restart: `lumbung-provider resume` ends it");
    }
}

/// What ends a running provider.
#[derive(Debug)]
pub enum Told {
    /// To finish what runs.
    Drain,
    /// To leave its place to a successor, who waits for the word that it is free, and to finish what runs.
    HandOver(oneshot::Sender<()>),
}

/// What requests are carried out by.
pub struct Control {
    node: Arc<Node>,
    identity: Arc<Identity>,
    dir: PathBuf,
    told: mpsc::Sender<Told>,
    reloads: mpsc::Sender<ReloadAsked>,
    /// This program, as it was when this process began: another may lie there by now.
    program: PathBuf,
    handed_over: Notify,
    earnings: Mutex<Option<(Instant, Earnings)>>,
    outlooks: Mutex<Option<(Instant, Outlooks)>>,
}

/// A socket that is listened at.
pub struct Listening {
    listener: UnixListener,
    path: PathBuf,
}

impl Listening {
    /// Listens in this data directory, which must be this process' own: a socket that is there was left by one before.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(SOCKET);
        let aside = dir.join(format!("{SOCKET}.{}", std::process::id()));
        let what = || format!("cannot listen at {} (a path of at most 100 bytes)", path.display());
        let _ = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside).with_context(what)?;
        // Nobody finds it before it is its owner's alone.
        let put =
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&aside, &path));
        put.with_context(what)?;
        Ok(Self { listener, path })
    }

    /// Answers for as long as it is polled.
    pub async fn serve(&self, control: Arc<Control>) {
        let places = Arc::new(Semaphore::new(MOST));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let control = control.clone();
                    tokio::spawn(async move {
                        if let Err(error) = control.converse(stream).await {
                            tracing::debug!("a conversation at {SOCKET} broke off: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("nobody is heard at {SOCKET}: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Control {
    /// What rules this node, and what it sends on to whoever runs it.
    pub fn new(
        node: Arc<Node>,
        identity: Arc<Identity>,
        dir: &Path,
        told: mpsc::Sender<Told>,
        reloads: mpsc::Sender<ReloadAsked>,
    ) -> Self {
        let called = || std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
        let program = std::env::current_exe().unwrap_or_else(|_| called());
        let (handed_over, earnings, outlooks) = (Notify::new(), Mutex::default(), Mutex::default());
        Self { node, identity, dir: dir.to_owned(), told, reloads, program, handed_over, earnings, outlooks }
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        loop {
            line.clear();
            let read = (&mut stream).take(MAX_REQUEST).read_line(&mut line).await?;
            if read == 0 {
                return Ok(());
            }
            let answer = match serde_json::from_str(&line) {
                Ok(request) => {
                    self.carry_out(request).await.unwrap_or_else(|error| Answer::Error(format!("{error:#}")))
                }
                Err(error) => Answer::Error(error.to_string()),
            };
            let mut answer = serde_json::to_vec(&answer)?;
            answer.push(b'\n');
            stream.get_mut().write_all(&answer).await?;
            if !line.ends_with('\n') {
                return Ok(()); // what follows is the rest of a request that was too long
            }
        }
    }

    async fn carry_out(&self, request: Request) -> anyhow::Result<Answer> {
        let mut earnings = None;
        match request {
            Request::Status { earnings: false } => {}
            Request::Status { earnings: true } => earnings = Some(self.earnings().await),
            Request::Pause => self.pause()?,
            Request::Resume => self.resume()?,
            Request::Drain => {
                self.node.drain();
                self.told.send(Told::Drain).await.context(ENDING)?;
            }
            Request::Upgrade => self.upgrade().await?,
            Request::Reload => return Ok(Answer::Reloaded(self.reload().await?)),
            Request::HandOver => self.hand_over().await?,
        }
        let mut status = Status { earnings, ..Status::of(&self.node) };
        if status.earnings.is_some() {
            self.look_ahead(&mut status).await;
        }
        Ok(Answer::Status(Box::new(status)))
    }

    async fn upgrade(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.node.holds.has(Hold::Draining), ENDING);
        let handed_over = self.handed_over.notified();
        let given = std::env::args_os().skip(1).filter(|argument| argument != TAKE_OVER);
        let started = Command::new(&self.program).args(given).arg(TAKE_OVER).spawn();
        let mut successor = started.with_context(|| format!("cannot start {}", self.program.display()))?;
        tracing::info!(process = successor.id(), "its successor is started");
        tokio::select! {
            () = handed_over => Ok(()),
            ended = successor.wait() => {
                let ended = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                anyhow::bail!("the successor ended with {ended} (its log says why); this process goes on")
            }
        }
    }

    async fn reload(&self) -> anyhow::Result<Reloaded> {
        anyhow::ensure!(!self.node.holds.has(Hold::Draining), ENDING);
        let (answer, reloaded) = oneshot::channel();
        self.reloads.send(answer).await.context(ENDING)?;
        reloaded.await.context(ENDING)?
    }

    async fn hand_over(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.node.holds.has(Hold::Draining), ENDING);
        let (free, is_free) = oneshot::channel();
        self.told.send(Told::HandOver(free)).await.context(ENDING)?;
        is_free.await.context(ENDING)?;
        self.handed_over.notify_waiters();
        Ok(())
    }

    fn pause(&self) -> anyhow::Result<()> {
        fs::write(self.dir.join(PAUSED_FILE), "")
            .with_context(|| format!("cannot note it in {}", self.dir.display()))?;
        if self.node.holds.set(Hold::Paused, true) {
            tracing::info!("paused: no new jobs until told to resume");
        }
        Ok(())
    }

    fn resume(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.dir.join(PAUSED_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot note it in {}", self.dir.display()))
            }
            _ => {
                if self.node.holds.set(Hold::Paused, false) {
                    tracing::info!("resumed");
                }
                Ok(())
            }
        }
    }

    /// What each model can expect, as the gateway said a while ago at most.
    async fn look_ahead(&self, status: &mut Status) {
        let mut known = self.outlooks.lock().await;
        if known.as_ref().is_none_or(|(asked, _)| asked.elapsed() >= EARNINGS_FOR) {
            let outlooks = Outlook::of_all(&self.node, &self.dir);
            let outlooks = tokio::time::timeout(EARNINGS_WITHIN, outlooks).await.unwrap_or_default();
            *known = Some((Instant::now(), outlooks));
        }
        let Some((_, outlooks)) = &*known else { return };
        for (model, outlook) in outlooks {
            if let Some(of_model) = status.models.get_mut(model) {
                of_model.outlook = Some(outlook.clone());
            }
        }
    }

    /// What the gateway's books say, a while ago at most.
    async fn earnings(&self) -> Earnings {
        let mut known = self.earnings.lock().await;
        if let Some((_, earnings)) = known.as_ref().filter(|(asked, _)| asked.elapsed() < EARNINGS_FOR) {
            return earnings.clone();
        }
        let asked = earnings::totals(&self.node.gateway, &self.identity.key);
        let earnings = match tokio::time::timeout(EARNINGS_WITHIN, asked).await {
            Ok(Ok(totals)) => Earnings::Totals(totals),
            Ok(Err(error)) => Earnings::Unknown(format!("{error:#}")),
            Err(_) => Earnings::Unknown("the gateway did not answer in time".into()),
        };
        *known = Some((Instant::now(), earnings.clone()));
        earnings
    }
}
