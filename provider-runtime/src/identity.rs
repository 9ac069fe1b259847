//! Who this provider is: an Ed25519 key made on the first start, kept in the data directory.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lumbung_openapi::jws::SigningKey;

/// The key's file in the data directory: the 32-byte seed in base64url.
pub const KEY_FILE: &str = "identity.key";

/// A provider's key and the id that follows from it.
pub struct Identity {
    /// Signs joins and receipts.
    pub key: SigningKey,
    /// The key's RFC 7638 thumbprint.
    pub id: String,
}

impl Identity {
    /// Reads the key, or makes one where there is none.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(KEY_FILE);
        if !path.exists() {
            create(data_dir, &path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        Self::read(&path).with_context(|| format!("cannot use {}", path.display()))
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let mode = fs::metadata(path)?.mode();
        if mode & 0o077 != 0 {
            bail!("its mode is {:04o}, so others may read or replace the key: run chmod 600 on it", mode & 0o777);
        }
        let text = fs::read_to_string(path)?;
        let seed = BASE64_URL_SAFE_NO_PAD.decode(text.trim()).ok().and_then(|seed| seed.try_into().ok());
        let seed: [u8; 32] = seed.context("it does not hold 32 bytes in base64url; restore it from a backup")?;
        let key = SigningKey::from_seed(&seed);
        Ok(Self { id: key.public().thumbprint(), key })
    }
}

/// Written aside and linked into place: a crash leaves a whole key or none, and two starts at once agree on one.
fn create(data_dir: &Path, path: &Path) -> anyhow::Result<()> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness from the system: {error}"))?;
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(BASE64_URL_SAFE_NO_PAD.encode(seed).as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside)?;
    File::open(data_dir)?.sync_all()?;
    match linked {
        Err(error) if !path.exists() => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        assert_eq!(first.id, first.key.public().thumbprint());
        assert_eq!(Identity::open(dir.path()).unwrap().id, first.id);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [KEY_FILE]);
        assert_eq!(fs::metadata(dir.path().join(KEY_FILE)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::open(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = format!("{:#}", Identity::open(dir.path()).err().unwrap());
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "AAAA").unwrap();
        assert!(Identity::open(dir.path()).is_err());
    }
}
