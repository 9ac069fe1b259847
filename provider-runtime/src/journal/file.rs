//! The journal's file: one record per line, `<16 hex digits of the JSON's SHA-256> <JSON>`. A line that a crash cut
//! short, or that the disk changed, does not match its checksum and is passed over.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::Receipt;
use serde::{Deserialize, Serialize};

/// The journal's file in the data directory, where only one process writes receipts.
pub const JOURNAL_FILE: &str = "receipts.jsonl";
/// A file below this size is not worth rewriting.
const COMPACT_FROM: u64 = 16 << 20;

/// What a line says, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Record<'a> {
    /// A receipt to be offered.
    Receipt {
        number: u64,
        #[serde(flatten)]
        receipt: &'a Receipt,
    },
    /// Receipts that need not be offered again.
    Acknowledged(&'a [u64]),
}

/// The same as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReadRecord {
    Receipt {
        number: u64,
        #[serde(flatten)]
        receipt: Receipt,
    },
    Acknowledged(Vec<u64>),
}

/// Adds a record's line.
pub fn write_line(out: &mut Vec<u8>, record: &Record<'_>) {
    let json = serde_json::to_string(record).expect("records of our own types serialize");
    out.extend_from_slice(checksum(json.as_bytes()).as_bytes());
    out.push(b' ');
    out.extend_from_slice(json.as_bytes());
    out.push(b'\n');
}

fn checksum(json: &[u8]) -> String {
    let Hash(hash) = Hash::of(json);
    hash[..8].iter().fold(String::with_capacity(16), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The file and how much of it is good.
pub struct JournalFile {
    path: PathBuf,
    file: File,
    len: u64,
    /// Its length when it held nothing that was acknowledged.
    len_when_compact: u64,
}

impl JournalFile {
    /// Opens the directory's journal of that name and reads the receipts that nobody has acknowledged.
    pub fn open(dir: &Path, name: &str) -> io::Result<(Self, BTreeMap<u64, Receipt>)> {
        let path = dir.join(name);
        let is_new = !path.try_exists()?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let (kept, len) = read(&file)?;
        // What a crash left behind the last whole line would run into the next one.
        file.set_len(len)?;
        if is_new {
            File::open(dir)?.sync_all()?; // the name must outlive the machine, too
        }
        Ok((Self { path, file, len, len_when_compact: 0 }, kept))
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds whole lines. After an error the next call writes over what this one left.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all_at(lines, self.len)?;
        self.len += lines.len() as u64;
        Ok(())
    }

    /// Returns once the disk has it. After an error nobody knows what it has: Linux takes pages that could not be written for
    /// written, and the next call succeeds without them.
    pub fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.path.with_extension("broken").exists() {
            return Err(io::Error::other("a test says so"));
        }
        self.file.sync_data()
    }

    /// Forgets everything: all of it was acknowledged. Not synced: offering a receipt once more does no harm.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.len, self.len_when_compact) = (0, 0);
        Ok(())
    }

    /// Whether most of it has been acknowledged.
    pub fn wants_compaction(&self) -> bool {
        self.len >= COMPACT_FROM.max(2 * self.len_when_compact)
    }

    /// Puts these lines in the place of all others.
    pub fn replace(&mut self, lines: &[u8]) -> io::Result<()> {
        let aside = self.path.with_extension("jsonl.new");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(lines)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        self.file = file;
        self.len = lines.len() as u64;
        self.len_when_compact = self.len;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

/// The receipts that nobody has acknowledged, and the length up to the last whole line.
fn read(file: &File) -> io::Result<(BTreeMap<u64, Receipt>, u64)> {
    let mut reader = BufReader::new(file);
    let (mut kept, mut len, mut damaged) = (BTreeMap::new(), 0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            break;
        }
        len += read as u64;
        match parse_line(&line) {
            Some(ReadRecord::Receipt { number, receipt }) => {
                kept.insert(number, receipt);
            }
            Some(ReadRecord::Acknowledged(numbers)) => {
                for number in numbers {
                    kept.remove(&number);
                }
            }
            None => damaged += 1,
        }
    }
    if damaged > 0 {
        tracing::warn!(damaged, "lines of the receipts' journal are damaged and lost");
    }
    Ok((kept, len))
}

fn parse_line(line: &[u8]) -> Option<ReadRecord> {
    let (sum, json) = line.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    (sum == checksum(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
}
