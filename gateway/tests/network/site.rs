//! The documentation: every block of commands in it is proven, those that can be run are run here, and the site is built with no
//! link that leads nowhere. How blocks say what proves them: `docs/proof.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::recount::import;
use crate::support::process::free_port;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, Network, Setup, programs};

const MODEL: &str = "lumbung/padi";
const VECTORS: &str = "lumbung/padi-embed";
/// What the pages call the gateway and the key; the tests put the real ones there.
const GATEWAY: &str = "https://api.example";
const KEY: &str = "sk-lumbung-your-key";

/// For developers, on one network, one after the other.
const GUIDES: [&str; 9] = [
    "start/developer.md",
    "guide/chat.md",
    "guide/tools.md",
    "guide/embeddings.md",
    "guide/responses.md",
    "guide/routing.md",
    "guide/errors.md",
    "guide/receipts.md",
    "README.md",
];
/// For a provider.
const PROVIDERS: [&str; 2] = ["start/provider.md", "provider-runtime/CONFIG.md"];
/// For an operator who has a gateway.
const OPERATIONS: [&str; 4] = ["operations/work.md", "operations/keep.md", "operations/deploy.md", "gateway/CONFIG.md"];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn tool(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through `make test`"))
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider-runtime/models").join(name)
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

/// `proof.py run` these pages, where the SDKs and the programs are what the pages say that they are.
fn pages(pages: &[&str], replace: serde_json::Value, home: &Path) -> Command {
    let python = PathBuf::from(tool("LUMBUNG_TEST_PYTHON"));
    let node = PathBuf::from(tool("LUMBUNG_TEST_NODE"));
    let folders =
        [programs(), python.parent().expect("a folder").to_owned(), node.parent().expect("a folder").to_owned()];
    let rest = std::env::var("PATH").expect("a PATH");
    let path = folders.iter().map(|folder| folder.display().to_string()).chain([rest]).collect::<Vec<_>>().join(":");
    let mut command = Command::new(&python);
    command.arg(docs().join("proof.py")).arg("run").args(pages).env("REPLACE", replace.to_string());
    command.env("PATH", path).env("HOME", home).env("NODE_MODULES", tool("LUMBUNG_TEST_NODE_PATH"));
    command.env_remove("DATABASE_URL").env_remove("REDIS_URL").env_remove("XDG_DATA_HOME");
    command
}

async fn run(command: Command) {
    tokio::task::spawn_blocking(|| succeeds(command)).await.expect("no panic");
}

#[test]
fn every_block_is_proven() {
    let mut command = Command::new("python3");
    command.arg(docs().join("proof.py")).arg("check");
    succeeds(command);
}

/// What is not proven, or is not so, is found out, at its line.
#[test]
fn what_is_not_proven_is_found_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.md");
    let found = |action: &str, text: &str| {
        std::fs::write(&page, text).expect("a page");
        let output = Command::new("python3").arg(docs().join("proof.py")).arg(action).arg(&page).output();
        let output = output.expect("it runs");
        assert!(!output.status.success(), "{text} is not found out");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (block, why) in [
        ("```python\nprint()\n```", "page.md:2: nothing proves it"),
        ("```console tested=gateway/tests/network/site.rs::nobody\n$ true\n```", "has no test nobody"),
        ("```console tested=gateway/tests/nowhere.rs::nobody\n$ true\n```", "there is no gateway/tests/nowhere.rs"),
        ("```console run\n$ true\n```", "does not run this page"),
        ("```console unrun=\"\"\n$ true\n```", "why is it not run?"),
        ("```text output\nx\n```", "behind one that is run"),
        ("```console runs\n$ true\n```", "unknown marks"),
    ] {
        let told = found("check", &format!("\n{block}\n"));
        assert!(told.contains(why), "{block}: {told}");
    }
    for (block, why) in [
        ("```console run\n$ echo a rice barn\na … car\n```", "but it is\na rice barn"),
        ("```console run\n$ echo out; false\n```", "failed (1)\nout"),
        ("```console run=background until=false\n$ false\n```", "failed (1)"),
    ] {
        let told = found("run", &format!("\n{block}\n"));
        assert!(told.contains(why), "{block}: {told}");
    }
}

#[test]
fn the_site_is_built_and_no_link_leads_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(tool("LUMBUNG_TEST_SITE_PYTHON"));
    command.args(["-m", "mkdocs", "build", "--strict", "--config-file"]).arg(docs().join("mkdocs.yml"));
    command.arg("--site-dir").arg(folder.path());
    succeeds(command);
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a page");
    assert!(page("api/openai/index.html").contains("id=\"createChatCompletion\""), "the reference is there");
    assert!(page("operations/settings/index.html").contains("newcomers-need-tokenizer"), "so are the settings");
    assert!(page("start/provider/index.html").contains("No test runs this"), "what is not run is said");
}

async fn network(setup: Setup) -> (Network, Vec<crate::support::provider::Provider>) {
    let network = setup.with_model(MODEL, 2048).with_model(VECTORS, 2048).start().await;
    let providers = vec![
        network.provider(ProviderSetup::bundled(MODEL)).await,
        network.provider(ProviderSetup::bundled_vectors(VECTORS)).await,
    ];
    (network, providers)
}

#[tokio::test]
async fn what_developers_are_told_works() {
    let (network, providers) = network(Setup::new(Books::Sqlite)).await;
    import(&network, MODEL).await;
    let client = network.client("1").await;
    let home = tempfile::tempdir().expect("a folder");
    run(pages(&GUIDES, json!({GATEWAY: network.base, KEY: client.key, "./padi": model("padi")}), home.path())).await;
    for provider in &providers {
        provider.receipts_acknowledged().await;
    }
    network.finish().await;
}

#[tokio::test]
async fn what_an_operator_of_a_gateway_is_told_works() {
    let (network, _providers) = network(Setup::new(Books::Postgres).shared()).await;
    let home = tempfile::tempdir().expect("a folder");
    let database = network.database_url();
    let (server, _) = database.rsplit_once('/').expect("a URL with a database");
    let (public, internal) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let replace = json!({
        GATEWAY: network.base,
        "./padi": model("padi"),
        "postgres://lumbung@db/lumbung": database,
        "postgres://lumbung@db/lumbung_restored": format!("{server}/lumbung_restored"),
        "redis://redis:6379": tool("LUMBUNG_TEST_REDIS"),
        "0.0.0.0:8080": public,
        "0.0.0.0:8090": internal,
        "gateway-1.internal:8090": internal,
    });
    let mut command = pages(&OPERATIONS, replace, home.path());
    command.env("DATABASE_URL", database);
    run(command).await;
    network.finish().await;
}

#[tokio::test]
async fn what_a_provider_is_told_works() {
    let network = Setup::new(Books::Sqlite).with_model(MODEL, 2048).start().await;
    let home = tempfile::tempdir().expect("a folder");
    run(pages(&PROVIDERS, json!({GATEWAY: network.base, "./padi": model("padi")}), home.path())).await;
    network.finish().await;
}

/// From nothing to a paid answer.
#[tokio::test]
async fn what_a_new_operator_is_told_works() {
    let home = tempfile::tempdir().expect("a folder");
    let listen = format!("127.0.0.1:{}", free_port());
    run(pages(&["start/operator.md"], json!({"127.0.0.1:8080": listen, "./padi": model("padi")}), home.path())).await;
}
