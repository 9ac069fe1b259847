//! GGUF models in several files: `name-00001-of-00003.gguf` has two siblings.

use std::path::{Path, PathBuf};

/// All parts of a model, in order, of which this is one; it alone where it is whole. Whether they exist is not looked at.
pub fn gguf_parts(file: &Path) -> Vec<PathBuf> {
    match split_name(file) {
        None => vec![file.to_owned()],
        Some((prefix, total)) => {
            (1..=total).map(|part| file.with_file_name(format!("{prefix}-{part:05}-of-{total:05}.gguf"))).collect()
        }
    }
}

fn split_name(file: &Path) -> Option<(&str, u32)> {
    let (rest, total) = file.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (prefix, part) = rest.rsplit_once('-')?;
    let is_number = |digits: &str| digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(part) && is_number(total)).then(|| total.parse().ok().map(|total| (prefix, total)))?
}
