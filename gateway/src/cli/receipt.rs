//! `receipt`: offline, without the books.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use jsonwebtoken::jwk::JwkSet;
use lumbung_openapi::receipt::JobReceipt;
use serde_json::json;

use super::Report;

/// `receipt …`
#[derive(Debug, Subcommand)]
pub enum Receipt {
    /// Check every signature and every sum of a receipt (`GET /v1/receipts/{id}`). Asks nobody.
    Verify {
        /// The receipt's file; `-` for stdin.
        file: PathBuf,
        /// The gateway's published keys, a JWK set.
        #[arg(long)]
        keys: PathBuf,
    },
}

pub(super) fn run(action: Receipt) -> anyhow::Result<Report> {
    let Receipt::Verify { file, keys } = action;
    let keys: JwkSet = serde_json::from_str(&read(&keys)?).context("the keys are no JWK set")?;
    let receipt: JobReceipt = serde_json::from_str(&read(&file)?).context("the file is no receipt")?;
    let summary = json!({
        "id": receipt.id, "model": receipt.model, "prompt_tokens": receipt.prompt_tokens,
        "completion_tokens": receipt.completion_tokens, "charge_usd": receipt.charge,
    });
    receipt.verify(&keys).with_context(|| format!("receipt {} does not verify", receipt.id))?;
    let text = format!(
        "{} verifies: {} prompt and {} completion tokens of {} for ${}",
        receipt.id, receipt.prompt_tokens, receipt.completion_tokens, receipt.model, receipt.charge
    );
    Report::new(text, json!({ "verified": true, "receipt": summary }))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|contents| text = contents),
    }
    .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
