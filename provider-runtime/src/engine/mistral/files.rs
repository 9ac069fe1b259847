//! What a model's files say about it: the digest that names these very weights, and how they are quantized.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::load::LoadError;

/// Beside the weights: all that decides which tokens a prompt becomes, what the weights compute (`config.json`) and where
/// an answer ends (`generation_config.json`).
const BESIDE_WEIGHTS: [&str; 6] = [
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
/// What a model of vectors does after its transformer.
pub const MODULES: &str = "modules.json";
/// A longer safetensors header than this is not one.
const MAX_HEADER: u64 = 100 << 20;
const HASH_BUFFER: usize = 1 << 20;

/// The files of a model.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// Hugging Face's layout.
    Folder(PathBuf),
    /// One GGUF, or the parts of a split one in order.
    Gguf(Vec<PathBuf>),
}

impl ModelFiles {
    /// `sha256:` and the SHA-256 of one line per file, `<sha256>  <name>\n`, sorted by name: what
    /// `sha256sum … | sha256sum` prints. Reads every byte.
    pub fn digest(&self) -> Result<String, LoadError> {
        let mut files = match self {
            Self::Folder(folder) => digested_files(folder)?,
            Self::Gguf(parts) => parts.clone(),
        };
        let folder = match self {
            Self::Folder(folder) => Some(folder.as_path()),
            Self::Gguf(_) => None,
        };
        // Within the folder: parts of a model of vectors have folders of their own, with files of one name.
        let name_of = |file: &PathBuf| {
            let name = folder.and_then(|folder| file.strip_prefix(folder).ok()).map(Path::as_os_str);
            name.or_else(|| file.file_name()).unwrap_or_default().to_string_lossy().into_owned()
        };
        files.sort_unstable_by_key(name_of);
        let mut list = Sha256::new();
        for file in &files {
            let digest = hash_file(file).map_err(|source| LoadError::Read { path: file.clone(), source })?;
            list.update(format!("{digest}  {}\n", name_of(file)));
        }
        Ok(format!("sha256:{}", hex(&list.finalize())))
    }

    /// In OpenRouter's words, from what most of the weights are stored as.
    pub fn quantization(&self) -> Result<&'static str, LoadError> {
        match self {
            Self::Folder(folder) => quantization_of_folder(folder),
            Self::Gguf(parts) => quantization_of_gguf(&parts[0]),
        }
    }
}

fn digested_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = weights(folder)?;
    files.extend(BESIDE_WEIGHTS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()));
    let modules = folder.join(MODULES);
    if modules.is_file() {
        for Module { path } in read_json::<Vec<Module>>(&modules)?.iter().filter(|module| !module.path.is_empty()) {
            let parts = ["config.json", "model.safetensors"].map(|name| folder.join(path).join(name));
            files.extend(parts.into_iter().filter(|path| path.is_file()));
        }
        files.push(modules);
    }
    Ok(files)
}

/// A step from a text to its vector, as sentence-transformers has it.
#[derive(Deserialize)]
struct Module {
    /// Its folder; empty for the transformer itself.
    path: String,
}

fn weights(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Read { path: folder.to_owned(), source };
    let mut weights = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            weights.push(path);
        }
    }
    match weights.is_empty() {
        true => Err(LoadError::NoModel { path: folder.to_owned(), missing: "no .safetensors file" }),
        false => Ok(weights),
    }
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a JSON file of the model.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let bytes = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| LoadError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

/// Reads a GGUF's header.
pub fn read_gguf(path: &Path) -> Result<Content, LoadError> {
    let mut file = File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    Content::read(&mut file).map_err(|error| LoadError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

fn quantization_of_folder(folder: &Path) -> Result<&'static str, LoadError> {
    let config: Value = read_json(&folder.join("config.json"))?;
    if let Some(quantized) = config.get("quantization_config") {
        return Ok(match quantized.get("bits").and_then(Value::as_u64) {
            Some(4) => "int4",
            Some(8) => "int8",
            _ if quantized.get("quant_method").is_some_and(|method| method == "fp8") => "fp8",
            _ => "unknown",
        });
    }
    let mut bytes_of: HashMap<String, u64> = HashMap::new();
    for file in weights(folder)? {
        for tensor in read_safetensors_header(&file)?.into_values() {
            *bytes_of.entry(tensor.dtype).or_default() += tensor.data_offsets[1].saturating_sub(tensor.data_offsets[0]);
        }
    }
    let most = bytes_of.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype).unwrap_or_default();
    Ok(match most.as_str() {
        "F32" => "f32",
        "F16" => "f16",
        "BF16" => "bf16",
        dtype if dtype.starts_with("F8_") => "fp8",
        _ => "unknown",
    })
}

