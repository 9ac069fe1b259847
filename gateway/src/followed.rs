//! Files whose contents may change while the gateway runs: passwords and authorities that are exchanged. They are looked at
//! every second, so whoever changes one need tell nobody.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files and what they hold.
pub struct Followed {
    files: Vec<PathBuf>,
    held: Vec<Vec<u8>>,
}

impl Followed {
    /// Nothing that could change.
    pub fn none() -> Self {
        Self { files: Vec::new(), held: Vec::new() }
    }

    /// Files that were read by somebody else, and what they held then.
    pub fn since(files: Vec<PathBuf>, held: Vec<Vec<u8>>) -> Self {
        Self { files, held }
    }

    /// Reads them. An error names the file.
    pub fn read(files: Vec<PathBuf>) -> io::Result<Self> {
        let held = files.iter().map(|path| std::fs::read(path).map_err(|error| named(path, error)));
        Ok(Self { held: held.collect::<io::Result<_>>()?, files })
    }

    /// What the files held when they were read, in their order.
    pub fn held(&self) -> &[Vec<u8>] {
        &self.held
    }

    /// Has what they hold taken up whenever it changes, for as long as it is polled. What cannot be used is told once, and tried
    /// again until it can: a password may be in its file before the server knows it. `what`: for the log, without a secret.
    pub async fn follow<E: Display, F: Future<Output = Result<(), E>>>(
        mut self,
        what: &str,
        mut take_up: impl FnMut(Vec<Vec<u8>>) -> F,
    ) {
        let mut told = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(now) = self.look().await else { continue };
            if now == self.held {
                continue;
            }
            match take_up(now.clone()).await {
                Ok(()) => {
                    info!(what, "its file has changed: new connections go by it");
                    self.held = now;
                }
                Err(error) => {
                    if told.as_ref() != Some(&now) {
                        warn!(what, %error, "its file has changed and cannot be used yet: the old one stays");
                    }
                    told = Some(now);
                }
            }
        }
    }

    /// What they hold now; `None` where one cannot be read, as in the middle of being replaced.
    async fn look(&self) -> Option<Vec<Vec<u8>>> {
        let mut held = Vec::with_capacity(self.files.len());
        for path in &self.files {
            held.push(tokio::fs::read(path).await.ok()?);
        }
        Some(held)
    }
}

/// A file's contents as one line.
pub fn text_of(held: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(held).map_err(|_| io::Error::other("it is not text"))?;
    Ok(text.trim().to_owned())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
