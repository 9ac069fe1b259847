//! A provider's first evening: with nothing but the program; from the install script; with two models in one process.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::image::{Image, repository, said};
use crate::support::process::{Process, wait_until};
use crate::support::provider::ProviderSetup;
use crate::support::proxy::Certificate;
use crate::support::{Books, Network, Setup, programs, usd};

const MODEL: &str = "lumbung/padi";
const VECTORS: &str = "lumbung/padi-embed";
const QUESTION: &str = "What is a lumbung?";

async fn network() -> Network {
    Setup::new(Books::Sqlite).with_model(MODEL, 2048).with_model(VECTORS, 2048).start().await
}

fn body() -> String {
    json!({"model": MODEL, "max_tokens": 24, "messages": [{"role": "user", "content": QUESTION}]}).to_string()
}

async fn answers(client: &Client) -> u16 {
    client.post(body()).await.status().as_u16()
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// What an owner does with a machine that has the program, its libraries and a model, and no shell, no `/dev`, nothing else.
#[tokio::test]
async fn the_program_alone_joins_serves_pauses_resumes_and_drains() {
    let (network, image) = (network().await, Image::build("provider"));
    image.mount_proc();
    let settings = [("GATEWAY", &*network.base), ("MODEL", "/models/padi"), ("MODEL_ID", MODEL), ("DATA_DIR", "/data")];
    let run = |arguments: &[&str]| {
        let mut command = image.command(arguments);
        command.envs(settings.map(|(name, value)| (format!("LUMBUNG_PROVIDER_{name}"), value)));
        command
    };
    let doctor = output(run(&["doctor"])).await;
    assert!(doctor.status.success() && text(&doctor).contains("This machine can serve"), "{}", text(&doctor));
    let nobody = output(run(&["pause"])).await;
    assert!(!nobody.status.success() && text(&nobody).contains("no provider runs"), "{}", text(&nobody));

    let logs = tempfile::tempdir().expect("a folder");
    let mut provider = Process::start("provider", run(&["serve"]), Some(logs.path().join("provider.log")));
    network.serves(MODEL).await;
    let client = network.client("1").await;
    assert_eq!(answers(&client).await, 200);
    let status = async || -> Value {
        let told = output(run(&["status", "--json"])).await;
        serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{}", text(&told)))
    };
    // The provider asks the books at most every half minute: it is to find the job there.
    wait_until("the books have it", Duration::from_secs(20), async || {
        let told = output(run(&["status", "--json", "--local"])).await;
        let told: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
        told["jobs"]["finished"] == 1 && told["receipts_unacknowledged"] == 0
    })
    .await;
    network.charged(&client.account, usd("1")).await;
    let told = status().await;
    assert_ne!(told["earnings"]["totals"]["earned_usd"], "0", "{told}");
    assert_eq!((&told["standing"], &told["jobs"]["finished"]), (&json!("newcomer"), &json!(1)), "{told}");
    assert_ne!(told["models"][MODEL]["claimed_usd"], "0");

    let paused = output(run(&["pause"])).await;
    assert!(paused.status.success() && text(&paused).contains("paused"), "{}", text(&paused));
    // Said at once, heard within a poll: until then a job is declined by the provider itself.
    assert_ne!(answers(&client).await, 200);
    assert_eq!(status().await["holds"], json!(["paused"]));
    assert_eq!(output(run(&["status"])).await.status.code(), Some(0), "it runs, and is healthy");
    assert!(output(run(&["resume"])).await.status.success());
    wait_until("it serves again", Duration::from_secs(20), async || answers(&client).await == 200).await;

    let drained = output(run(&["drain"])).await;
    assert!(text(&drained).contains("it has ended"), "{}", text(&drained));
    provider.stops(Duration::from_secs(10)).await;
    let gone = output(run(&["status"])).await;
    assert!(!gone.status.success() && text(&gone).contains("not running"), "{}", text(&gone));
    network.finish().await;
}

/// What the script has started ends with the test.
struct Installed(PathBuf);

impl Installed {
    fn program(&self) -> Command {
        let mut command = Command::new(self.0.join("opt/bin/lumbung-provider"));
        command.arg("--data-dir").arg(self.0.join(".local/share/lumbung-provider"));
        command
    }

    fn pid(&self) -> Option<u64> {
        let told = self.program().args(["status", "--json", "--local"]).output().ok()?;
        serde_json::from_slice::<Value>(&told.stdout).ok()?["pid"].as_u64()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

#[tokio::test]
async fn one_command_leads_from_nothing_to_an_answer_and_again_to_an_upgrade() {
    let (network, home) = (network().await, tempfile::tempdir().expect("a folder"));
    let built = programs().join("lumbung-provider");
    let install = |more: &[&str]| {
        let mut command = Command::new(repository().join("provider-runtime/install.sh"));
        command.args(["--user", "--no-systemd", "--prefix"]).arg(home.path().join("opt"));
        command.arg("--program").arg(&built).args(more);
        command.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
        command
    };
    let missing = output(install(&[])).await;
    assert!(!missing.status.success() && text(&missing).contains("--gateway is missing"), "{}", text(&missing));
    let wrong = output(install(&["--gateway", &network.base, "--set", "tunnels=99"])).await;
    assert!(!wrong.status.success() && text(&wrong).contains("tunnels: 99 is not in 1..=8"), "{}", text(&wrong));
    let nowhere = output(install(&["--gateway", "http://127.0.0.1:9"])).await;
    assert!(!nowhere.status.success() && text(&nowhere).contains("does not accept connections"), "{}", text(&nowhere));

    let installed = Installed(home.path().to_owned());
    let done = output(install(&["--gateway", &network.base, "--set", "region=eu \"west\""])).await;
    assert!(done.status.success() && text(&done).contains("connected to"), "{}", text(&done));
    let config = home.path().join(".config/lumbung/provider.toml");
    assert_eq!(std::fs::metadata(&config).expect("a file").permissions().mode() & 0o777, 0o600);
    network.serves(MODEL).await;
    let client = network.client("1").await;
    assert_eq!(answers(&client).await, 200);
    let first = installed.pid().expect("a process");

    let again = output(install(&[])).await;
    assert!(again.status.success() && text(&again).contains("its successor takes its place"), "{}", text(&again));
    assert_ne!(installed.pid().expect("a process"), first);
    assert_eq!(answers(&client).await, 200, "nobody has noticed");
    let ended = output({
        let mut drain = installed.program();
        drain.arg("drain");
        drain
    })
    .await;
    assert!(text(&ended).contains("it has ended"), "{}", text(&ended));
    wait_until("the first one has ended, too", Duration::from_secs(60), async || {
        // It may wait for somebody to take note of its end (Z).
        let stat = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    })
    .await;
    network.finish().await;
}

/// What the script writes for systemd is a unit, and starts what it should.
#[test]
fn the_users_unit_is_right() {
    let script = std::fs::read_to_string(repository().join("provider-runtime/install.sh")).expect("the script");
    let unit = script.split("<<EOF_UNIT\n").nth(1).and_then(|rest| rest.split("EOF_UNIT\n").next()).expect("a unit");
    let program = programs().join("lumbung-provider").display().to_string();
    let unit = unit.replace("$BIN", &program).replace("$CONFIG", "/x/provider.toml").replace("$DATA", "/x/data");
    assert!(!unit.contains('$'), "{unit}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lumbung-provider.service");
    std::fs::write(&file, unit).expect("a file");
    said(Command::new("systemd-analyze").arg("verify").arg(file));
}

#[tokio::test]
async fn two_bundled_models_are_served_by_one_process_and_one_leaves_and_comes_back() {
    let (network, folder) = (network().await, tempfile::tempdir().expect("a folder"));
    let models = repository().join("provider-runtime/models");
    let file = folder.path().join("provider.toml");
    let table = format!(
        "[[models]]\nmodel = \"{}\"\nmodel-id = \"{VECTORS}\"\nslots = 2\nask-prompt = \"0.02\"",
        models.join("padi-embed").display()
    );
    std::fs::write(&file, &table).expect("a file");
    let provider = ProviderSetup::bundled(MODEL).flag("--config", &file.display().to_string());
    let provider = network.provider(provider).await;
    network.serves(VECTORS).await;
    let client = network.client("1").await;
    let embed = async || {
        let request = client.http.post(format!("{}/v1/embeddings", network.base)).bearer_auth(&client.key);
        let request = request.json(&json!({"model": VECTORS, "input": QUESTION, "encoding_format": "float"}));
        request.send().await.expect("an answer")
    };
    assert_eq!(answers(&client).await, 200);
    let vectors: Value = embed().await.json().await.expect("JSON");
    assert!(vectors["data"][0]["embedding"].as_array().is_some_and(|vector| !vector.is_empty()), "{vectors}");
    provider.receipts_acknowledged().await;
    wait_until("each has had its job", Duration::from_secs(20), async || {
        let status = provider.status();
        (&status["models"][MODEL]["jobs"], &status["models"][VECTORS]["jobs"]) == (&json!(1), &json!(1))
    })
    .await;

    let reload = async || {
        let mut command = Command::new(programs().join("lumbung-provider"));
        command.arg("reload").arg("--data-dir").arg(provider.folder.as_ref().expect("a folder").path());
        text(&output(command).await)
    };
    std::fs::write(&file, "").expect("a file");
    assert_eq!(reload().await, format!("removed  {VECTORS}\n"));
    wait_until("nobody makes vectors", Duration::from_secs(20), async || embed().await.status() == 503).await;
    assert_eq!(answers(&client).await, 200, "the other one is still there");
    std::fs::write(&file, &table).expect("a file");
    assert_eq!(reload().await, format!("added    {VECTORS}\n"));
    wait_until("somebody makes vectors", Duration::from_secs(20), async || embed().await.status() == 200).await;
    // What the owner can expect is known before much has happened: the engine was tried at the start.
    let mut status = Command::new(programs().join("lumbung-provider"));
    status.args(["status", "--json", "--data-dir"]).arg(provider.folder.as_ref().expect("a folder").path());
    let told: Value = serde_json::from_slice(&output(status).await.stdout).expect("a status");
    let expected = &told["models"][MODEL]["outlook"]["expected"];
    assert_ne!(expected["per_busy_hour_usd"].as_str().unwrap_or("0"), "0", "{told}");
    network.finish().await;
}

/// What only a gateway with TLS can provoke.
#[tokio::test]
async fn the_doctor_knows_a_certificate_that_is_not_trusted() {
    let certificate = Certificate::for_address("127.0.0.1");
    let served = certificate.another("served.pem", "IP:127.0.0.1", 2);
    let network = Setup::new(Books::Sqlite).with_tls(&served, &certificate.path("key.pem")).start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let authority = certificate.path("authority.pem").display().to_string();
    for (more, level) in [(&[][..], "problem"), (&["--gateway-ca", &authority], "ok")] {
        let mut doctor = Command::new(programs().join("lumbung-provider"));
        doctor.arg("--data-dir").arg(folder.path()).args(["doctor", "--json", "--gateway", &network.base]).args(more);
        let report: Value = serde_json::from_slice(&output(doctor).await.stdout).expect("a report");
        let findings = report["findings"].as_array().expect("findings");
        let found = findings.iter().find(|finding| finding["check"] == "gateway").expect("the gateway");
        assert_eq!(found["level"], level, "{report}");
        assert_eq!(found["advice"].as_str().is_some_and(|advice| advice.contains("--gateway-ca")), level != "ok");
    }
    network.finish().await;
}
