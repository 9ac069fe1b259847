//! The configuration file, several models, and what limits them: hours, idleness, memory, GPUs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::support::eventually;
use super::support::gateway::TestGateway;
use super::support::provider::{PROGRAM, scripted};
use super::support::tunnel::{sign, usd, with};
use super::{SCRIPT, request, streamed};

/// `config check` of this file.
fn check(folder: &Path, file: &str, more: &[&str]) -> Result<String, String> {
    fs::write(folder.join("provider.toml"), file).unwrap();
    fs::write(folder.join("script.json"), SCRIPT).unwrap();
    let output = run(folder, &[&["config", "check", "--config", "provider.toml"], more].concat());
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said.into_owned()) } else { Err(wrong.into_owned()) }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args(arguments).env("LUMBUNG_PROVIDER_DATA_DIR", folder.join("data"));
    command.output().unwrap()
}

const RIGHT: &str = r#"
gateway = ["https://a.example", "https://b.example"]
hours = ["mon-fri 18:00-08:00", "sat-sun"]
only-when-idle = true
max-memory = "24GiB"

[[models]]
engine = "scripted"
script = "script.json"
model-id = "a/one"
slots = 3
ask-prompt = "0.01"

[[models]]
engine = "openai"
upstream-model = "x"
upstream-supports = ["input", "dimensions"]
model-id = "a/two"
"#;

#[test]
fn what_is_wrong_is_told_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(check(folder, RIGHT, &[]).unwrap().contains("right"));
    let one = "engine = \"scripted\"\nscript = \"script.json\"\nmodel-id = \"a/one\"\n";
    let gateway = "gateway = \"https://a.example\"\n";
    for (file, key, why) in [
        (format!("{gateway}{one}tunnels = 9"), "tunnels", "not in 1..=8"),
        (format!("{gateway}{one}hours = \"always\""), "hours", "22:00-08:00"),
        (format!("{gateway}{one}busy-percent = 0"), "busy-percent", "not in 1..=100"),
        (format!("{gateway}{one}only-when-idle = \"yes\""), "only-when-idle", "true or false"),
        (format!("{gateway}{one}max-memory = \"12\\u00e9\""), "max-memory", "MiB or GiB"),
        (format!("{gateway}{one}ask-prompt = 0.5"), "ask-prompt", "in quotes"),
        (format!("{gateway}{one}ask-prompt = \"-1\""), "ask-prompt", "negative"),
        (format!("{gateway}{one}modell = \"x\""), "modell", "no such setting"),
        (format!("{gateway}{one}models = 7"), "models", "[[models]]"),
        (format!("{gateway}[[models]]\n{one}slots = 0"), "models[0].slots", "not in 1..=4096"),
        (format!("{gateway}[[models]]\n{one}[[models]]\n{one}"), "a/one", "two models"),
        (format!("{gateway}[[models]]\n{one}tunnels = 2"), "models[0].tunnels", "no such setting"),
        (format!("{gateway}[[models]]\nmodel-id = \"a/one\""), "--model", "missing"),
        (format!("{gateway}[[models]]\nmodel-id = \"a\"\nengine = \"openai\""), "--upstream-model", "missing"),
        (gateway.to_owned(), "--model-id", "missing"),
        (one.to_owned(), "--gateway", "missing"),
        (format!("gateway = \"http://a.example\"\n{one}"), "a.example", "not encrypted"),
        ("gateway = ".to_owned(), "provider.toml", "line 1"),
    ] {
        let told = check(folder, &file, &[]).expect_err(&file);
        assert!(told.contains(key) && told.contains(why), "{file}: {told}");
    }
    // A flag comes before the file.
    let told = check(folder, &format!("{one}gateway = \"http://file.example\""), &["--gateway", "http://flag.example"]);
    let told = told.unwrap_err();
    assert!(told.contains("flag.example") && !told.contains("file.example"), "{told}");
    // What is not about a command is no matter there.
    fs::write(folder.join("provider.toml"), "data-dir = \"elsewhere\"\nslots = 4").unwrap();
    let identity = run(folder, &["identity", "--config", "provider.toml"]);
    assert!(identity.status.success() && folder.join("data/identity.key").exists(), "the environment comes before it");
}

