//! The model: whether its files are there and say what serving needs; for a sidecar, whether the server has it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::gguf;
use super::{Finding, exists, size};
use crate::engine::openai::OpenAiEngine;
use crate::hardware::Hardware;
use crate::split::gguf_parts;

/// Looks at a model for the embedded engine. `on_gpu`: whether so many bytes of weights fit there, if that is known.
pub fn examine(
    named: Option<&str>,
    hardware: &Hardware,
    on_gpu: impl Fn(u64) -> Option<Result<(), String>>,
) -> Vec<Finding> {
    let Some(named) = named else {
        return vec![Finding::problem(
            "model",
            "none is named",
            "name one: --model <folder, .gguf file or Hugging Face id>",
        )];
    };
    let path = Path::new(named);
    if path.is_dir() {
        return folder(path, hardware, &on_gpu);
    }
    if path.is_file() {
        return gguf_file(path, hardware, &on_gpu);
    }
    vec![match named.split_once('/') {
        Some((owner, name)) if !owner.is_empty() && !owner.starts_with(['.', '~']) && !name.contains('/') => {
            Finding::ok("model", format!("'{named}' will be downloaded from Hugging Face if it is not in its cache"))
        }
        _ => Finding::problem("model", format!("there is no '{named}'"), "give the path of a folder or .gguf file"),
    }]
}

type OnGpu<'a> = &'a dyn Fn(u64) -> Option<Result<(), String>>;

fn folder(path: &Path, hardware: &Hardware, on_gpu: OnGpu<'_>) -> Vec<Finding> {
    let at = path.display();
    let config = json(&path.join("config.json"));
    if config.is_none() {
        let advice = "name the folder that holds config.json, tokenizer.json and *.safetensors, or a .gguf file itself";
        return vec![Finding::problem("model", format!("{at} has no readable config.json"), advice)];
    }
    let weights = safetensors(path);
    if weights.is_empty() {
        let advice = "download the weights as well (a git clone without git-lfs leaves them out)";
        return vec![Finding::problem("model", format!("{at} has no .safetensors files"), advice)];
    }
    let weight_bytes = size_of(&weights);
    let context = config.as_ref().and_then(|config| {
        let text = config.get("text_config").unwrap_or(config);
        text["max_position_embeddings"].as_u64()
    });
    let has_tokenizer = json(&path.join("tokenizer.json")).is_some();
    // A model of vectors has no conversations.
    let has_template = exists(&path.join("modules.json"))
        || exists(&path.join("chat_template.jinja"))
        || exists(&path.join("chat_template.json"))
        || json(&path.join("tokenizer_config.json")).is_some_and(|config| !config["chat_template"].is_null());
    let mut findings = vec![fits(at.to_string(), weight_bytes, hardware, on_gpu)];
    findings.extend(parts(has_tokenizer, has_template, context));
    findings
}

fn safetensors(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")).collect()
}

/// Bytes of a model's weights on this machine; `None` where they are not here (yet).
pub fn weight_bytes(named: &str) -> Option<u64> {
    let path = Path::new(named);
    match (path.is_dir(), path.is_file()) {
        (true, _) => Some(size_of(&safetensors(path))),
        (false, true) => Some(size_of(&gguf_parts(path))),
        (false, false) => None,
    }
}

fn gguf_file(path: &Path, hardware: &Hardware, on_gpu: OnGpu<'_>) -> Vec<Finding> {
    let at = path.display();
    match gguf::read(path) {
        Err(error) => {
            vec![Finding::problem("model", format!("{at} cannot be read as GGUF: {error}"), "download the file again")]
        }
        Ok(head) => {
            let mut findings = vec![fits(at.to_string(), size_of(&gguf_parts(path)), hardware, on_gpu)];
            findings.extend(parts(head.has_tokenizer, head.has_template, head.context_length));
            findings
        }
    }
}

fn fits(at: String, weight_bytes: u64, hardware: &Hardware, on_gpu: OnGpu<'_>) -> Finding {
    let found = format!("{at}, {} of weights", size(weight_bytes));
    if weight_bytes < 1 << 16 {
        return Finding::problem("model", found, "these are no weights; a git clone without git-lfs leaves such stubs");
    }
    let advice = "take a smaller model or quantization, or stop other programs";
    match on_gpu(weight_bytes) {
        Some(Err(why)) => Finding::problem("model", format!("{found}, {why}"), advice),
        None if weight_bytes > hardware.memory_available && (!super::HAS_CUDA || hardware.gpus.is_empty()) => {
            let free = size(hardware.memory_available);
            Finding::problem("model", format!("{found}, more than the {free} of memory that are free"), advice)
        }
        _ => Finding::ok("model", found),
    }
}

