//! Asking a provider that runs on this machine.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Answer, Reloaded, Request, SOCKET};
use crate::status::Status;

/// How long an answer may take: the gateway's books may have to be asked first.
const PATIENCE: Duration = Duration::from_secs(15);

/// A provider that runs.
pub struct Running {
    stream: BufReader<UnixStream>,
}

impl Running {
    /// The one that uses this data directory; `None` if none does.
    pub fn find(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(SOCKET);
        match UnixStream::connect(&path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Some(Self { stream: BufReader::new(stream) }))
            }
            // A socket that nobody listens at was left by one that was killed.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot ask at {}", path.display())),
        }
    }

    /// The same as [`Self::ask`], however long it takes.
    pub fn wait_for(&mut self, request: Request) -> anyhow::Result<Status> {
        self.stream.get_mut().set_read_timeout(None)?;
        self.ask(request)
    }

    /// Has it do something, and returns its status after that.
    pub fn ask(&mut self, request: Request) -> anyhow::Result<Status> {
        match self.exchange(request)? {
            Answer::Status(status) => Ok(*status),
            other => bail!("the provider answers something else: {other:?}"),
        }
    }

    /// Has it read its settings again, however long that takes.
    pub fn reload(&mut self) -> anyhow::Result<Reloaded> {
        self.stream.get_mut().set_read_timeout(None)?;
        match self.exchange(Request::Reload)? {
            Answer::Reloaded(reloaded) => Ok(reloaded),
            other => bail!("the provider answers something else: {other:?}"),
        }
    }

    fn exchange(&mut self, request: Request) -> anyhow::Result<Answer> {
        let line = serde_json::to_string(&request)? + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).context("the provider does not listen any more")?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).context("the provider does not answer")?;
        if answer.is_empty() {
            bail!("the provider has ended");
        }
        match serde_json::from_str(&answer).context("the provider's answer is of another version")? {
            Answer::Error(why) => bail!("{why}"),
            answer => Ok(answer),
        }
    }
}
