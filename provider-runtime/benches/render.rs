//! What the provider does with each token that its engine makes. `make bench`.

use std::hint::black_box;

use divan::Bencher;
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::{FrameKind, PromptCount};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::reply::{TokenLogprob, TopLogprob};
use lumbung_openapi::ticket::Ticket;
use lumbung_provider::engine::Tokens;
use lumbung_provider::outgoing::Outgoing;
use lumbung_provider::render::{Shape, dialect};

fn main() {
    divan::main();
}

fn ticket() -> Ticket {
    Ticket {
        replica: "replica_1".into(),
        allowance: "allow_1".into(),
        job: "job_1".into(),
        attempt: 1,
        first_token: 0,
        provider: "provider".into(),
        model: "lumbung/padi".into(),
        digests: vec![],
        price: TokenPrice::default(),
        fee_bps: 1000,
        max_prompt_tokens: 1300,
        max_completion_tokens: 1024,
        whole: false,
        ceiling: NanoUsd::ZERO,
        request_sha256: Hash::of(b"request"),
        public_id: "chatcmpl-01K00000000000000000000000".into(),
        public_model: "lumbung/padi".into(),
        created: 1_700_000_000,
        start_by: 1_700_000_060,
        claim_by: 1_700_003_600,
    }
}

fn token(alternatives: Option<u8>) -> Tokens {
    let top = |nth: u8| TopLogprob { token: " padi".into(), logprob: -f32::from(nth), bytes: b" padi".to_vec() };
    let logprob = |most: u8| TokenLogprob {
        token: " padi".into(),
        logprob: -0.25,
        bytes: b" padi".to_vec(),
        top_logprobs: (0..most).map(top).collect(),
    };
    Tokens {
        count: 1,
        ids: vec![4711],
        text: " padi".into(),
        logprobs: alternatives.map(logprob).into_iter().collect(),
        ..Tokens::default()
    }
}

/// From an event to a frame with the client's bytes, hashed for the receipt: at each endpoint, and with log-probabilities of
/// the token and five others.
#[divan::bench(args = ["chat", "completions", "responses", "messages", "logprobs"])]
fn stream_token(bencher: Bencher<'_, '_>, way: &str) {
    let (endpoint, body) = match way {
        "completions" => (Endpoint::Completions, r#"{"model":"m","stream":true,"prompt":"padi"}"#),
        "responses" => (Endpoint::Responses, r#"{"model":"m","stream":true,"input":"padi"}"#),
        "messages" => (
            Endpoint::Messages,
            r#"{"model":"m","stream":true,"max_tokens":64,"messages":[{"role":"user","content":"padi"}]}"#,
        ),
        "logprobs" => (
            Endpoint::Chat,
            r#"{"model":"m","stream":true,"logprobs":true,"top_logprobs":5,"messages":[{"role":"user","content":"padi"}]}"#,
        ),
        _ => (Endpoint::Chat, r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"padi"}]}"#),
    };
    let normalized = endpoint.normalize(&body.as_bytes().into()).expect("a body");
    let request: ChatRequest<'_> = endpoint.parse(&normalized).expect("a request");
    let shape = Shape::of(endpoint, &request);
    let mut rendering = dialect(&ticket(), shape, body.as_bytes(), &request).expect("a rendering");
    let mut outgoing = Outgoing::new(1);
    rendering.prompt(outgoing.payload(0), PromptCount::default());
    let token = token(shape.logprobs.then_some(5));
    bencher.with_inputs(|| token.clone()).bench_local_values(|token| {
        outgoing.count(black_box(&token), FrameKind::Delta);
        rendering.tokens(outgoing.payload(0), token);
        outgoing.frame_payloads();
        outgoing.take()
    });
}
