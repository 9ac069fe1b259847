//! A provider that is replaced by another process, as for an upgrade: nothing that runs is lost, and nothing that was earned.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lumbung_openapi::frame::FrameKind;
use serde_json::Value;

use super::support::gateway::TestGateway;
use super::support::provider::{PROGRAM, Provider, scripted};
use super::support::{eventually, tunnel::Tunnel};
use super::{SCRIPT, of_kind, streamed};

/// The program as it is installed, to be replaced.
struct Installed(tempfile::TempDir);

impl Installed {
    fn new() -> Self {
        let installed = Self(tempfile::tempdir().unwrap());
        installed.install(|aside| fs::copy(PROGRAM, aside).map(drop));
        installed
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("lumbung-provider")
    }

    /// As package managers do it: beside, then into its place.
    fn install(&self, write: impl Fn(&Path) -> std::io::Result<()>) {
        let aside = self.0.path().join("new");
        write(&aside).unwrap();
        fs::rename(aside, self.path()).unwrap();
    }
}

fn told(provider: &Provider, arguments: &'static [&str]) -> tokio::task::JoinHandle<Output> {
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(provider.data_dir()).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The successor is no child of the test's: it ends with this.
struct Successor(u32);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.0.to_string()]).status();
    }
}

async fn begin(gateway: &TestGateway, installed: &Installed) -> (Provider, Tunnel) {
    let provider = scripted(&gateway.url(), SCRIPT).with("--slots", "2").program(&installed.path()).start();
    (provider, gateway.tunnel().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_the_place_while_what_runs_is_finished() {
    let (gateway, installed) = (TestGateway::start().await, Installed::new());
    let (mut provider, mut tunnel) = begin(&gateway, &installed).await;
    let mut running = tunnel.ask(&streamed("briefly")).await.begun();
    running.next().await.unwrap();
    installed.install(|aside| fs::copy(PROGRAM, aside).map(drop));
    let upgrading = told(&provider, &["upgrade"]);
    let mut later = gateway.tunnel().await;
    assert!(!later.offer().await.draining);
    // Its gateway knows the successor's tunnel by now; what was sent to the first one meanwhile is still taken.
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    let upgraded = upgrading.await.unwrap();
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    let status = eventually("the successor's status", async || {
        provider.status().filter(|status| status["pid"] != provider.pid())
    })
    .await;
    let successor = Successor(status["pid"].as_u64().unwrap() as u32);
    assert!(text(&upgraded).contains(&format!("(process {}) serves", successor.0)), "{}", text(&upgraded));
    later.ask(&streamed("hello")).await.begun().all().await;

    assert_eq!(of_kind(&running.all().await, FrameKind::End).len(), 1, "what ran is complete");
    assert!(provider.ended().await.success());
    let jobs = |receipt: &lumbung_openapi::receipt::Receipt| receipt.ticket.clone();
    let receipts = eventually("every receipt is offered", async || {
        let mut receipts: Vec<String> = gateway.receipts().iter().map(jobs).collect();
        receipts.sort();
        Some(receipts).filter(|receipts| receipts.len() >= 3)
    })
    .await;
    assert!(receipts.len() >= 3);
    provider.status_when("nothing is left to offer", |status| status["receipts_unacknowledged"] == 0).await;
    // And it is told what to do, where the first one was.
    let ended = told(&provider, &["drain"]).await.unwrap();
    assert!(text(&ended).contains("it has ended"), "{}", text(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_predecessor_left_unsaid_its_successor_says() {
    let (gateway, installed) = (TestGateway::start().await, Installed::new());
    let (mut provider, mut tunnel) = begin(&gateway, &installed).await;
    *gateway.state.receipts_status.lock().unwrap() = Some(http::StatusCode::SERVICE_UNAVAILABLE);
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    let mut running = tunnel.ask(&streamed("slowly")).await.begun();
    running.next().await.unwrap();
    provider.status_when("a receipt waits", |status| status["receipts_unacknowledged"] == 1).await;
    let upgrading = told(&provider, &["upgrade"]);
    let mut later = gateway.tunnel().await;
    later.offer().await;
    assert!(upgrading.await.unwrap().status.success());
    let status = provider.status_when("the successor's status", |status| status["connected"][0].is_string()).await;
    let _successor = Successor(status["pid"].as_u64().unwrap() as u32);
    provider.kill();
    *gateway.state.receipts_status.lock().unwrap() = None;
    let receipts = gateway.receipts_of(1).await;
    assert_eq!(receipts[0].parse_claims().unwrap().prompt_tokens, 9);
    provider.status_when("it is acknowledged", |status| status["receipts_unacknowledged"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_serve_changes_nothing() {
    let (gateway, installed) = (TestGateway::start().await, Installed::new());
    let (provider, mut tunnel) = begin(&gateway, &installed).await;
    installed.install(|aside| {
        fs::write(aside, "#!/bin/sh\nexit 3\n")?;
        fs::set_permissions(aside, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    });
    let upgraded = told(&provider, &["upgrade"]).await.unwrap();
    assert!(!upgraded.status.success() && text(&upgraded).contains("exit status: 3"), "{}", text(&upgraded));
    fs::remove_file(installed.path()).unwrap();
    let upgraded = told(&provider, &["upgrade"]).await.unwrap();
    assert!(!upgraded.status.success() && text(&upgraded).contains("cannot start"), "{}", text(&upgraded));
    let status: Value = provider.status().unwrap();
    assert_eq!((status["pid"].as_u64(), status["draining"].as_bool()), (Some(provider.pid().into()), Some(false)));
    tunnel.ask(&streamed("hello")).await.begun().all().await;
}
