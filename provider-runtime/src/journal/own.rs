//! Which file is whose. A process writes to one that no other has; what another has left, it adopts: at once, or, where that is
//! its predecessor and still finishes what it has, when that has ended.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Journal;
use super::file::{JOURNAL_FILE, JournalFile};

/// As many processes of one provider can finish at a time.
const FILES: [&str; 3] = [JOURNAL_FILE, "receipts.2.jsonl", "receipts.3.jsonl"];
/// How often it is looked whether another has ended, and whether there is room again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file of this process' own, for as long as this is kept.
#[derive(Debug)]
pub struct Own {
    /// Its name in the data directory.
    pub name: &'static str,
    _lock: File,
}

impl Own {
    /// The first that no other process has.
    pub fn find(dir: &Path) -> io::Result<Self> {
        for name in FILES {
            if let Some(own) = Self::try_take(dir, name)? {
                return Ok(own);
            }
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "its predecessors still finish what they have"))
    }

    fn try_take(dir: &Path, name: &'static str) -> io::Result<Option<Self>> {
        // Beside the file, which is replaced by another when it is rewritten.
        let lock = File::create(dir.join(format!("{name}.lock")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { name, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Adopts what others have left or will leave. Ends when there can be no more of it.
pub async fn adopt(journal: Journal, dir: PathBuf, own: &'static str) {
    let mut others: Vec<&str> = FILES.into_iter().filter(|name| *name != own).collect();
    loop {
        let mut still = Vec::new();
        for name in others {
            match adopt_from(&journal, &dir, name).await {
                Ok(true) => {}
                Ok(false) => still.push(name),
                Err(error) => {
                    tracing::warn!(file = name, "receipts of another process cannot be adopted yet: {error}");
                    still.push(name);
                }
            }
        }
        others = still;
        if others.is_empty() {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether nothing is left there.
async fn adopt_from(journal: &Journal, dir: &Path, name: &'static str) -> io::Result<bool> {
    let Some(_taken) = Own::try_take(dir, name)? else { return Ok(false) };
    if fs::metadata(dir.join(name)).map_or(true, |file| file.len() == 0) {
        return Ok(true);
    }
    let (mut file, kept) = JournalFile::open(dir, name)?;
    let count = kept.len();
    for receipt in kept.into_values() {
        let place = loop {
            match journal.reserve() {
                Some(place) => break place,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        place.keep(receipt);
    }
    journal.synced().await;
    file.clear()?;
    tracing::info!(receipts = count, "adopted what another process had left");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::receipt::Receipt;

    use super::*;

    fn receipt(name: &str) -> Receipt {
        Receipt { ticket: name.into(), claims: "{}".into(), voucher: None }
    }

    async fn kept(dir: &Path, name: &str, receipts: &[&str]) -> Journal {
        let journal = Journal::open(dir, name).unwrap();
        receipts.iter().for_each(|name| journal.reserve().unwrap().keep(receipt(name)));
        journal.synced().await;
        journal
    }

    fn tickets(journal: &Journal) -> Vec<String> {
        let mut tickets = Vec::new();
        journal.backlog().each(|_, kept| tickets.push(kept.ticket.clone()));
        tickets
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_successor_keeps_its_own_and_adopts_what_its_predecessor_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let first = Own::find(dir).unwrap();
        let predecessor = kept(dir, first.name, &["a", "b"]).await;
        let second = Own::find(dir).unwrap();
        assert_eq!((first.name, second.name), ("receipts.jsonl", "receipts.2.jsonl"));
        let journal = kept(dir, second.name, &["c"]).await;
        let adopting = tokio::spawn(adopt(journal.clone(), dir.to_owned(), second.name));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(tickets(&journal), ["c"], "not while the predecessor is there");
        predecessor.reserve().unwrap().keep(receipt("d"));
        predecessor.synced().await;
        drop((predecessor, first));
        adopting.await.unwrap();
        assert_eq!(tickets(&journal), ["c", "a", "b", "d"]);
        assert_eq!(fs::metadata(dir.join("receipts.jsonl")).unwrap().len(), 0);
        // Whoever comes after them finds the rest.
        drop((journal, second));
        let third = Own::find(dir).unwrap();
        assert_eq!(third.name, "receipts.jsonl");
        let journal = Journal::open(dir, third.name).unwrap();
        adopt(journal.clone(), dir.to_owned(), third.name).await;
        assert_eq!(tickets(&journal), ["c", "a", "b", "d"]);
    }

    #[test]
    fn only_so_many_finish_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let taken: Vec<Own> = (0..FILES.len()).map(|_| Own::find(dir.path()).unwrap()).collect();
        assert_eq!(Own::find(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(taken);
        assert!(Own::find(dir.path()).is_ok());
    }
}
