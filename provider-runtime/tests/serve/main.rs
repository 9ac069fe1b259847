//! One provider process and one gateway, both ends of the link: joining, jobs, receipts, stopping, sidecars.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod configuration;
mod continued;
mod control;
mod doctor;
mod expectation;
mod jobs;
mod lifecycle;
mod long;
mod receipts;
mod reload;
mod sidecar;
mod succession;
mod support;

use lumbung_openapi::frame::{Frame, FrameKind};
use lumbung_openapi::receipt::{Receipt, ReceiptClaims};
use lumbung_openapi::reply::ChatCompletionChunk;

use support::gateway::TestGateway;
use support::provider::{Provider, scripted};
use support::tunnel::Tunnel;

const SCRIPT: &str = r#"{
    "weights_digest": "sha256:abc", "quantization": "int4", "context_length": 4096,
    "rules": [
        {"match": "slowly", "tokens": 100000, "delay_ms_per_token": 5, "prompt_tokens": 9},
        {"match": "briefly", "tokens": 60, "delay_ms_per_token": 20, "prompt_tokens": 9},
        {"match": "freeze", "tokens": 10, "freeze_after": 3},
        {"match": "fail", "tokens": 10, "fail_after": 3, "prompt_tokens": 9},
        {"match": "break", "error": "failed"},
        {"match": "die", "tokens": 10, "die_after": 3},
        {"match": "*", "reply": "Padi masuk lumbung.", "prompt_tokens": 9, "cached_tokens": 4}
    ]
}"#;

/// A request body.
fn request(text: &str, more: &str) -> String {
    format!(r#"{{"model":"test/model","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#)
}

fn streamed(text: &str) -> String {
    request(text, r#","stream":true"#)
}

/// A gateway, and a provider with two slots that has joined it.
async fn joined() -> (TestGateway, Provider, Tunnel) {
    let gateway = TestGateway::start().await;
    let provider = scripted(&gateway.url(), SCRIPT).with("--slots", "2").start();
    let tunnel = gateway.tunnel().await;
    (gateway, provider, tunnel)
}

fn of_kind(frames: &[Frame], kind: FrameKind) -> Vec<&Frame> {
    frames.iter().filter(|frame| frame.kind == kind).collect()
}

fn chunks(bytes: &[u8]) -> Vec<ChatCompletionChunk> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.split_terminator("\n\n").map(|event| serde_json::from_str(&event["data: ".len()..]).unwrap()).collect()
}

fn text_of(chunks: &[ChatCompletionChunk]) -> String {
    chunks.iter().filter_map(|chunk| chunk.choices[0].delta.content.as_deref()).collect()
}

fn claims_of(receipt: &Receipt) -> ReceiptClaims {
    receipt.parse_claims().unwrap()
}
