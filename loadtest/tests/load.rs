//! The load against a server that answers as it should, and against one that does not.

use std::time::Duration;

use lumbung_loadtest::ask::{Mix, Scenario, Wording};
use lumbung_loadtest::client::Target;
use lumbung_loadtest::load::{self, Arrivals, Done, Plan};
use lumbung_loadtest::network::STORY;
use lumbung_loadtest::upstream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

async fn run(base_url: &str, scenario: Scenario, arrivals: Arrivals) -> Done {
    let wording = Wording { stream_cue: STORY.into(), ..Wording::of("m") };
    load::run(Plan {
        target: Target::new(base_url, "key").expect("a URL"),
        mix: Mix::of(scenario, &wording),
        arrivals,
        connections: 4,
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

    let Done { report: closed, tally } = run(&base_url, Scenario::Completion, Arrivals::Closed).await;
    assert!(closed.is_clean() && closed.requests > 20, "{closed}");
    assert!(closed.total_ms.p50 > 0.0 && closed.total_ms.p50 <= closed.total_ms.max, "{closed}");
    assert!(closed.cpu.is_some_and(|cpu| cpu.us_per_request > 0.0 && cpu.us_per_chunk.is_none()), "{closed}");
    assert_eq!(tally.used.completion_tokens, 5 * tally.whole);
    assert_eq!(tally.used.prompt_tokens, 12 * tally.whole);

    let open = run(&base_url, Scenario::Completion, Arrivals::Rate(50.0)).await.report;
    assert!(open.is_clean() && (40..=60).contains(&open.whole), "{open}");
    let storm = run(&base_url, Scenario::ConnectStorm, Arrivals::Rate(50.0)).await.report;
    assert!(storm.is_clean() && storm.whole > 20, "{storm}");

    let Done { report: streamed, tally } = run(&base_url, Scenario::Stream, Arrivals::Closed).await;
    let tokens = u64::from(upstream::ANSWER_TOKENS);
    assert!(streamed.is_clean() && streamed.chunks > tokens / 10, "{streamed}");
    assert_eq!(tally.used.completion_tokens, tokens * tally.whole);
    let between = streamed.between_tokens_ms.as_ref().expect("tokens follow each other");
    assert!(between.p50 > 5.0 && between.p50 <= between.max, "{streamed}");
}

#[tokio::test]
async fn readers_that_leave_are_told_apart_from_answers_that_break_off() {
    let (listener, base_url) = listen().await;
    tokio::spawn(upstream::serve(listener));
    let Done { report, tally } = run(&base_url, Scenario::Leavers, Arrivals::Rate(20.0)).await;
    assert!(report.is_clean(), "{report}");
    assert!(!tally.left.is_empty() && tally.whole > 0, "{report}");
    assert!(tally.left.iter().all(|(id, tokens)| id.starts_with("chatcmpl-") && *tokens < 40), "{:?}", tally.left);
}

#[tokio::test]
async fn what_waits_for_a_connection_counts_from_when_it_was_due() {
    let (listener, base_url) = listen().await;
    tokio::spawn(upstream::serve(listener));
    // Four streams of four seconds occupy all connections: the fifth waits as long, and says so.
    let report = run(&base_url, Scenario::Stream, Arrivals::Rate(8.0)).await.report;
    assert!(report.is_clean() && report.whole >= 8, "{report}");
    assert!(report.first_byte_ms.max > 2000.0, "{report}");
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
    let report = run(&base_url, Scenario::Stream, Arrivals::Closed).await.report;
    assert_eq!(report.failures.keys().collect::<Vec<_>>(), ["broken_cut"], "{report}");
}
