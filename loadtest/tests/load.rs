//! The load against a server that answers as it should, and against one that does not.

use std::time::Duration;

use lumbung_loadtest::client::Target;
use lumbung_loadtest::load::{self, Plan};
use lumbung_loadtest::report::Report;
use lumbung_loadtest::upstream;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn run(base_url: &str, stream: bool, rate: Option<f64>) -> Report {
    let request = json!({ "model": "m", "messages": [], "stream": stream });
    load::run(Plan {
        target: Target::new(base_url, "key", &request).expect("a URL"),
        connections: 4,
        rate,
        warm_up: Duration::from_millis(100),
        length: Duration::from_millis(900),
        pid: Some(std::process::id()),
    })
    .await
    .expect("a report")
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base_url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    (listener, base_url)
}

#[tokio::test]
async fn whole_answers_are_counted_and_timed() {
    let (listener, base_url) = listen().await;
    tokio::spawn(upstream::serve(listener));

    let closed = run(&base_url, false, None).await;
    assert!(closed.is_clean() && closed.requests > 100, "{closed}");
    assert!(closed.latency_ms.p50 > 0.0 && closed.latency_ms.p50 <= closed.latency_ms.max, "{closed}");
    assert!(closed.cpu.is_some_and(|cpu| cpu.us_per_request > 0.0 && cpu.us_per_chunk.is_none()), "{closed}");

    let open = run(&base_url, false, Some(50.0)).await;
    assert!(open.is_clean() && (40..=60).contains(&open.requests), "{open}");

    let streamed = run(&base_url, true, None).await;
    let tokens = u64::from(upstream::ANSWER_TOKENS);
    assert!(streamed.is_clean() && streamed.chunks > tokens / 10, "{streamed}");
    assert!(streamed.first_piece_ms.max < streamed.latency_ms.p50 || streamed.requests == 0, "{streamed}");
}

#[tokio::test]
async fn a_stream_that_is_cut_is_a_failure() {
    let (listener, base_url) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while connection.read(&mut request).await.is_ok_and(|length| length > 0) {
                    let body = "data: {\"id\":\"a\",\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    connection.write_all((head + body).as_bytes()).await.ok();
                }
            });
        }
    });
    let report = run(&base_url, true, None).await;
    assert_eq!(report.failures.keys().collect::<Vec<_>>(), ["broken_cut"], "{report}");
}
