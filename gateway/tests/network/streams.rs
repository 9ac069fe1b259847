//! The tunnel: paused readers cost nobody else anything, and the provider listens on nothing.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{Client, read};
use crate::support::provider::ProviderSetup;
use crate::support::{Books, MODEL, Setup};

const TOKENS: u32 = 500;
const STREAMS: usize = 100;

async fn healthy(client: &Client) -> Duration {
    let began = Instant::now();
    let streams = (0..STREAMS).map(|_| async {
        let streamed = client.stream("healthy", json!({})).await;
        assert!(streamed.done && streamed.error.is_none(), "{:?}", streamed.error);
        assert_eq!(streamed.usage.map(|u| u.completion_tokens), Some(TOKENS));
    });
    join_all(streams).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_readers_stall_nobody() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--lease-secs", "15").start().await;
    let script = json!([
        // More than a megabyte each, which is more than sockets and windows hold: the readers really are in the way.
        {"match": "paused", "tokens": 1000, "prompt_tokens": 1, "word": "x".repeat(1000), "delay_ms_per_token": 2},
        {"match": "*", "tokens": TOKENS, "prompt_tokens": 1, "delay_ms_per_token": 4}
    ]);
    let provider = network.provider(ProviderSetup::scripted(script)).await;
    assert_eq!(provider.process.listening(), Vec::<String>::new(), "a provider listens on no port");
    let client = network.client("100").await;
    let alone = healthy(&client).await;

    let paused = join_all((0..STREAMS).map(|_| client.open("paused", json!({"max_tokens": 1000})))).await;
    let beside = healthy(&client).await;
    assert!(beside < alone.mul_f64(1.5), "alone {alone:?}, beside paused readers {beside:?}");

    let resident = network.gateway.resident();
    let bound = 64 * (1 << 20) + STREAMS as u64 * (5 << 20);
    assert!(resident < bound, "{resident} bytes resident, the bound is {bound}");
    assert_eq!(provider.status()["connected"].as_array().map(Vec::len), Some(1), "the tunnel stands");
    assert!(!network.gateway.log().contains("tunnel ended"));
    // Whoever reads on gets everything.
    let mut paused = paused.into_iter();
    for _ in 0..3 {
        let resumed = read(paused.next().expect("a stream")).await;
        assert_eq!((resumed.done, resumed.error, resumed.usage.map(|u| u.completion_tokens)), (true, None, Some(1000)));
    }
    drop(paused);
    network.finish().await;
}

/// Some clients lose events that are split between reads, and some cannot unpack: each chunk of HTTP is whole events as they are.
#[tokio::test]
async fn events_come_whole_and_not_compressed() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 60, "delay_ms_per_token": 2}])).await;
    let client = network.client("1").await;
    for (path, body) in [
        ("/v1/chat/completions", Client::body("x", json!({"stream": true, "stream_options": {"include_usage": true}}))),
        ("/v1/responses", json!({"model": MODEL, "input": "x", "stream": true})),
    ] {
        let address = network.base.strip_prefix("http://").expect("an address");
        let mut connection = TcpStream::connect(address).await.expect("a connection");
        let (body, key) = (body.to_string(), &client.key);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\naccept-encoding: gzip, deflate, br, zstd\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).await.expect("asked");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        let (head, mut rest) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("content-type: text/event-stream") && !head.contains("content-encoding"), "{head}");
        let mut chunks = 0;
        while let Some((length, after)) = rest.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16).expect("a length");
            let (chunk, after) = after.split_at(length);
            assert!(chunk.is_empty() || chunk.starts_with("data: ") || chunk.starts_with("event: "), "{chunk:?}");
            assert!(chunk.is_empty() || chunk.ends_with("\n\n"), "an event is split: {chunk:?}");
            chunks += 1;
            rest = after.strip_prefix("\r\n").expect("the chunk's end");
        }
        assert!(chunks > 5, "{chunks} chunks");
    }
    network.finish().await;
}

#[tokio::test]
async fn clients_that_leave_in_a_burst_do_not_end_the_tunnel() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--lease-secs", "15").start().await;
    let script = json!([{"match": "*", "tokens": 5000, "prompt_tokens": 1, "delay_ms_per_token": 20}]);
    let provider = network.provider(ProviderSetup::scripted(script)).await;
    let client = network.client("100").await;
    for _ in 0..3 {
        drop(join_all((0..300).map(|_| client.open("x", json!({"max_tokens": 100})))).await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(client.ask("x", json!({"max_tokens": 3})).await.usage.map(|u| u.completion_tokens), Some(3));
    assert!(!network.gateway.log().contains("tunnel ended"));
    provider.receipts_acknowledged().await;
    network.finish().await;
}
