//! Receipts on disk until the gateway has them in its books. A receipt is this provider's claim to money, so that one
//! must survive a crash; and keeping it must not slow the answer.
//!
//! A job reserves its place in the queue to the writer before it begins, so keeping its receipt never waits and never
//! fails. One thread writes what the queue holds at once (so that it survives the process) and syncs in groups (so
//! that it survives the machine). What a crash can still take is what came during one sync: the gateway has those
//! receipts from the answers' own last frames, unless it died in the same moment. The same goes for a receipt that waits a
//! moment for the gateway's last voucher. `file` knows the format, `backlog` what is still to be acknowledged, `own` which file is
//! whose while a process and its successor both keep receipts.

mod backlog;
mod file;
mod own;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lumbung_openapi::receipt::Receipt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use backlog::Backlog;
use file::{JournalFile, Record};
pub use own::{Own, adopt};

/// Receipts on their way to the writer, those reserved by running jobs included.
const QUEUE: usize = 8192;
/// Unacknowledged receipts beyond which no job is taken: about 1.5 KB of memory each.
const MAX_BACKLOG: usize = 50_000;
/// How long what is written may wait for its sync.
const SYNC_AFTER: Duration = Duration::from_millis(50);
/// How many records may wait for their sync.
const SYNC_GROUP: usize = 64;
/// When to try again after the disk refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);

enum Entry {
    Keep(Receipt),
    Acknowledged(Vec<u64>),
    Synced(oneshot::Sender<()>),
}

/// Where receipts are kept. Clones share one journal.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Entry>,
    backlog: Arc<Backlog>,
    failing: Arc<AtomicBool>,
}

/// A reserved place: keeping a receipt with it never waits and never fails.
pub struct Place(mpsc::OwnedPermit<Entry>);

impl Place {
    /// Keeps a receipt.
    pub fn keep(self, receipt: Receipt) {
        self.0.send(Entry::Keep(receipt));
    }
}

impl Journal {
    /// Reads what the directory's journal of that name still holds, and starts the writer. Must be called within a tokio runtime.
    pub fn open(dir: &Path, name: &str) -> io::Result<Self> {
        let (file, kept) = JournalFile::open(dir, name)?;
        let backlog = Arc::new(Backlog::new(kept));
        let failing = Arc::new(AtomicBool::new(false));
        let (queue, entries) = mpsc::channel(QUEUE);
        let writer = Writer {
            file,
            backlog: backlog.clone(),
            failing: failing.clone(),
            unwritten: Vec::new(),
            unsynced: 0,
            doubtful: false,
        };
        let runtime = Handle::current();
        std::thread::Builder::new().name("journal".into()).spawn(move || writer.run(entries, &runtime))?;
        Ok(Self { queue, backlog, failing })
    }

    /// A place for one receipt; `None` while no further one could be kept: then no job may begin.
    pub fn reserve(&self) -> Option<Place> {
        if self.failing.load(Ordering::Relaxed) || self.backlog.len() >= MAX_BACKLOG {
            return None;
        }
        self.queue.clone().try_reserve_owned().ok().map(Place)
    }

    /// What is still to be acknowledged.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// These receipts need not be offered again.
    pub async fn acknowledge(&self, numbers: Vec<u64>) {
        let _ = self.queue.send(Entry::Acknowledged(numbers)).await;
    }

    /// Waits until no reserved place is left to be used, at most so long.
    pub async fn unreserved_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.queue.capacity() < QUEUE && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything kept so far is on disk.
    pub async fn synced(&self) {
        let (done, synced) = oneshot::channel();
        if self.queue.send(Entry::Synced(done)).await.is_ok() {
            let _ = synced.await;
        }
    }
}

/// The one thread that writes.
struct Writer {
    file: JournalFile,
    backlog: Arc<Backlog>,
    failing: Arc<AtomicBool>,
    /// Lines that the disk has not taken yet.
    unwritten: Vec<u8>,
    /// Records written since the last sync.
    unsynced: usize,
    /// Whether the file may have lost what was written to it.
    doubtful: bool,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Entry>, runtime: &Handle) {
        let mut entries = Vec::with_capacity(SYNC_GROUP);
        let mut due: Option<Instant> = None;
        loop {
            let received = runtime.block_on(async {
                let receive = queue.recv_many(&mut entries, SYNC_GROUP);
                match due {
                    None => Some(receive.await),
                    Some(due) => tokio::time::timeout_at(due, receive).await.ok(),
                }
            });
            let waiting = self.take(entries.drain(..));
            let is_time = due.is_some_and(|due| due <= Instant::now());
            if received == Some(0) || is_time || self.unsynced >= SYNC_GROUP || !waiting.is_empty() {
                due = self.write(true).then_some(Instant::now() + RETRY_AFTER);
                for waiting in waiting {
                    let _ = waiting.send(());
                }
            } else {
                let failed = self.write(false);
                let wait = if failed { RETRY_AFTER } else { SYNC_AFTER };
                due = (failed || self.unsynced > 0).then(|| due.unwrap_or_else(|| Instant::now() + wait));
            }
            if received == Some(0) {
                return;
            }
        }
    }

    /// Takes what came, and returns who waits for its sync.
    fn take(&mut self, entries: impl Iterator<Item = Entry>) -> Vec<oneshot::Sender<()>> {
        let mut waiting = Vec::new();
        for entry in entries {
            match entry {
                Entry::Keep(receipt) => {
                    self.unsynced += 1;
                    self.backlog.add(receipt, |number, receipt| {
                        file::write_line(&mut self.unwritten, &Record::Receipt { number, receipt });
                    });
                }
                Entry::Acknowledged(numbers) => {
                    self.unsynced += 1;
                    file::write_line(&mut self.unwritten, &Record::Acknowledged(&numbers));
                    self.backlog.acknowledge(&numbers);
                }
                Entry::Synced(done) => waiting.push(done),
            }
        }
        waiting
    }

    /// Writes, and syncs if asked to. Returns whether the disk refused: then the lines are kept for the next time.
    fn write(&mut self, sync: bool) -> bool {
        let done = self.try_write(sync);
        let failed = done.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) != failed {
            match &done {
                Err(error) => tracing::error!("receipts cannot be written, so no job is taken: {error}"),
                Ok(()) => tracing::info!("receipts can be written again"),
            }
        }
        failed
    }

    fn try_write(&mut self, sync: bool) -> io::Result<()> {
        if self.backlog.len() == 0 && !self.file.is_empty() {
            self.unwritten.clear();
            (self.unsynced, self.doubtful) = (0, false);
            return self.file.clear();
        }
        if self.doubtful {
            return self.rewrite();
        }
        self.file.append(&self.unwritten)?;
        self.unwritten.clear();
        if sync && self.unsynced > 0 {
            self.doubtful = true;
            self.file.sync()?;
            (self.unsynced, self.doubtful) = (0, false);
        }
        match self.file.wants_compaction() {
            true => self.rewrite(),
            false => Ok(()),
        }
    }

    /// Another file in the place of this one, synced, with all that is to be acknowledged.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut live = Vec::new();
        self.backlog.each(|number, receipt| file::write_line(&mut live, &Record::Receipt { number, receipt }));
        self.file.replace(&live)?;
        self.unwritten.clear();
        (self.unsynced, self.doubtful) = (0, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
