//! Telling a running provider from the terminal: status, pause, resume, drain, over its socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lumbung_openapi::earnings::{EarningsStatement, EarningsTotals};
use lumbung_openapi::frame::FrameKind;
use serde_json::{Value, json};

use super::support::provider::{PROGRAM, Provider, scripted, text, told};
use super::support::tunnel::usd;
use super::{SCRIPT, joined, of_kind, streamed};

fn connect(provider: &Provider) -> UnixStream {
    let stream = UnixStream::connect(provider.data_dir().join("control.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_it_takes_nothing_new_finishes_what_it_has_and_stays_connected() {
    let (gateway, mut provider, mut tunnel) = joined().await;
    let mut running = tunnel.ask(&streamed("briefly")).await.begun();
    running.next().await.unwrap();
    let paused = told(&provider, &["pause"]).await;
    assert!(paused.status.success() && text(&paused).contains("1 job still runs"), "{}", text(&paused));
    assert!(tunnel.offer().await.draining);
    assert_eq!(tunnel.ask(&streamed("hello")).await.refused(), (503, "provider_draining".into()));
    assert_eq!(of_kind(&running.all().await, FrameKind::End).len(), 1, "what ran is complete");
    let status = text(&told(&provider, &["status"]).await);
    assert!(status.contains("paused by its owner; connected to replica-1"), "{status}");
    assert!(status.contains("$") && status.contains("an hour with every slot taken"), "{status}");

    // Whoever paused it is not surprised after a restart, however it ended.
    provider.kill();
    let provider = scripted(&gateway.url(), SCRIPT).in_the_place_of(&provider).start();
    let mut tunnel = gateway.tunnel().await;
    assert!(tunnel.offer().await.draining);
    assert!(provider.log().contains("paused, as before"));
    let resumed = told(&provider, &["resume"]).await;
    assert!(text(&resumed).contains("takes jobs"), "{}", text(&resumed));
    assert!(!tunnel.offer().await.draining);
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    assert!(!provider.data_dir().join("paused").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_it_finishes_what_runs_and_ends_with_its_receipts_offered() {
    let (gateway, mut provider, mut tunnel) = joined().await;
    let mut running = tunnel.ask(&streamed("briefly")).await.begun();
    running.next().await.unwrap();
    let begun = told(&provider, &["drain", "--no-wait"]).await;
    assert!(begun.status.success() && text(&begun).contains("1 job still runs"), "{}", text(&begun));
    assert_eq!(tunnel.ask(&streamed("hello")).await.refused(), (503, "provider_draining".into()));
    let (waited, frames) = tokio::join!(told(&provider, &["drain"]), running.all());
    assert!(text(&waited).contains("it has ended"), "{}", text(&waited));
    assert_eq!(of_kind(&frames, FrameKind::End).len(), 1);
    assert!(provider.ended().await.success());
    let mut receipts = gateway.receipts();
    receipts.dedup();
    assert_eq!(receipts.len(), 1);
    assert!(!provider.data_dir().join("control.sock").exists());
    let nobody = told(&provider, &["pause"]).await;
    assert!(!nobody.status.success() && text(&nobody).contains("no provider runs"), "{}", text(&nobody));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_socket_is_its_owners_and_bears_whatever_is_said() {
    let (_gateway, provider, mut tunnel) = joined().await;
    let socket = provider.data_dir().join("control.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let mut stream = BufReader::new(connect(&provider));
    let mut ask = |line: &str| -> Value {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    for wrong in ["", "status", "{\"do\":\"dance\"}", "{\"do\":\"status\",\"loud\":true}", "[]"] {
        assert!(ask(wrong)["error"].is_string(), "{wrong}");
    }
    let status = ask("{\"do\":\"status\"}");
    assert_eq!((&status["status"]["pid"], &status["status"]["holds"]), (&json!(provider.pid()), &json!([])));
    assert!(status["status"].get("earnings").is_none(), "the gateway is asked only where that is wanted");
    // This gateway keeps no books.
    let unknown = &ask("{\"do\":\"status\",\"earnings\":true}")["status"]["earnings"]["unknown"];
    assert!(unknown.as_str().unwrap().contains("not now"), "{unknown}");

    let mut endless = connect(&provider);
    endless.write_all(&[b'x'; 5000]).unwrap();
    let mut rest = String::new();
    let _ = BufReader::new(endless).read_line(&mut rest);
    assert!(rest.contains("error"), "a request that is too long: {rest}");
    // Nobody who says nothing keeps others from being heard.
    let silent: Vec<UnixStream> = (0..8).map(|_| connect(&provider)).collect();
    assert!(told(&provider, &["status", "--local"]).await.status.success());
    drop(silent);
    tunnel.ask(&streamed("hello")).await.begun().all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_earned_is_asked_seldom_and_a_statement_without_end_is_left() {
    let (gateway, provider, _tunnel) = joined().await;
    let statement = EarningsStatement {
        object: "earnings_statement".into(),
        provider: "x".into(),
        as_of: 1_795_564_800,
        holdback_secs: 60,
        totals: EarningsTotals { earned: usd("1.5"), payable: usd("1.5"), ..EarningsTotals::default() },
        payout_details: None,
        payouts: vec![],
        data: vec![],
        has_more: true,
        next_cursor: None,
    };
    let asked = || gateway.state.statements.load(Ordering::SeqCst);
    for (cursor, pages) in [(None, 1), (Some("same".to_owned()), 2)] {
        let before = asked();
        *gateway.state.earnings.lock().unwrap() = Some(EarningsStatement { next_cursor: cursor, ..statement.clone() });
        let url = gateway.url();
        let data_dir = provider.data_dir();
        let earnings = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(PROGRAM);
            command.arg("--data-dir").arg(data_dir).args(["earnings", "--gateway", &url]).output().unwrap()
        });
        let earnings = earnings.await.unwrap();
        assert!(earnings.status.success() && text(&earnings).contains("$1.5"), "{}", text(&earnings));
        assert_eq!(asked() - before, pages);
    }
    let before = asked();
    for _ in 0..3 {
        let status = text(&told(&provider, &["status"]).await);
        assert!(status.contains("$1.5 by the gateway's books: $1.5 payable"), "{status}");
    }
    assert_eq!(asked() - before, 1, "at most every half minute");
}

/// `script` (of Debian's bsdutils, on every machine) is the terminal.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_status_is_live() {
    let (_gateway, mut provider, mut tunnel) = joined().await;
    let typescript = tempfile::NamedTempFile::new().unwrap();
    let shown = || fs::read_to_string(typescript.path()).unwrap_or_default();
    let page = format!("{PROGRAM} --data-dir {} status --local", provider.data_dir().display());
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--flush", "--command", &page]).arg(typescript.path());
    let mut terminal = terminal.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    super::support::eventually("the page is shown", async || shown().contains("0 begun").then_some(())).await;
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    super::support::eventually("the page follows", async || shown().contains("1 begun, 1 complete").then_some(()))
        .await;
    provider.kill();
    let ended = async || terminal.try_wait().unwrap();
    super::support::eventually("the page ends with the provider", ended).await;
    assert!(shown().contains("the provider"), "{}", shown());
}