#[derive(Deserialize)]
struct TensorHeader {
    dtype: String,
    data_offsets: [u64; 2],
}

fn read_safetensors_header(path: &Path) -> Result<HashMap<String, TensorHeader>, LoadError> {
    let malformed = |reason: String| LoadError::Malformed { path: path.to_owned(), reason };
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = Vec::new();
        file.take(u64::from_le_bytes(length).min(MAX_HEADER)).read_to_end(&mut header)?;
        Ok(header)
    };
    let header = read().map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let mut members: HashMap<String, Value> =
        serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;
    members.remove("__metadata__");
    let tensors = members.into_iter().map(|(name, tensor)| Ok((name, serde_json::from_value(tensor)?)));
    tensors.collect::<Result<_, serde_json::Error>>().map_err(|error| malformed(error.to_string()))
}

fn quantization_of_gguf(path: &Path) -> Result<&'static str, LoadError> {
    let mut bytes_of: HashMap<&'static str, usize> = HashMap::new();
    for tensor in read_gguf(path)?.tensor_infos.values() {
        let dtype = tensor.ggml_dtype;
        let bytes = tensor.shape.elem_count() / dtype.block_size() * dtype.type_size();
        *bytes_of.entry(name_of_ggml(dtype)).or_default() += bytes;
    }
    Ok(bytes_of.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("unknown", |(name, _)| name))
}

/// OpenRouter has no names for two, three, five and six bits.
fn name_of_ggml(dtype: GgmlDType) -> &'static str {
    match dtype {
        GgmlDType::F32 => "f32",
        GgmlDType::F16 => "f16",
        GgmlDType::BF16 => "bf16",
        GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => "int4",
        GgmlDType::Q8_0 | GgmlDType::Q8_1 | GgmlDType::Q8K => "int8",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(safetensors: &[u8]) -> (tempfile::TempDir, ModelFiles) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), safetensors).unwrap();
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), "{\"a\": 1}").unwrap();
        let files = ModelFiles::Folder(folder.path().to_owned());
        (folder, files)
    }

    fn safetensors(header: &str) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"weights"].concat()
    }

    #[test]
    fn the_digest_is_that_of_sha256sum_and_changes_with_each_file() {
        let (folder, files) = model(b"weights");
        // (cd folder; sha256sum config.json model.safetensors tokenizer.json | sha256sum)
        assert_eq!(files.digest().unwrap(), KNOWN);
        std::fs::write(folder.path().join("README.md"), "no part of the model").unwrap();
        assert_eq!(files.digest().unwrap(), KNOWN);
        for (name, content) in [("model.safetensors", "weight5"), ("tokenizer.json", "{}"), ("config.json", "[]")] {
            let (folder, files) = model(b"weights");
            std::fs::write(folder.path().join(name), content).unwrap();
            assert_ne!(files.digest().unwrap(), KNOWN, "{name}");
        }
    }
    const KNOWN: &str = "sha256:c35affddf586b479e52c15d7051569d2d2352a9287765257a665fd9967a55471";

    #[test]
    fn a_model_of_vectors_is_named_by_its_parts_too() {
        let (folder, files) = model(b"weights");
        let dense = folder.path().join("2_Dense");
        std::fs::create_dir(&dense).unwrap();
        std::fs::write(dense.join("model.safetensors"), "dense").unwrap();
        assert_eq!(files.digest().unwrap(), KNOWN, "nothing says that it is a part");
        std::fs::write(folder.path().join(MODULES), r#"[{"path": ""}, {"path": "2_Dense"}]"#).unwrap();
        let with = files.digest().unwrap();
        std::fs::write(dense.join("model.safetensors"), "dens3").unwrap();
        assert!(with != KNOWN && with != files.digest().unwrap());
    }

    #[test]
    fn quantization_is_what_most_weights_are_stored_as() {
        let header = r#"{"__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "BF16", "shape": [8], "data_offsets": [8, 24]}}"#;
        let (folder, files) = model(&safetensors(header));
        assert_eq!(files.quantization().unwrap(), "bf16");
        std::fs::write(folder.path().join("config.json"), r#"{"quantization_config": {"bits": 4}}"#).unwrap();
        assert_eq!(files.quantization().unwrap(), "int4");
    }

    #[test]
    fn broken_files_are_named() {
        let (_folder, files) = model(&u64::MAX.to_le_bytes());
        let error = files.quantization().unwrap_err().to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
}
