//! Starting, stopping, losing the gateway; and what the other commands say.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use http::StatusCode;
use lumbung_openapi::frame::FrameKind;
use serde_json::Value;

use super::support::gateway::TestGateway;
use super::support::provider::{PROGRAM, scripted};
use super::{SCRIPT, joined, of_kind, request, streamed};

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_finishes_what_runs_and_takes_nothing_new() {
    let (gateway, mut provider, mut tunnel) = joined().await;
    let mut running = tunnel.ask(&streamed("briefly")).await.begun();
    running.next().await.unwrap();
    provider.signal("TERM");
    provider.status_when("draining", |status| status["draining"] == true).await;
    assert!(tunnel.offer().await.draining);
    assert_eq!(tunnel.ask(&streamed("hello")).await.refused(), (503, "provider_draining".into()));
    let frames = running.all().await;
    assert_eq!(of_kind(&frames, FrameKind::End).len(), 1, "what ran is complete");
    assert!(provider.ended().await.success());
    // An offer that the end of the drain cut off is made once more.
    let mut receipts = gateway.receipts();
    receipts.dedup();
    assert_eq!(receipts.len(), 1, "and its receipt was offered before the end");
    let status = provider.status().unwrap();
    assert_eq!((&status["receipts_unacknowledged"], &status["connected"]), (&0.into(), &Value::Array(vec![])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_in_time_is_cut_off_with_its_receipt() {
    let gateway = TestGateway::start().await;
    let mut provider = scripted(&gateway.url(), SCRIPT).with("--drain-secs", "1").start();
    let mut tunnel = gateway.tunnel().await;
    let mut running = tunnel.ask(&streamed("slowly")).await.begun();
    running.next().await.unwrap();
    provider.signal("INT");
    tokio::spawn(async move { while running.next().await.is_some() {} });
    assert!(provider.ended().await.success());
    let receipts = gateway.receipts();
    assert_eq!(receipts.len(), 1);
    assert!(receipts[0].parse_claims().unwrap().completion_tokens > 50, "a second's worth at 200 tokens per second");
    assert_eq!(provider.status().unwrap()["jobs"]["cancelled"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn told_twice_it_stops_at_once() {
    let (_gateway, mut provider, mut tunnel) = joined().await;
    let mut running = tunnel.ask(&streamed("slowly")).await.begun();
    running.next().await.unwrap();
    provider.signal("TERM");
    provider.status_when("draining", |status| status["draining"] == true).await;
    let begun = Instant::now();
    provider.signal("TERM");
    assert_eq!(provider.ended().await.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_goes_away_is_dialled_again() {
    let (gateway, provider, mut tunnel) = joined().await;
    let running = tunnel.ask(&streamed("slowly")).await.begun();
    gateway.break_tunnels();
    provider.status_when("the job is over", |status| status["jobs"]["cancelled"] == 1).await;
    let mut tunnel = gateway.tunnel().await;
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    drop(running);

    let address = gateway.stop().await;
    provider.status_when("not connected", |status| status["connected"] == Value::Array(vec![])).await;
    let gateway = TestGateway::start_at(&address.to_string()).await;
    let mut tunnel = gateway.tunnel().await;
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    let is_settled = |status: &Value| status["jobs"]["finished"] == 2 && status["receipts_unacknowledged"] == 0;
    provider.status_when("every receipt is acknowledged", is_settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_takes_nothing_with_it_that_it_had_sent() {
    let (_gateway, mut provider, mut tunnel) = joined().await;
    let mut stream = tunnel.ask(&streamed("die")).await.begun();
    let frames = stream.all().await;
    assert_eq!(frames.last().map(|frame| (frame.kind, frame.tokens)), Some((FrameKind::Delta, 3)));
    assert!(!provider.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_tunnels_are_asked_for_again_in_due_time() {
    let gateway = TestGateway::start().await;
    *gateway.state.tunnel_status.lock().unwrap() = Some(StatusCode::UNAUTHORIZED);
    let provider = scripted(&gateway.url(), SCRIPT).start();
    provider.status_when("it runs", |status| status["provider"].is_string()).await;
    *gateway.state.tunnel_status.lock().unwrap() = None;
    gateway.tunnel().await;

    let banned = TestGateway::start().await;
    *banned.state.tunnel_status.lock().unwrap() = Some(StatusCode::FORBIDDEN);
    let provider = scripted(&banned.url(), SCRIPT).start();
    provider.status_when("it runs", |status| status["provider"].is_string()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let log = provider.log();
    let told = log.matches("refuses this provider: not now").count();
    assert_eq!(told, 2, "once for each of its tunnels, plainly, and not every second: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_on_no_port() {
    let (_gateway, provider, mut tunnel) = joined().await;
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    let sockets: HashSet<String> = fs::read_dir(format!("/proc/{}/fd", provider.pid()))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let (mut connected, mut listening) = (0, 0);
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{}/net/{table}", provider.pid())).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN for TCP; an unconnected UDP socket (07) would take packets from anyone.
            match (sockets.contains(fields[9]), fields[3]) {
                (true, "0A" | "07") => listening += 1,
                (true, _) => connected += 1,
                (false, _) => {}
            }
        }
    }
    assert!(connected > 0, "the tunnel is seen, so the tables were read");
    assert_eq!(listening, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_share_a_data_directory() {
    let (gateway, provider, _tunnel) = joined().await;
    let mut second = scripted(&gateway.url(), SCRIPT).in_the_place_of(&provider).start();
    assert_eq!(second.ended().await.code(), Some(1));
    assert!(second.log().contains("another lumbung-provider uses"));
}

fn run(data_dir: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--data-dir").arg(data_dir).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_status_say_what_is_so() {
    let (_gateway, mut provider, mut tunnel) = joined().await;
    tunnel.ask(&request("hello", "")).await.begun().all().await;
    let is_over = |status: &Value| status["jobs"]["finished"] == 1 && status["models"]["test/model"]["running"] == 0;
    let status = provider.status_when("counted", is_over).await;
    let dir = provider.data_dir();
    assert_eq!(text(&run(&dir, &["identity"])).trim(), status["provider"]);

    let told = run(&dir, &["status"]);
    assert!(told.status.success());
    assert!(
        text(&told).contains("connected to replica-1") && text(&told).contains("0 of 2 slots taken"),
        "{}",
        text(&told)
    );
    let json: Value = serde_json::from_slice(&run(&dir, &["status", "--json"]).stdout).unwrap();
    assert_eq!((&json["pid"], &json["completion_tokens"]), (&provider.pid().into(), &3.into()));
    provider.kill();
    let told = run(&dir, &["status"]);
    assert!(!told.status.success() && text(&told).contains("not running"), "{}", text(&told));

    fs::set_permissions(dir.join("identity.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(&dir, &["identity"]);
    assert!(!refused.status.success() && text(&refused).contains("chmod 600"), "{}", text(&refused));
}