#[test]
fn the_reference_is_that_of_this_provider() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFIG.md");
    let reference = lumbung_provider::cli::reference();
    if std::env::var_os("LUMBUNG_WRITE_SPEC").is_some() {
        fs::write(&path, &reference).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    assert!(
        written == reference,
        "provider-runtime/CONFIG.md is not that of this provider: LUMBUNG_WRITE_SPEC=1 writes it"
    );
    let example = reference.split("```").nth(1).unwrap().split_once('\n').unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    check(folder.path(), example, &[]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_are_served_each_with_its_slots_and_its_price() {
    let gateway = TestGateway::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("b.json"), r#"[{"match": "*", "reply": "B.", "prompt_tokens": 1}]"#).unwrap();
    let file = format!(
        "[[models]]\nengine = \"scripted\"\nscript = \"{}\"\nmodel-id = \"test/b\"\nslots = 7\nask-completion = \"0.30\"",
        at("b.json").display()
    );
    fs::write(at("provider.toml"), file).unwrap();
    let provider = scripted(&gateway.url(), SCRIPT);
    let provider = provider.with("--slots", "2").with("--config", at("provider.toml").to_str().unwrap()).start();
    let mut tunnel = gateway.tunnel().await;
    let offered: Vec<_> =
        tunnel.offer().await.models.into_iter().map(|model| (model.model, model.slots, model.ask.completion)).collect();
    assert_eq!(offered, [("test/model".into(), 2, usd("0.10")), ("test/b".into(), 7, usd("0.30"))]);

    tunnel.ask(&request("hello", "")).await.begun().all().await;
    let other = request("hello", "").replace("test/model", "test/b");
    let ticket = |price: &str| {
        with(&tunnel.ticket(&other), |ticket| {
            ticket.model = "test/b".into();
            ticket.price.completion = usd(price);
        })
    };
    let (paid, underpaid) = (sign(&ticket("0.30")), sign(&ticket("0.10")));
    tunnel.send(&paid, &other).await.begun().all().await;
    assert_eq!(tunnel.send(&underpaid, &other).await.refused().1, "bad_ticket", "each has its own price");
    let is_over = |status: &serde_json::Value| status["jobs"]["finished"] == 2;
    let status = provider.status_when("both are counted", is_over).await;
    assert_eq!((&status["models"]["test/model"]["jobs"], &status["models"]["test/b"]["jobs"]), (&json!(1), &json!(1)));
    assert_eq!(status["models"]["test/b"]["slots"], 7);
}

/// `HH:MM` so many minutes from now, UTC.
fn in_minutes(minutes: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 / 60;
    let minute = (now + minutes).rem_euclid(24 * 60);
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_its_hours_it_takes_nothing_new() {
    let gateway = TestGateway::start().await;
    let now_and_later = format!("{}-{}", in_minutes(-120), in_minutes(120));
    let later = format!("{}-{}", in_minutes(120), in_minutes(240));
    for (hours, zone, is_out) in [
        (now_and_later.as_str(), "UTC", false),
        (&later, "UTC", true),
        // Three hours east it is later already: the clock on the wall counts.
        (&later, "EAST-3", false),
        (&now_and_later, "EAST-3", true),
        (&format!("{later},{now_and_later}"), "UTC", false),
    ] {
        let provider = scripted(&gateway.url(), SCRIPT).with("--hours", hours).env("TZ", zone).start();
        let mut tunnel = gateway.tunnel().await;
        assert_eq!(tunnel.offer().await.draining, is_out, "{hours} in {zone}");
        match is_out {
            true => assert_eq!(tunnel.ask(&streamed("hello")).await.refused().1, "provider_draining"),
            false => drop(tunnel.ask(&streamed("hello")).await.begun().all().await),
        }
        let expected = if is_out { json!(["out_of_hours"]) } else { json!([]) };
        provider.status_when("the status says so", |status| status["holds"] == expected).await;
    }
}

/// What the kernel would say of a machine with one processor, on which others have worked for so many ticks of all.
fn write_proc(folder: &Path, all: u64, busy: u64) {
    let write = |name: &str, text: String| {
        let aside = folder.join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, folder.join(name)).unwrap();
    };
    write("stat", format!("cpu  {busy} 0 0 {} 0 0 0 0 0 0\n", all - busy));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_others_use_the_machine_it_takes_nothing_new() {
    let gateway = TestGateway::start().await;
    let proc = tempfile::tempdir().unwrap();
    fs::create_dir(proc.path().join("self")).unwrap();
    fs::write(proc.path().join("self/stat"), "1 (x) S 1 1 1 0 -1 1 0 0 0 0 0 0 0 0 20 0 1 0").unwrap();
    write_proc(proc.path(), 1000, 100);
    let provider = scripted(&gateway.url(), SCRIPT).with("--only-when-idle", "").with("--idle-after-secs", "1");
    let provider = provider.with("--test-proc", proc.path().to_str().unwrap()).start();
    let mut tunnel = gateway.tunnel().await;
    assert!(tunnel.offer().await.draining, "not before it is known that nobody else is here");
    let mut all = 1000;
    let mut busy = 100;
    // The kernel's clock goes on by itself; here it has to be driven, quicker than it is looked at.
    let mut until = async |what: &str, used: u64, wanted: serde_json::Value| {
        eventually(what, async || {
            all += 100;
            busy += used;
            write_proc(proc.path(), all, busy);
            provider.status().filter(|status| status["holds"] == wanted).map(drop)
        })
        .await;
    };
    until("nobody else is here", 10, json!([])).await;
    assert!(!tunnel.offer().await.draining);
    tunnel.ask(&streamed("hello")).await.begun().all().await;
    until("somebody is", 60, json!(["machine_in_use"])).await;
    assert_eq!(tunnel.ask(&streamed("hello")).await.refused().1, "provider_draining");
    until("nobody is any more", 0, json!([])).await;
    drop(tunnel);
}

#[test]
fn what_does_not_fit_into_memory_is_refused_before_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let padi = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/padi");
    let serve = ["serve", "--gateway", "http://127.0.0.1:9", "--model", padi.to_str().unwrap(), "--max-memory", "2MiB"];
    let refused = run(folder.path(), &serve);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("'padi' does not fit"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_are_chosen_before_anything_looks_for_them() {
    let gateway = TestGateway::start().await;
    let provider =
        scripted(&gateway.url(), SCRIPT).with("--gpus", "1,GPU-abc").env("CUDA_VISIBLE_DEVICES", "0").start();
    gateway.tunnel().await;
    let environment = fs::read(format!("/proc/{}/environ", provider.pid())).unwrap();
    let visible = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"CUDA_VISIBLE_DEVICES="));
    assert_eq!(visible, Some(&b"1,GPU-abc"[..]), "the same process, started anew");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(provider.status().is_some());
}
