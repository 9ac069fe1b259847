//! The document against a linter, and the gateway against the document: whatever is sent, the answer is one of those it names.

use std::process::Command;

use lumbung_gateway::domain::role::Role;

use super::Operator;
use crate::support::{Books, Setup};

/// Seconds that each half of the fuzzing may take, and cases for each endpoint.
fn effort() -> (u32, u32) {
    if std::env::var_os("LUMBUNG_TEST_FULL").is_some() { (600, 200) } else { (60, 12) }
}

fn python() -> String {
    std::env::var("LUMBUNG_TEST_SPEC_PYTHON").expect("LUMBUNG_TEST_SPEC_PYTHON is not set: run through `make test`")
}

async fn run(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn a_linter_finds_no_error_in_the_document() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/openapi.json");
    let mut command = Command::new(python());
    command.args(["-m", "openapi_spec_validator", document]);
    run(command).await;
}

#[tokio::test]
async fn whatever_is_sent_the_answer_is_one_that_the_document_names() {
    let network = Setup::new(Books::Sqlite).start().await;
    let operator = Operator::new(&network, Role::Admin).await;
    let (seconds, cases) = effort();
    let mut command = Command::new(python());
    command.args(["-m", "schemathesis.cli", "run", &format!("{}/openapi.json", network.base)]);
    command.args([
        "--include-path-regex",
        "^/admin/",
        "--header",
        &format!("authorization: Bearer {}", operator.token),
    ]);
    command.args(["--generation-deterministic", "--no-shrink"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", &cases.to_string()]);
    command.args(["--max-time", &seconds.to_string(), "--workers", "1", "--no-color", "--warnings", "off"]);
    // What these check is more than the document promises: that whatever fits it is accepted (a payment is credited once),
    // that a header which it does not name is refused, and that a call without the token, which is set here, is.
    command.args(["--exclude-checks", "positive_data_acceptance,negative_data_rejection,ignored_auth"]);
    command.args(["--continue-on-failure"]).current_dir(network.folder.path());
    run(command).await;
    assert!(!network.gateway.log().contains("panicked"));
    network.check_books().await;
    network.finish().await;
}
