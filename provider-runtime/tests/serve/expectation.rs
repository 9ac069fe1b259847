//! What a newcomer is told before the first job: whether jobs come at all, and what an hour may bring.

use std::fs;
use std::process::{Command, Output};

use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::provider::Demand;
use serde_json::{Value, json};

use super::request;
use super::support::gateway::TestGateway;
use super::support::provider::{PROGRAM, scripted, text, told};
use super::support::tunnel::usd;

const SCRIPT: &str =
    r#"{"weights_digest": "sha256:abc", "rules": [{"match": "*", "tokens": 1000, "delay_ms_per_token": 5}]}"#;

fn demand(digests: &[&str]) -> Demand {
    Demand {
        model: "test/model".into(),
        reference: TokenPrice { prompt: usd("0.05"), completion: usd("0.40") },
        fee_bps: 500,
        digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
        providers: 3,
        slots: 12,
        slots_taken: 4,
    }
}

/// A machine with a script for an engine.
struct Machine {
    folder: tempfile::TempDir,
    gateway: TestGateway,
}

impl Machine {
    async fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap(), gateway: TestGateway::start().await };
        fs::write(machine.folder.path().join("script.json"), SCRIPT).unwrap();
        machine
    }

    async fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut run = Command::new(PROGRAM);
        run.arg(command).args(["--engine", "scripted", "--model-id", "test/model", "--slots", "4", "--script"]);
        run.arg(self.folder.path().join("script.json"))
            .args(more)
            .arg("--data-dir")
            .arg(self.folder.path().join("data"));
        tokio::task::spawn_blocking(move || run.output().unwrap()).await.unwrap()
    }

    /// What `doctor` finds about that, and what to do.
    async fn found(&self, check: &str, more: &[&str]) -> (String, String, String) {
        let told = self.run("doctor", &[&["--json", "--gateway", &self.gateway.url()], more].concat()).await;
        let report: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", text(&told)));
        assert_eq!(report["can_serve"], true, "it is no reason not to serve: {report}");
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check).unwrap_or(&Value::Null);
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (text("level"), text("found"), text("advice"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_an_hour_may_bring_once_it_is_known_how_fast_the_machine_is() {
    let machine = Machine::new().await;
    *machine.gateway.state.catalogue.lock().unwrap() = Some(vec![demand(&[])]);
    let (level, found, _) = machine.found("catalogue", &[]).await;
    assert!(level == "ok" && found.contains("3 providers serve it, 4 of 12 slots taken"), "{found}");
    assert!(found.contains("fee is 5.00 %"), "{found}");
    let (_, found, _) = machine.found("earnings", &[]).await;
    assert!(found.contains("not known") && found.contains("lumbung-provider bench"), "{found}");

    let tried = machine.run("bench", &["--json", "--streams", "1,4", "--tokens", "20"]).await;
    let paces: Value = serde_json::from_slice(&tried.stdout).unwrap_or_else(|_| panic!("{}", text(&tried)));
    assert_eq!((&paces[0]["streams"], &paces[1]["streams"]), (&json!(1), &json!(4)));
    let per_second = paces[1]["tokens_per_second"].as_f64().unwrap();
    // The first token comes at once: 19 pauses.
    assert!(per_second > 0.0 && per_second <= 843.0, "4 streams of 20 tokens in at least 95 ms: {per_second}");
    let (level, found, _) = machine.found("earnings", &["--ask-completion", "0.40"]).await;
    assert_eq!(level, "ok");
    // Its own four slots are not among those of the network yet: 4 of 16 taken.
    assert!(found.contains("if it were busy the whole time") && found.contains("(25 % of its slots)"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_knows_why_no_jobs_would_come() {
    let machine = Machine::new().await;
    *machine.gateway.state.catalogue.lock().unwrap() = Some(vec![]);
    let (level, found, advice) = machine.found("catalogue", &[]).await;
    assert!(level == "warning" && found.contains("not in the gateway's catalogue"), "{found}");
    assert!(advice.contains("--model-id"), "{advice}");
    *machine.gateway.state.catalogue.lock().unwrap() = Some(vec![demand(&["sha256:other"])]);
    let (level, found, advice) = machine.found("catalogue", &["--ask-completion", "0.41"]).await;
    assert!(level == "warning" && found.contains("at most $0.05 in and $0.4 out"), "{found}");
    assert!(advice.contains("--ask-completion"), "{advice}");
    assert_eq!(machine.found("catalogue", &[]).await.0, "ok", "the weights are not known before they were loaded");
    assert!(machine.run("bench", &["--tokens", "1", "--streams", "1"]).await.status.success());
    let (level, found, _) = machine.found("catalogue", &[]).await;
    assert!(level == "warning" && found.contains("other weights"), "{found}");
    *machine.gateway.state.catalogue.lock().unwrap() = None;
    assert_eq!(machine.found("catalogue", &[]).await.0, "ok", "a gateway that says nothing prevents nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_provider_says_what_it_may_bring_before_its_first_job_and_after() {
    let machine = Machine::new().await;
    *machine.gateway.state.catalogue.lock().unwrap() = Some(vec![demand(&["sha256:abc"])]);
    machine.run("bench", &["--streams", "4", "--tokens", "20"]).await;
    let provider = scripted(&machine.gateway.url(), SCRIPT).start();
    let known = machine.folder.path().join("data/pace.json");
    let mut tunnel = machine.gateway.tunnel().await;
    fs::copy(known, provider.data_dir().join("pace.json")).unwrap();

    let told_of = async || -> Value {
        let told = told(&provider, &["status", "--json"]).await;
        serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", text(&told)))
    };
    let before = told_of().await;
    let expected = &before["models"]["test/model"]["outlook"]["expected"];
    assert_eq!(expected["network_use_percent"], 33, "{before}");
    let of = |figure: &Value| usd(figure.as_str().unwrap()).nanos();
    let (busy, now) = (of(&expected["per_busy_hour_usd"]), of(&expected["per_hour_now_usd"]));
    assert!(busy > 0 && now == busy * 4 / 12, "{before}");
    let page = text(&told(&provider, &["status"]).await);
    assert!(page.contains("if it were busy the whole time") && !page.contains("NO JOBS"), "{page}");

    tunnel.ask(&request("hello", r#","max_tokens":10"#)).await.begun().all().await;
    let after = told_of().await;
    assert!(of(&after["models"]["test/model"]["per_busy_hour_usd"]) > 0, "{after}");
}
