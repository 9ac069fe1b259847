//! Receipts: kept, offered, offered again, across deaths.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lumbung_openapi::frame::{self, FrameKind};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::ReceiptVerdict;

use super::support::eventually;
use super::support::gateway::TestGateway;
use super::support::provider::scripted;
use super::{SCRIPT, joined, request, streamed};

#[tokio::test(flavor = "multi_thread")]
async fn vouchers_are_taken_while_the_answer_streams_and_the_last_is_kept() {
    let (gateway, provider, mut tunnel) = joined().await;
    *gateway.state.verdict.lock().unwrap() = Some(ReceiptVerdict::Pending);
    let mut stream = tunnel.ask(&streamed("slowly")).await.begun();
    for number in 0..1000 {
        let mut voucher = BytesMut::new();
        let text = format!("voucher-{number}-{}", "x".repeat(500));
        frame::encode(&mut voucher, FrameKind::Voucher, 0, 0, &[], text.as_bytes());
        let sent = tokio::time::timeout(Duration::from_secs(5), stream.request.send(voucher.freeze())).await;
        sent.expect("half a megabyte of vouchers does not fill the stream's window").unwrap();
    }
    // A second's worth of tokens later the last one has long arrived.
    let mut tokens = stream.next().await.unwrap().tokens;
    let enough = tokens + 400;
    while tokens < enough {
        tokens = stream.next().await.unwrap().tokens;
    }
    drop(stream);
    let offered = gateway.receipts_of(1).await.remove(0);
    assert!(offered.voucher.unwrap().starts_with("voucher-999-"), "the last one");
    let journal = std::fs::read_to_string(provider.data_dir().join("receipts.jsonl")).unwrap();
    assert!(journal.contains("\"voucher\":\"voucher-999-"), "and a restart would not lose it");
}

fn voucher(text: &str) -> Bytes {
    let mut frame = BytesMut::new();
    frame::encode(&mut frame, FrameKind::Voucher, 0, 3, &[], text.as_bytes());
    frame.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_voucher_on_the_whole_answer_comes_after_it_and_is_waited_for() {
    let (gateway, _provider, mut tunnel) = joined().await;
    for ask in [streamed("hello"), request("hello", "")] {
        let before = gateway.receipts().len();
        let mut stream = tunnel.ask(&ask).await.begun();
        stream.all().await;
        stream.request.send(voucher("whole")).await.unwrap();
        let ended_at = Instant::now();
        drop(stream);
        let offered = gateway.receipts_of(before + 1).await.pop().unwrap();
        assert_eq!(offered.voucher.as_deref(), Some("whole"));
        assert!(ended_at.elapsed() < Duration::from_millis(1900), "not longer than the gateway needs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_never_vouches_or_never_ends_the_request_is_no_hindrance() {
    let (gateway, provider, mut tunnel) = joined().await;
    // It ends the request at once.
    let ask = streamed("hello");
    let mut stream = tunnel.ask(&ask).await.begun();
    stream.request = tokio::sync::mpsc::channel(1).0;
    assert_eq!(stream.all().await.last().unwrap().kind, FrameKind::Receipt);
    assert_eq!(gateway.receipts_of(1).await[0].voucher, None);
    // It leaves the request open: the slot is free at once, and the receipt comes all the same.
    let mut open = tunnel.ask(&ask).await.begun();
    open.all().await;
    provider.status_when("no job runs", |status| status["models"]["test/model"]["running"] == 0).await;
    assert_eq!(gateway.receipts_of(2).await[1].voucher, None);
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_offered_until_they_are_acknowledged_even_after_kill_9() {
    let gateway = TestGateway::start().await;
    let start = || scripted(&gateway.url(), SCRIPT);
    *gateway.state.receipts_status.lock().unwrap() = Some(http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut provider = start().start();
    let mut tunnel = gateway.tunnel().await;
    let first = tunnel.ask(&streamed("hello")).await.begun().all().await;
    provider.status_when("kept", |status| status["receipts_unacknowledged"] == 1).await;
    let second = tunnel.ask(&request("hello", "")).await.begun().all().await;
    let journal = provider.data_dir().join("receipts.jsonl");
    let is_written = async || (std::fs::read_to_string(&journal).ok()?.lines().count() == 2).then_some(());
    eventually("both are written, if not synced", is_written).await;
    provider.kill();
    assert!(gateway.receipts().is_empty());

    *gateway.state.receipts_status.lock().unwrap() = None;
    *gateway.state.verdict.lock().unwrap() = Some(ReceiptVerdict::Pending);
    let provider = start().in_the_place_of(&provider).start();
    let offered = gateway.receipts_of(4).await;
    let mut expected = [&first, &second].map(|frames| frames.last().unwrap().payload.to_vec());
    let mut claims: Vec<Vec<u8>> = offered.iter().map(|receipt| receipt.claims.clone().into_bytes()).collect();
    claims.sort();
    claims.dedup();
    expected.sort();
    assert_eq!(claims, expected, "both, and again while they are pending");
    provider.status_when("still kept", |status| status["receipts_unacknowledged"] == 2).await;

    *gateway.state.verdict.lock().unwrap() = Some(ReceiptVerdict::Refused { reason: "too late".into() });
    provider.status_when("a refusal settles it as well", |status| status["receipts_unacknowledged"] == 0).await;
    let count = gateway.receipts().len();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(gateway.receipts().len(), count, "nothing is offered any more");
    assert!(provider.log().contains("too late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_receipts_than_go_into_a_batch_do_not_wait_for_each_others_second() {
    let gateway = TestGateway::start().await;
    let mut before = scripted(&gateway.url(), SCRIPT).start();
    gateway.tunnel().await;
    before.kill();
    let line = |number: u32| {
        let json = format!(r#"{{"receipt":{{"number":{number},"ticket":"t{number}","claims":"c{number}"}}}}"#);
        let Hash(hash) = Hash::of(json.as_bytes());
        let checksum: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{checksum} {json}\n")
    };
    let journal: String = (1..=8500).map(line).collect();
    std::fs::write(before.data_dir().join("receipts.jsonl"), journal).unwrap();

    let provider = scripted(&gateway.url(), SCRIPT).in_the_place_of(&before).start();
    gateway.receipts_of(1).await;
    let begun = Instant::now();
    gateway.receipts_of(8500).await;
    assert!(begun.elapsed() < Duration::from_secs(7), "nine batches, a second after each, would take eight");
    provider.status_when("all are taken", |status| status["receipts_unacknowledged"] == 0).await;
}
