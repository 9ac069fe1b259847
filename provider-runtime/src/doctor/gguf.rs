//! The head of a GGUF file, as far as it says whether the file can serve: its tokenizer, template and context.
//! Source: the GGUF specification in ggml's repository (`docs/gguf.md`), versions 2 and 3.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// What the head says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GgufHead {
    /// Whether a tokenizer is in it.
    pub has_tokenizer: bool,
    /// Whether a chat template is in it.
    pub has_template: bool,
    /// Tokens of prompt and completion together.
    pub context_length: Option<u64>,
}

/// No key, no string that is of interest here and no count is larger; a file that says so is broken.
const MOST: u64 = 1 << 24;

/// Reads a file's head.
pub fn read(path: &Path) -> io::Result<GgufHead> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    let version = number(&mut file, 4)?;
    if magic != *b"GGUF" || !(2..=3).contains(&version) {
        return Err(broken("no GGUF file of version 2 or 3"));
    }
    let _tensors = number(&mut file, 8)?;
    let entries = number(&mut file, 8)?.min(MOST);
    let mut head = GgufHead::default();
    for _ in 0..entries {
        let key = string(&mut file)?;
        let kind = number(&mut file, 4)?;
        let value = value(&mut file, kind)?;
        match key.as_str() {
            "tokenizer.chat_template" => head.has_template = true,
            "tokenizer.ggml.model" => head.has_tokenizer = true,
            _ if key.ends_with(".context_length") => head.context_length = value,
            _ => {}
        }
    }
    // Passing over a value does not notice that it is not all there.
    match file.stream_position()? > len {
        true => Err(broken("the file is cut short")),
        false => Ok(head),
    }
}

/// Passes over a value, and returns it if it is a whole number.
fn value(file: &mut (impl Read + Seek), kind: u64) -> io::Result<Option<u64>> {
    const STRING: u64 = 8;
    const ARRAY: u64 = 9;
    match kind {
        STRING => {
            let length = number(file, 8)?;
            skip(file, length)?;
            Ok(None)
        }
        ARRAY => {
            let (kind, count) = (number(file, 4)?, number(file, 8)?);
            if kind == ARRAY || count > MOST {
                return Err(broken("an array of arrays, or too long a one"));
            }
            match kind {
                STRING => {
                    for _ in 0..count {
                        value(file, STRING)?;
                    }
                }
                _ => skip(file, count * width(kind)?)?,
            }
            Ok(None)
        }
        _ => number(file, width(kind)?).map(Some),
    }
}

/// Bytes of a value of fixed length.
fn width(kind: u64) -> io::Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(broken("a value of unknown type")),
    }
}

fn string(file: &mut impl Read) -> io::Result<String> {
    let length = number(file, 8)?;
    if length > 1 << 16 {
        return Err(broken("a key is too long"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| broken("a key is not UTF-8"))
}

fn number(file: &mut impl Read, width: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes[..width as usize])?;
    Ok(u64::from_le_bytes(bytes))
}

fn skip(file: &mut impl Seek, bytes: u64) -> io::Result<()> {
    file.seek_relative(i64::try_from(bytes).map_err(|_| broken("a value is too long"))?)
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [&text(key)[..], &kind.to_le_bytes(), value].concat()
    }

    fn file(entries: &[Vec<u8>]) -> tempfile::NamedTempFile {
        let count = entries.len() as u64;
        let head = [b"GGUF", &3u32.to_le_bytes()[..], &1u64.to_le_bytes(), &count.to_le_bytes()].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [head, entries.concat()].concat()).unwrap();
        file
    }

    #[test]
    fn a_head_is_read_past_arrays_and_numbers_of_every_width() {
        let words = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("bc")].concat();
        let scores = [&6u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0; 8]].concat();
        let file = file(&[
            entry("general.name", 8, &text("padi")),
            entry("tokenizer.ggml.model", 8, &text("gpt2")),
            entry("tokenizer.ggml.tokens", 9, &words),
            entry("tokenizer.ggml.scores", 9, &scores),
            entry("general.flag", 7, &[1]),
            entry("llama.context_length", 4, &2048u32.to_le_bytes()),
            entry("general.long", 10, &7u64.to_le_bytes()),
            entry("tokenizer.chat_template", 8, &text("{{ messages }}")),
        ]);
        let head = GgufHead { has_tokenizer: true, has_template: true, context_length: Some(2048) };
        assert_eq!(read(file.path()).unwrap(), head);
    }

    #[test]
    fn what_is_no_gguf_file_is_refused() {
        let cut = file(&[entry("general.name", 8, &text("padi"))]);
        let bytes = std::fs::read(cut.path()).unwrap();
        for at in 0..bytes.len() {
            std::fs::write(cut.path(), &bytes[..at]).unwrap();
            assert!(read(cut.path()).is_err(), "cut at {at}");
        }
        std::fs::write(cut.path(), b"GGML\x03\0\0\0").unwrap();
        assert_eq!(read(cut.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
