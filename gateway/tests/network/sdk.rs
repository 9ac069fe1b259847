//! The official SDKs, unmodified, against a real gateway and a real provider with the bundled model.

use std::path::{Path, PathBuf};
use std::process::Command;

use lumbung_gateway::domain::limits::{LimitOwner, Limits};

use crate::recount::import;
use crate::sidecar;
use crate::support::provider::ProviderSetup;
use crate::support::sidecar::said;
use crate::support::{Books, MODEL as SCRIPTED, Network, Setup};

const MODEL: &str = "lumbung/padi";
const IDLE: &str = "lumbung/idle";

fn tool(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through `make test`"))
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

async fn network() -> (Network, crate::support::provider::Provider) {
    let network = Setup::new(Books::Sqlite).with_model(MODEL, 2048).with_model(IDLE, 2048).start().await;
    let provider = network.provider(ProviderSetup::bundled(MODEL)).await;
    (network, provider)
}

/// Runs one test file, or several, of an SDK; the answers that it gets are noted in `collected`.
async fn run(mut command: Command, network: &Network, collected: &Path) {
    command.env("COLLECTED", collected);
    let (rich, poor, limited) = (network.client("1").await, network.client("0").await, network.client("1").await);
    let one = Limits { requests_per_minute: Some(1), ..Limits::default() };
    network.store.set_limits(LimitOwner::Account(limited.account), &one).await.expect("limits");
    command.env("LIMITED_KEY", &limited.key);
    command.env("BASE_URL", format!("{}/v1", network.base)).env("API_KEY", &rich.key).env("POOR_KEY", &poor.key);
    command
        .env("MODEL", MODEL)
        .env("IDLE_MODEL", IDLE)
        .env("QUESTIONS", folder("../provider-runtime/models/questions.json"));
    finish(command).await;
}

/// Whether every answer that was noted has the types that the SDK for Node declares.
async fn has_types(collected: &Path) {
    let mut command = Command::new(tool("LUMBUNG_TEST_NODE"));
    command.env("LUMBUNG_TEST_NODE_PATH", tool("LUMBUNG_TEST_NODE_PATH")).env("COLLECTED", collected);
    command.arg(folder("tests/sdk/types.mjs"));
    finish(command).await;
}

async fn finish(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

#[tokio::test]
async fn python() {
    let collected = tempfile::NamedTempFile::new().expect("a file");
    let (network, provider) = network().await;
    let mut command = Command::new(tool("LUMBUNG_TEST_PYTHON"));
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(folder("tests/sdk/test_openai.py"));
    command.arg(folder("tests/sdk/test_forms.py"));
    run(command, &network, collected.path()).await;
    has_types(collected.path()).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

/// Generated schemas, validated by validators that are not ours.
#[tokio::test]
async fn forms() {
    let collected = tempfile::NamedTempFile::new().expect("a file");
    let (network, provider) = network().await;
    let mut command = Command::new(tool("LUMBUNG_TEST_SPEC_PYTHON"));
    let schemas = if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { "300" } else { "30" };
    command.arg(folder("tests/sdk/schemas.py")).env("SCHEMAS", schemas);
    run(command, &network, collected.path()).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn python_and_node_at_the_other_endpoints() {
    let collected = tempfile::NamedTempFile::new().expect("a file");
    let vectors = "lumbung/vectors";
    let network = Setup::new(Books::Sqlite).with_model(MODEL, 2048).with_model(vectors, 2048).start().await;
    let provider = network.provider(ProviderSetup::bundled(MODEL)).await;
    let script = serde_json::json!({
        "supported_parameters": ["max_tokens", "temperature", "stop", "n", "logprobs", "top_logprobs", "tools", "tool_choice",
            "parallel_tool_calls", "response_format", "reasoning_effort", "prompt", "echo"],
        "rules": [
            {"match": "weather", "reply": "Let me see.", "reasoning": "Which city?",
             "calls": [{"name": "get_weather", "arguments": "{\"city\": \"Jakarta\"}"}]},
            {"match": "person", "reply": "{\"name\": \"Ada\", \"age\": 36}"},
            {"match": "*", "reply": "Hello to you"},
        ],
    });
    let _scripted = network.scripted(script).await;
    let _vectors = network.provider(ProviderSetup::bundled_vectors(vectors)).await;
    import(&network, MODEL).await;
    let mut command = Command::new(tool("LUMBUNG_TEST_PYTHON"));
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(folder("tests/sdk/test_surface.py"));
    command.env("SCRIPTED_MODEL", SCRIPTED).env("VECTORS_MODEL", vectors);
    run(command, &network, collected.path()).await;
    let mut command = Command::new(tool("LUMBUNG_TEST_NODE"));
    command.env("NODE_PATH", tool("LUMBUNG_TEST_NODE_PATH")).arg("--test").arg(folder("tests/sdk/surface.test.mjs"));
    command.env("SCRIPTED_MODEL", SCRIPTED).env("VECTORS_MODEL", vectors);
    run(command, &network, collected.path()).await;
    has_types(collected.path()).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn pictures_and_sounds_reach_a_server_from_python_and_node() {
    let collected = tempfile::NamedTempFile::new().expect("a file");
    let (network, sidecar, providers) = sidecar::network().await;
    sidecar.answer_with(said("A picture.", sidecar::counted()));
    let with = |command: &mut Command| {
        command
            .env("SCRIPTED_MODEL", SCRIPTED)
            .env("SEEING_MODEL", sidecar::SEEING)
            .env("ASKED_URL", sidecar.asked_url());
    };
    let mut command = Command::new(tool("LUMBUNG_TEST_PYTHON"));
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(folder("tests/sdk/test_media.py"));
    with(&mut command);
    run(command, &network, collected.path()).await;
    let mut command = Command::new(tool("LUMBUNG_TEST_NODE"));
    command.env("NODE_PATH", tool("LUMBUNG_TEST_NODE_PATH")).arg("--test").arg(folder("tests/sdk/media.test.mjs"));
    with(&mut command);
    run(command, &network, collected.path()).await;
    has_types(collected.path()).await;
    for provider in &providers {
        provider.receipts_acknowledged().await;
    }
    network.finish().await;
}

/// On Postgres, where keeping is on; the books have no answer beside those that clients wanted kept.
#[tokio::test]
async fn responses_are_kept_where_the_operator_says_so() {
    let collected = tempfile::NamedTempFile::new().expect("a file");
    let setup = Setup::new(Books::Postgres).with_model(MODEL, 2048).with_gateway_flag("--store-responses-days", "30");
    let network = setup.start().await;
    let provider = network.provider(ProviderSetup::bundled(MODEL)).await;
    let mut command = Command::new(tool("LUMBUNG_TEST_PYTHON"));
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).arg(folder("tests/sdk/test_storing.py"));
    run(command, &network, collected.path()).await;
    let mut command = Command::new(tool("LUMBUNG_TEST_NODE"));
    command.env("NODE_PATH", tool("LUMBUNG_TEST_NODE_PATH")).arg("--test").arg(folder("tests/sdk/storing.test.mjs"));
    run(command, &network, collected.path()).await;
    has_types(collected.path()).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn node() {
    let collected = tempfile::NamedTempFile::new().expect("a file");
    let (network, provider) = network().await;
    let mut command = Command::new(tool("LUMBUNG_TEST_NODE"));
    command.env("NODE_PATH", tool("LUMBUNG_TEST_NODE_PATH")).arg("--test").arg(folder("tests/sdk/openai.test.mjs"));
    command.arg(folder("tests/sdk/forms.test.mjs"));
    run(command, &network, collected.path()).await;
    has_types(collected.path()).await;
    provider.receipts_acknowledged().await;
    network.finish().await;
}
