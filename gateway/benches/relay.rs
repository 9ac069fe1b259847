//! What the gateway does with each frame of an answer. `make bench`.

use std::hint::black_box;

use bytes::Bytes;
use divan::Bencher;
use lumbung_gateway::chat::buffer::buffer;
use lumbung_gateway::chat::meter::Meter;
use lumbung_gateway::domain::routing::vitals::Unread;
use lumbung_openapi::frame::{Frame, FrameKind};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::ticket::Ticket;

fn main() {
    divan::main();
}

const CHUNK: &[u8] = br#"data: {"id":"chatcmpl-01K00000000000000000000000","object":"chat.completion.chunk","created":1700000000,"model":"lumbung/padi","choices":[{"index":0,"delta":{"content":" padi"},"logprobs":null,"finish_reason":null}],"usage":null}

"#;

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
        max_completion_tokens: u32::MAX,
        whole: false,
        ceiling: NanoUsd::ZERO,
        request_sha256: Hash::of(b"request"),
        public_id: "chatcmpl-1".into(),
        public_model: "lumbung/padi".into(),
        created: 1_700_000_000,
        start_by: 1_700_000_060,
        claim_by: 1_700_003_600,
    }
}

/// Counts and hashes a token's frame.
#[divan::bench]
fn meter_token(bencher: Bencher<'_, '_>) {
    let ticket = ticket();
    let mut meter = Meter::start(0, Unread::send(&std::sync::Arc::default(), Default::default()));
    let (ids, payload) = (Bytes::from_static(&[0, 0, 1, 2]), Bytes::from_static(CHUNK));
    let mut tokens = 0;
    bencher.bench_local(|| {
        tokens += 1;
        let frame = Frame { kind: FrameKind::Delta, choice: 0, tokens, ids: ids.clone(), payload: payload.clone() };
        meter.count(black_box(&frame), &ticket)
    });
}

/// Puts its bytes where the client's connection takes them; nobody does, and the buffer is begun anew before it is full.
#[divan::bench]
fn buffer_token(bencher: Bencher<'_, '_>) {
    let chunk = Bytes::from_static(CHUNK);
    let (mut inlet, mut outlet) = buffer();
    let mut held = 0;
    bencher.bench_local(|| {
        held += 1;
        if held == 1000 {
            (inlet, outlet) = buffer();
            held = 0;
        }
        let pushed = inlet.push(black_box(chunk.clone()));
        black_box(&outlet);
        pushed
    });
}
