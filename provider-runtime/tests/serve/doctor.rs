//! What stands in the way of serving: each failure is provoked, and the doctor knows it and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use http::StatusCode;
use serde_json::Value;

use super::SCRIPT;
use super::support::gateway::TestGateway;
use super::support::provider::PROGRAM;
use super::support::upstream::{Reply, Upstream};

fn run(data_dir: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--data-dir").arg(data_dir).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What is found about something: how bad it is, and what to do.
fn finding(report: &Value, check: &str) -> (String, String) {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == check);
    let text = |name: &str| found.map_or("not looked at", |finding| finding[name].as_str().unwrap()).to_owned();
    (text("level"), text("advice"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_prevents_serving() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script.json");
    fs::write(&script, SCRIPT).unwrap();
    let gateway = TestGateway::start().await;
    let examine = |args: &[&str]| {
        let output = run(&dir.path().join("data"), &[&["doctor", "--json"], args].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        assert_eq!(report["can_serve"].as_bool().unwrap(), output.status.success());
        report
    };
    let level = |report: &Value, check: &str| {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.map_or("not looked at", |finding| finding["level"].as_str().unwrap()).to_owned()
    };
    let scripted = ["--engine", "scripted", "--script", script.to_str().unwrap()];

    let healthy = examine(&[&scripted[..], &["--gateway", &gateway.url()]].concat());
    for check in ["cpu", "memory", "data-dir", "model", "tcp", "gateway", "clock"] {
        assert_eq!(level(&healthy, check), "ok", "{healthy}");
    }
    let upstream = Upstream::start(Reply::Parts(vec![])).await;
    let sidecar = ["--engine", "openai", "--upstream", &upstream.url(), "--upstream-model"];
    assert_eq!(
        level(&examine(&[&sidecar[..], &["upstream-name"]].concat()), "upstream"),
        "ok",
        "its context is asked for"
    );
    let other = examine(&[&sidecar[..], &["other", "--context-length", "9"]].concat());
    assert_eq!(level(&other, "upstream"), "problem");

    for (what, args, check) in [
        ("not encrypted", ["--gateway", "http://192.0.2.1:80"], "gateway"),
        ("not a gateway", ["--gateway", &upstream.url()], "gateway"),
        ("nobody there", ["--gateway", "http://127.0.0.1:9"], "tcp"),
        ("no TLS there", ["--gateway", &gateway.url().replace("http:", "https:")], "gateway"),
        ("no such name", ["--gateway", "https://lumbung.invalid"], "dns"),
        ("no such script", ["--script", "/nonexistent"], "model"),
    ] {
        let scripted = if args[0] == "--script" { &scripted[..2] } else { &scripted[..] };
        let report = examine(&[scripted, &args].concat());
        assert_eq!(level(&report, check), "problem", "{what}: {report}");
        let advice = report["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == check).unwrap();
        assert!(!advice["advice"].as_str().unwrap().is_empty(), "{what}");
    }
}

/// Where `nvidia-smi` is what the test says.
fn with_nvidia_smi(folder: &Path, said: &str, code: u8) -> Value {
    let smi = folder.join("nvidia-smi");
    fs::write(&smi, format!("#!/bin/sh\ncat <<'EOF'\n{said}\nEOF\nexit {code}\n")).unwrap();
    fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let padi = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/padi");
    let mut doctor = Command::new(PROGRAM);
    doctor.args(["doctor", "--json", "--gateway", "http://127.0.0.1:9", "--model", padi.to_str().unwrap()]);
    let output = doctor.env("PATH", path).env("LUMBUNG_PROVIDER_DATA_DIR", folder.join("data")).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
}

#[test]
fn what_nvidia_smi_says_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    for (said, code, advice) in [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "modprobe nvidia"),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "reboot"),
        ("No devices were found", 6, "--gpus all"),
        ("Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.", 15, "Xid"),
        ("Failed to initialize NVML: Insufficient Permissions", 4, "/dev/nvidia"),
        ("GeForce RTX 4090, 24564, 24000, 570.86, 8.9", 0, "--features cuda"),
    ] {
        let report = with_nvidia_smi(folder.path(), said, code);
        let (level, told) = finding(&report, "gpu");
        // This build computes on processors: it can do without.
        assert_eq!(level, "warning", "{said}");
        assert!(told.contains(advice), "{said}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_is_understood() {
    let (gateway, dir) = (TestGateway::start().await, tempfile::tempdir().unwrap());
    let examine = || {
        let output = run(dir.path(), &["doctor", "--json", "--gateway", &gateway.url()]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
    };
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        *gateway.state.challenge_status.lock().unwrap() = Some(status);
        let (level, advice) = finding(&examine(), "gateway");
        assert!(level == "warning" && advice.contains("keeps asking"), "{level}: {advice}");
    }
    *gateway.state.challenge_status.lock().unwrap() = None;
    *gateway.state.date.lock().unwrap() = Some("Thu, 29 Feb 2024 23:59:59 GMT");
    let (level, advice) = finding(&examine(), "clock");
    assert!(level == "warning" && advice.contains("timedatectl"), "{level}: {advice}");
}

#[test]
fn each_model_of_the_file_is_looked_at_and_whether_all_fit() {
    let dir = tempfile::tempdir().unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let file = format!(
        "max-memory = \"2MiB\"\n[[models]]\nmodel = \"{0}/padi\"\n[[models]]\nmodel = \"{0}/nothing\"",
        models.display()
    );
    let path = dir.path().join("provider.toml");
    fs::write(&path, file).unwrap();
    let output = run(&dir.path().join("data"), &["doctor", "--json", "--config", path.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let findings = report["findings"].as_array().unwrap();
    let has = |check: &str, level: &str, part: &str| {
        findings.iter().any(|finding| {
            finding["check"] == check && finding["level"] == level && finding["found"].as_str().unwrap().contains(part)
        })
    };
    assert!(has("model", "ok", "models/padi") && has("model", "problem", "models/nothing"), "{report}");
    assert!(has("memory", "problem", "does not fit"), "{report}");
}