fn parts(has_tokenizer: bool, has_template: bool, context: Option<u64>) -> Vec<Finding> {
    vec![
        match has_tokenizer {
            true => Finding::ok("tokenizer", "found"),
            false => Finding::problem("tokenizer", "none that can be read", "download the model's tokenizer.json"),
        },
        match has_template {
            true => Finding::ok("template", "found"),
            false => {
                Finding::problem("template", "none", "a base model cannot chat: take the instruct or chat version")
            }
        },
        match context {
            Some(tokens) => Finding::ok("context", format!("{tokens} tokens")),
            None => Finding::warning(
                "context",
                "the files do not say how long a conversation may be",
                "see the log of serve",
            ),
        },
    ]
}

fn size_of(files: &[PathBuf]) -> u64 {
    files.iter().filter_map(|file| fs::metadata(file).ok()).map(|file| file.len()).sum()
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Looks at a server beside this process.
pub async fn examine_sidecar(engine: &anyhow::Result<Box<OpenAiEngine>>) -> Finding {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => {
            return Finding::problem("upstream", format!("{error:#}"), "correct the options of --engine openai");
        }
    };
    let (base, model) = (engine.base(), engine.model());
    match engine.list_models().await {
        Err(error) => Finding::problem(
            "upstream",
            format!("{base} does not list its models: {error}"),
            "start the server, and check --upstream and --upstream-key",
        ),
        Ok(models) if models.iter().any(|listed| listed.id == model) => {
            Finding::ok("upstream", format!("{base} has '{model}'"))
        }
        Ok(models) => {
            let names: Vec<&str> = models.iter().take(8).map(|listed| listed.id.as_str()).collect();
            Finding::problem(
                "upstream",
                format!("{base} has no '{model}', but {}", names.join(", ")),
                "name one of those by --upstream-model",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn machine() -> Hardware {
        Hardware { memory_available: 1 << 20, ..Default::default() }
    }

    fn levels(findings: &[Finding]) -> Vec<(&'static str, Level)> {
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_folder_is_looked_through() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let look = || examine(dir.path().to_str(), &machine(), |_| None);
        assert_eq!(levels(&look()), [("model", Level::Problem)]);
        write("config.json", br#"{"max_position_embeddings":2048}"#);
        assert!(look()[0].found.contains("safetensors"));
        write("model.safetensors", &[0; 100]);
        assert!(look()[0].advice.contains("git-lfs"));
        write("model.safetensors", &[0; 1 << 17]);
        let expected =
            [("model", Level::Ok), ("tokenizer", Level::Problem), ("template", Level::Problem), ("context", Level::Ok)];
        assert_eq!(levels(&look()), expected);
        write("tokenizer.json", b"{}");
        write("tokenizer_config.json", br#"{"chat_template":"x"}"#);
        assert!(look().iter().all(|finding| finding.level == Level::Ok), "{:?}", look());
        write("model.safetensors", &[0; 1 << 21]);
        assert_eq!(look()[0].level, Level::Problem, "it does not fit into 1 MiB");
        let on_gpu = |free| move |weights| Some(if weights > free { Err("too much".into()) } else { Ok(()) });
        let level = |free| examine(dir.path().to_str(), &machine(), on_gpu(free))[0].level;
        assert_eq!((level(1 << 20), level(1 << 30)), (Level::Problem, Level::Ok), "there the GPU's memory counts");
    }

    #[test]
    fn the_bundled_model_of_vectors_is_in_order() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/padi-embed");
        let machine = Hardware { memory_available: 1 << 30, ..Hardware::default() };
        let findings = examine(folder.to_str(), &machine, |_| None);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    }

    #[test]
    fn a_split_model_is_as_large_as_all_its_parts() {
        let dir = tempfile::tempdir().unwrap();
        for (part, bytes) in [(1, 1000), (2, 2000), (3, 4000)] {
            fs::write(dir.path().join(format!("big-{part:05}-of-00003.gguf")), vec![0; bytes]).unwrap();
        }
        let first = dir.path().join("big-00001-of-00003.gguf");
        assert_eq!(weight_bytes(first.to_str().unwrap()), Some(7000));
        assert_eq!((weight_bytes("/no/such"), weight_bytes(dir.path().to_str().unwrap())), (None, Some(0)));
    }

    #[test]
    fn a_name_is_a_path_or_of_the_hub() {
        let level = |named| examine(Some(named), &machine(), |_| None)[0].level;
        assert_eq!(level("Qwen/Qwen3-8B"), Level::Ok);
        assert_eq!(level("./Qwen3-8B"), Level::Problem);
        assert_eq!(level("Qwen3-8B"), Level::Problem);
        assert_eq!(examine(None, &machine(), |_| None)[0].level, Level::Problem);
    }
}
