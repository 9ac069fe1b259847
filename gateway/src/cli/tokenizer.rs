//! `models tokenizer`: reads a model's tokenizer as its author published it.

use std::path::Path;

use anyhow::{Context, bail};
use lumbung_openapi::chat::ChatRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Report;
use crate::domain::ids::ModelId;
use crate::domain::tokenizer::{MAX_FILE, ModelTokenizer, TokenizerFiles};
use crate::store::Store;
use lumbung_openapi::template::SpecialTokens;

/// What is of interest in `tokenizer_config.json`.
#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    bos_token: Value,
    #[serde(default)]
    eos_token: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    chat_template: Value,
}

/// Reads the folder, tries what is in it, and gives it to the model.
pub(super) async fn import(model: &ModelId, folder: &Path, store: &Store) -> anyhow::Result<Report> {
    let files = read(folder)?;
    let tokenizer = ModelTokenizer::new(&files).with_context(|| format!("{} holds no tokenizer", folder.display()))?;
    let probe = ChatRequest::parse(br#"{"model":"m","messages":[{"role":"user","content":"?"}]}"#)?;
    if !files.chat_template.is_empty() && tokenizer.prompt_tokens(&probe, 0).is_none() {
        bail!("the chat template does not take a user's message");
    }
    store.set_tokenizer(model, &files).await?;
    let what = if files.chat_template.is_empty() { " (no chat template: prompts are not counted)" } else { "" };
    let text = format!("{model} is counted with {}{what}", tokenizer.digest());
    Report::new(text, json!({ "id": model, "tokenizer": tokenizer.digest() }))
}

fn read(folder: &Path) -> anyhow::Result<TokenizerFiles> {
    let tokenizer_json = read_file(&folder.join("tokenizer.json"))?.context("the folder has no tokenizer.json")?;
    let config: Config = match read_file(&folder.join("tokenizer_config.json"))? {
        Some(text) => serde_json::from_str(&text).context("tokenizer_config.json is malformed")?,
        None => Config::default(),
    };
    // The newer place comes first, as in transformers.
    let chat_template = match read_file(&folder.join("chat_template.jinja"))? {
        Some(template) => template,
        None => default_template(&config.chat_template)?,
    };
    let special_tokens =
        SpecialTokens { bos: token(&config.bos_token), eos: token(&config.eos_token), unk: token(&config.unk_token) };
    Ok(TokenizerFiles { tokenizer_json, chat_template, special_tokens })
}

/// A file's text; `None` where there is none.
fn read_file(path: &Path) -> anyhow::Result<Option<String>> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if size > MAX_FILE as u64 {
        bail!("{} is larger than {MAX_FILE} bytes", path.display());
    }
    std::fs::read_to_string(path).map(Some).with_context(|| format!("cannot read {}", path.display()))
}

/// One template, or several by name of which the default one counts.
fn default_template(value: &Value) -> anyhow::Result<String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(template) => Ok(template.clone()),
        Value::Array(named) => named
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str().map(str::to_owned))
            .context("tokenizer_config.json has chat templates, and none is the default"),
        _ => bail!("chat_template in tokenizer_config.json is neither a text nor a list"),
    }
}

/// A token's text, written by itself or as an object with its properties.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_as_transformers_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        assert!(read(folder.path()).is_err(), "nothing there");
        write("tokenizer.json", "{}");
        let bare = read(folder.path()).expect("a tokenizer without a template");
        assert_eq!((bare.chat_template.as_str(), bare.special_tokens), ("", SpecialTokens::default()));
        write(
            "tokenizer_config.json",
            r#"{"bos_token":{"content":"<s>","lstrip":false},"eos_token":"</s>","unk_token":null,
                "chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]}"#,
        );
        let files = read(folder.path()).expect("files");
        let special = SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), unk: None };
        assert_eq!((files.chat_template.as_str(), files.special_tokens), ("d", special));
        write("chat_template.jinja", "j");
        assert_eq!(read(folder.path()).expect("files").chat_template, "j");
        write("tokenizer_config.json", r#"{"chat_template":7}"#);
        std::fs::remove_file(folder.path().join("chat_template.jinja")).expect("removed");
        assert!(read(folder.path()).is_err());
    }
}
