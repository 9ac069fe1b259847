//! A provider asked directly: one as it is shipped, one that answers as it should in one piece alone, and what is not in order.

use std::path::Path;
use std::time::{Duration, Instant};

use lumbung_loadtest::ask::Reader;
use lumbung_loadtest::client::{Connection, Target};
use lumbung_loadtest::direct::{self, Direct, Tunnel};
use lumbung_loadtest::door::Door;
use lumbung_loadtest::network::Setup;
use lumbung_loadtest::stub::Trade;
use lumbung_loadtest::tunnels::Tunnels;
use lumbung_openapi::provider::RECEIPTS_PATH;
use serde_json::json;

const WARM_UP: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_millis(400);

/// A provider without a process has joined; it is there as long as the third.
async fn join(trade: Trade) -> (Door, Tunnel, Tunnels) {
    let mut door = Door::open().await.expect("a door");
    let mut tunnels = Tunnels::new(door.port(), trade).expect("tunnels");
    tunnels.open(1).await.expect("it joins");
    let tunnel = door.tunnel(Duration::from_secs(10)).await.expect("a tunnel");
    (door, tunnel, tunnels)
}

#[tokio::test]
async fn a_provider_as_it_is_shipped_answers_in_both_ways() {
    let bin = Path::new(env!("CARGO_BIN_EXE_lumbung-loadtest")).parent().expect("a folder");
    let setup = Setup::new(Some(bin)).expect("a setup");
    for ask in direct::asks() {
        let measured = direct::measure(&setup, &ask, WARM_UP, LENGTH).await.expect("whole answers");
        let Direct { answers, first_token_ms, total_ms } = measured;
        assert!(answers > 0 && first_token_ms.p50 > 0.0 && total_ms.p50 <= total_ms.max, "{total_ms}");
        assert!(first_token_ms.p50 <= total_ms.p50, "{first_token_ms}, {total_ms}");
    }
}

#[tokio::test]
async fn every_answer_is_counted_and_its_receipt_taken() {
    let (door, tunnel, _tunnels) = join(Trade::Answers).await;
    let [in_one_piece, streamed] = direct::asks();
    let direct = direct::time(&tunnel, &in_one_piece, WARM_UP, LENGTH).await.expect("whole answers");
    assert_eq!(direct.first_token_ms, direct.total_ms, "an answer in one piece comes at once");
    let begun = Instant::now();
    while door.receipts().expect("they verify") < direct.answers {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} answers", direct.answers);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // This one answers everything in one piece.
    let error = direct::time(&tunnel, &streamed, WARM_UP, LENGTH).await.expect_err("not what was asked for");
    assert!(format!("{error:#}").contains("an answer is not whole"), "{error:#}");
}

#[tokio::test]
async fn a_provider_of_something_else_is_not_timed() {
    let (_door, tunnel, _tunnels) = join(Trade::Idle).await;
    let [ask, _] = direct::asks();
    let error = direct::time(&tunnel, &ask, WARM_UP, LENGTH).await.expect_err("another model");
    assert!(format!("{error:#}").contains("does not offer"), "{error:#}");
}

#[tokio::test]
async fn receipts_that_nobody_signed_are_an_error_and_so_is_a_provider_that_does_not_come() {
    let mut door = Door::open().await.expect("a door");
    assert_eq!(door.receipts().expect("nothing is wrong"), 0);
    assert!(door.tunnel(Duration::from_millis(20)).await.is_err());
    let target = Target::new(&format!("http://127.0.0.1:{}", door.port()), "none").expect("a URL");
    let mut connection = Connection::open(&target, Reader::Steady).await.expect("a connection");
    let batch = json!({ "jws": "e30.e30.e30", "receipts": [] });
    assert!(connection.post(&target, RECEIPTS_PATH, &batch).await.is_err());
    let error = door.receipts().expect_err("a batch that nobody signed");
    assert!(error.to_string().contains("receipts are not in order"), "{error}");
}
