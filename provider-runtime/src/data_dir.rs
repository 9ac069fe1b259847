//! The data directory: made for this user only, and used by one provider at a time.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, bail};

const LOCK_FILE: &str = "lock";

/// Makes the directory if there is none.
pub fn create(dir: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the data directory {}", dir.display()))
}

/// Takes the directory for as long as the lock is held. Two processes that write one journal would lose receipts, and
/// two with one identity look like one.
pub fn lock(dir: &Path) -> anyhow::Result<File> {
    let file = File::create(dir.join(LOCK_FILE)).with_context(|| format!("cannot write to {}", dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another lumbung-provider uses {}", dir.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", dir.display())),
    }
}

/// Whether a provider uses the directory now.
pub fn is_used(dir: &Path) -> bool {
    File::open(dir.join(LOCK_FILE)).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_used_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/b");
        assert!(!is_used(&dir));
        create(&dir).unwrap();
        create(&dir).unwrap();
        let held = lock(&dir).unwrap();
        assert!(is_used(&dir));
        assert!(lock(&dir).unwrap_err().to_string().contains("another"));
        drop(held);
        assert!(!is_used(&dir));
        lock(&dir).unwrap();
    }
}
