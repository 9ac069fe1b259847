//! Where a model comes from: a folder, a GGUF file or the Hugging Face hub.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::files::MODULES;
use super::load::LoadError;
use crate::split;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in Hugging Face's layout: `config.json`, `tokenizer.json`, safetensors.
    Folder(PathBuf),
    /// A GGUF file, which brings its tokenizer and template along; of a split model, any of its parts.
    Gguf(PathBuf),
    /// `organisation/name` on the hub, downloaded into its local cache.
    Hub(String),
}

impl ModelSource {
    /// The folder of a model of vectors, if it is one. Only a folder can be: what the hub has must be downloaded first.
    pub fn folder_of_vectors(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => folder.join(MODULES).is_file().then_some(folder.as_path()),
            Self::Gguf(_) | Self::Hub(_) => None,
        }
    }
}

impl FromStr for ModelSource {
    type Err = LoadError;

    /// What exists is a path. What does not is a hub id only if it cannot be meant as a path: mistralrs would ask the
    /// network for a mistyped one.
    fn from_str(given: &str) -> Result<Self, LoadError> {
        let path = Path::new(given);
        let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.is_file() && is_gguf {
            return Ok(Self::Gguf(path.to_owned()));
        }
        if path.exists() {
            return Err(LoadError::NoModel { path: path.to_owned(), missing: "neither a folder nor a .gguf file" });
        }
        if is_gguf || given.starts_with(['/', '.', '~']) {
            return Err(LoadError::NoSuchPath(path.to_owned()));
        }
        match is_hub_id(given) {
            true => Ok(Self::Hub(given.to_owned())),
            false => Err(LoadError::NoSource(given.to_owned())),
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path.display().fmt(f),
            Self::Hub(id) => f.write_str(id),
        }
    }
}

fn is_hub_id(given: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    given.split_once('/').is_some_and(|(organisation, name)| is_name(organisation) && is_name(name))
}

/// Where the hub's cache keeps what was downloaded of a model: the snapshot that `main` points to, which is the one that
/// mistralrs has just loaded.
pub fn hub_snapshot(cache: &Path, id: &str) -> Option<PathBuf> {
    let model = cache.join(format!("models--{}", id.replace('/', "--")));
    let commit = std::fs::read_to_string(model.join("refs/main")).ok()?;
    let snapshot = model.join("snapshots").join(commit.trim());
    snapshot.is_dir().then_some(snapshot)
}

/// All parts of a GGUF model, in order: `name-00001-of-00003.gguf` has two siblings.
pub fn gguf_parts(file: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let parts = split::gguf_parts(file).into_iter();
    parts.map(|part| if part.is_file() { Ok(part) } else { Err(LoadError::NoSuchPath(part)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_exist_is_never_looked_up_on_the_hub() {
        for path in ["/no/such", "./no/such", "../such", "~/models/padi", "models/padi.gguf", "padi.GGUF"] {
            let refused = path.parse::<ModelSource>();
            assert!(matches!(refused, Err(LoadError::NoSuchPath(_))), "{path}: {refused:?}");
            assert!(refused.unwrap_err().to_string().contains("does not exist"));
        }
        for neither in ["padi", "models/padi/q4", "org/", "org/na me", ""] {
            assert!(matches!(neither.parse::<ModelSource>(), Err(LoadError::NoSource(_))), "{neither}");
        }
        assert_eq!("Qwen/Qwen3-0.6B".parse::<ModelSource>().unwrap(), ModelSource::Hub("Qwen/Qwen3-0.6B".into()));
    }

    #[test]
    fn what_exists_is_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let (gguf, text) = (folder.path().join("a.gguf"), folder.path().join("a.txt"));
        std::fs::write(&gguf, "").unwrap();
        std::fs::write(&text, "").unwrap();
        let parse = |path: &Path| path.to_str().unwrap().parse::<ModelSource>();
        assert_eq!(parse(folder.path()).unwrap(), ModelSource::Folder(folder.path().into()));
        assert_eq!(parse(&gguf).unwrap(), ModelSource::Gguf(gguf.clone()));
        assert!(matches!(parse(&text), Err(LoadError::NoModel { .. })));
        assert_eq!(gguf_parts(&gguf).unwrap(), [gguf]);
    }

    #[test]
    fn a_split_model_needs_all_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let part = |number: u32| folder.path().join(format!("m-q4-{number:05}-of-00002.gguf"));
        std::fs::write(part(2), "").unwrap();
        assert!(matches!(gguf_parts(&part(2)), Err(LoadError::NoSuchPath(missing)) if missing == part(1)));
        std::fs::write(part(1), "").unwrap();
        assert_eq!(gguf_parts(&part(2)).unwrap(), [part(1), part(2)]);
    }

    #[test]
    fn the_snapshot_of_a_hub_model_is_the_one_main_points_to() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(hub_snapshot(cache.path(), "org/name"), None);
        let model = cache.path().join("models--org--name");
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::create_dir_all(model.join("snapshots/abc")).unwrap();
        std::fs::write(model.join("refs/main"), "abc").unwrap();
        assert_eq!(hub_snapshot(cache.path(), "org/name"), Some(model.join("snapshots/abc")));
    }
}
