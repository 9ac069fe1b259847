//! Answers that are longer than one frame, or than any answer may be.

use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::{Frame, FrameKind, MAX_PAYLOAD};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::ReceiptClaims;
use serde_json::{Value, json};

use super::support::gateway::TestGateway;
use super::support::provider::{Provider, scripted};
use super::support::tunnel::{Tunnel, client_bytes};
use super::{of_kind, request};

/// A gateway, and a provider whose words are of so many bytes.
async fn joined(word: usize) -> (TestGateway, Provider, Tunnel) {
    let gateway = TestGateway::start().await;
    let word = format!(" {}", "x".repeat(word - 1));
    let script = json!({"context_length": 4096, "rules": [{"match": "*", "tokens": 1200, "word": word}]});
    let provider = scripted(&gateway.url(), &script.to_string()).start();
    let tunnel = gateway.tunnel().await;
    (gateway, provider, tunnel)
}

fn error_of(frames: &[Frame]) -> Value {
    let errors = of_kind(frames, FrameKind::Error);
    let [error] = errors.as_slice() else { panic!("no error: {} frames", frames.len()) };
    serde_json::from_slice(&error.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_longer_than_a_frame_comes_in_several() {
    let (_gateway, _provider, mut tunnel) = joined(4096).await;
    for (endpoint, body) in [
        (Endpoint::Chat, request("hi", "")),
        (Endpoint::Responses, r#"{"model":"test/model","input":"hi"}"#.to_owned()),
    ] {
        tunnel.endpoint = endpoint;
        let frames = tunnel.ask(&body).await.begun().all().await;
        let pieces = of_kind(&frames, FrameKind::Body);
        let sizes: Vec<usize> = pieces.iter().map(|piece| piece.payload.len()).collect();
        assert!(sizes.len() == 2 && sizes[0] == MAX_PAYLOAD, "{sizes:?}");
        let bytes = client_bytes(&frames);
        let whole: Value = serde_json::from_slice(&[&bytes[..], b"}"].concat()).unwrap();
        let text = match endpoint {
            Endpoint::Chat => &whole["choices"][0]["message"]["content"],
            _ => &whole["output"][0]["content"][0]["text"],
        };
        assert_eq!(text.as_str().map(str::len), Some(1200 * 4096));
        assert_eq!(of_kind(&frames, FrameKind::End)[0].tokens, 1200);
        let claims: ReceiptClaims = serde_json::from_slice(&frames.last().unwrap().payload).unwrap();
        assert_eq!(claims.delivered_sha256, Hash::of(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_would_be_too_long_is_the_requests_fault() {
    let (_gateway, provider, mut tunnel) = joined(32 << 10).await;
    for (endpoint, body, param) in [
        (Endpoint::Chat, request("hi", ""), "max_tokens"),
        (Endpoint::Responses, r#"{"model":"test/model","input":"hi"}"#.to_owned(), "max_output_tokens"),
    ] {
        tunnel.endpoint = endpoint;
        let error = error_of(&tunnel.ask(&body).await.begun().all().await);
        assert_eq!((&error["code"], &error["param"]), (&json!("invalid_value"), &json!(param)), "{error}");
    }
    assert!(!provider.log().contains("WARN"), "{}", provider.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_prompt_is_repeated_before_its_first_token_and_too_long_ones_are_refused() {
    let (_gateway, _provider, mut tunnel) = joined(8).await;
    tunnel.endpoint = Endpoint::Completions;
    let body = |length: usize, n: u32| {
        let prompt = "x".repeat(length);
        format!(r#"{{"model":"test/model","prompt":"{prompt}","echo":true,"stream":true,"n":{n},"max_tokens":2}}"#)
    };
    let frames = tunnel.ask(&body(100_000, 2)).await.begun().all().await;
    let first = frames.iter().find(|frame| !frame.payload.is_empty() && frame.kind.is_for_client()).unwrap();
    assert!(first.payload.len() > 100_000 && !first.ids.is_empty(), "{}", first.payload.len());
    let text = String::from_utf8(client_bytes(&frames)).unwrap();
    assert_eq!(text.matches(&"x".repeat(100_000)).count(), 2);

    let error = error_of(&tunnel.ask(&body(400_000, 16)).await.begun().all().await);
    assert_eq!((&error["code"], &error["param"]), (&json!("invalid_value"), &json!("echo")), "{error}");
}
