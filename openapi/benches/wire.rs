//! What both ends of the wire do for each job and each token. `make bench`.

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::BytesCount;
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::frame::{Frame, FrameKind, FrameReader, encode};
use lumbung_openapi::jws::{HmacKey, SigningKey};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::receipt::{Receipt, ReceiptBatch};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};

fn main() {
    divan::main();
}

/// A chat with a prompt of so many bytes.
fn body(prompt_bytes: usize) -> Vec<u8> {
    let prompt: String = "padi ".chars().cycle().take(prompt_bytes).collect();
    let body = serde_json::json!({
        "model": "lumbung/padi", "messages": [{ "role": "system", "content": "You are kind." }, { "role": "user", "content": prompt }],
        "stream": true, "stream_options": { "include_usage": true }, "temperature": 0.7, "max_tokens": 256,
    });
    body.to_string().into_bytes()
}

fn ticket() -> Ticket {
    Ticket {
        replica: "replica_01K00000000000000000000000".into(),
        allowance: "allow_01K00000000000000000000000".into(),
        job: "job_01K00000000000000000000000".into(),
        attempt: 1,
        first_token: 0,
        provider: "kZWz0QpYz8Zk4mX0nL0yOq6o2rJ3sT4uV5wX6yZ7aB8".into(),
        model: "lumbung/padi".into(),
        digests: vec![],
        price: TokenPrice::default(),
        fee_bps: 1000,
        max_prompt_tokens: 1300,
        max_completion_tokens: 1024,
        whole: false,
        ceiling: lumbung_openapi::money::NanoUsd::ZERO,
        request_sha256: Hash::of(b"request"),
        public_id: "chatcmpl-01K00000000000000000000000".into(),
        public_model: "lumbung/padi".into(),
        created: 1_700_000_000,
        start_by: 1_700_000_060,
        claim_by: 1_700_003_600,
    }
}

/// The gateway reads a request's body.
#[divan::bench(args = [1 << 10, 16 << 10, 1 << 20])]
fn read_request(bencher: Bencher<'_, '_>, prompt_bytes: usize) {
    let body = body(prompt_bytes);
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        let request = ChatRequest::parse(divan::black_box(&body)).expect("a request");
        request.messages.len()
    });
}

/// The gateway and the provider hash it.
#[divan::bench(args = [1 << 10, 1 << 20])]
fn hash_request(bencher: Bencher<'_, '_>, prompt_bytes: usize) {
    let body = body(prompt_bytes);
    bencher.counter(BytesCount::new(body.len())).bench(|| Hash::of(divan::black_box(&body)));
}

/// The gateway signs a ticket.
#[divan::bench]
fn sign_ticket(bencher: Bencher<'_, '_>) {
    let (key, ticket) = (HmacKey::from_secret(&[7; 32]), ticket());
    bencher.bench(|| key.sign(TICKET_TYP, "key_1", divan::black_box(&ticket)));
}

/// It comes back with a receipt.
#[divan::bench]
fn verify_ticket(bencher: Bencher<'_, '_>) {
    let key = HmacKey::from_secret(&[7; 32]);
    let text = key.sign(TICKET_TYP, "key_1", &ticket());
    bencher.bench(|| key.verify::<Ticket>(TICKET_TYP, divan::black_box(&text)).expect("a ticket"));
}

const CHUNK: &[u8] = br#"data: {"id":"chatcmpl-01K00000000000000000000000","object":"chat.completion.chunk","created":1700000000,"model":"lumbung/padi","choices":[{"index":0,"delta":{"content":" padi"},"logprobs":null,"finish_reason":null}],"usage":null}

"#;

/// The provider frames a token.
#[divan::bench]
fn frame_token(bencher: Bencher<'_, '_>) {
    let mut wire = BytesMut::with_capacity(1 << 12);
    bencher.bench_local(|| {
        wire.clear();
        encode(&mut wire, FrameKind::Delta, 0, 7, &[4711], divan::black_box(CHUNK));
        wire.len()
    });
}

/// The gateway cuts frames out of what HTTP/2 delivers, so many at once.
#[divan::bench(args = [1, 8])]
fn cut_frames(bencher: Bencher<'_, '_>, frames: usize) {
    let mut wire = BytesMut::new();
    (0..frames).for_each(|_| encode(&mut wire, FrameKind::Delta, 0, 7, &[4711], CHUNK));
    let wire: Bytes = wire.freeze();
    let mut reader = FrameReader::default();
    bencher.bench_local(|| {
        let mut bytes = 0;
        let each = |frame: Frame| bytes += frame.payload.len();
        reader.push(divan::black_box(wire.clone()), each).expect("frames");
        bytes
    });
}

fn receipts(count: usize) -> Vec<Receipt> {
    let ticket = HmacKey::from_secret(&[7; 32]).sign(TICKET_TYP, "key_1", &ticket());
    let claims = r#"{"weights_digest":"","prompt_tokens":12,"cached_tokens":0,"completion_tokens":200,"delivered_sha256":"LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"}"#;
    vec![Receipt { ticket, claims: claims.into(), voucher: None }; count]
}

/// The provider signs a second's receipts.
#[divan::bench(args = [1, 100])]
fn sign_receipts(bencher: Bencher<'_, '_>, count: usize) {
    let key = SigningKey::from_seed(&[7; 32]);
    bencher.with_inputs(|| receipts(count)).bench_values(|receipts| ReceiptBatch::sign(&key, receipts, 1_700_000_000));
}

/// The gateway verifies them.
#[divan::bench(args = [1, 100])]
fn verify_receipts(bencher: Bencher<'_, '_>, count: usize) {
    let batch = ReceiptBatch::sign(&SigningKey::from_seed(&[7; 32]), receipts(count), 1_700_000_000);
    bencher.bench(|| divan::black_box(&batch).verify().expect("a signature"));
}
