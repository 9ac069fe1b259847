//! The configuration: a file under the environment under flags, errors that name the key, and the reference.

use std::path::Path;
use std::process::{Command, Output};

use lumbung_gateway::config;

fn gateway(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
    let clean = std::env::vars().filter(|(name, _)| !name.starts_with("LUMBUNG_") && !name.ends_with("_URL"));
    command.args(arguments).current_dir(folder).env_clear().envs(clean).envs(environment.iter().copied());
    command.output().expect("the command runs")
}

/// What `config check` finds in this file.
fn found(folder: &Path, file: &str, more: &[&str], environment: &[(&str, &str)]) -> Result<String, String> {
    std::fs::write(folder.join("gateway.toml"), file).expect("a file");
    let output = gateway(folder, &[&["config", "check", "--config", "gateway.toml"], more].concat(), environment);
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said.into_owned()) } else { Err(wrong.into_owned()) }
}

#[test]
fn what_is_wrong_is_told_with_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let right = "listen = \"0.0.0.0:8080\"\npublic-url = [\"https://a.example\", \"https://b.example\"]\nmax-jobs = 5\n\
        newcomers-need-tokenizer = true\nsecond-usd = \"0.00001\"\nstall-timeout = \"3s\"";
    assert!(found(folder, right, &[], &[]).expect("nothing is wrong").contains("right"));
    for (file, key, why) in [
        ("max-jobs = 0", "max-jobs", "from 1 to"),
        ("max-jobs = 99999999999999999999", "gateway.toml", "line 1"),
        ("max-body = 10", "max-body", "from 1024"),
        ("claim-window-secs = 0", "claim-window-secs", "0 is not in"),
        ("claim-window-secs = 9223372036854775807", "claim-window-secs", "is not in"),
        ("max-tunnels = 9223372036854775807", "max-tunnels", "from 1 to"),
        ("drain-secs = -1", "drain-secs", "invalid digit"),
        ("listen = \"everywhere\"", "listen", "invalid socket address"),
        ("second-usd = 0.5", "second-usd", "in quotes"),
        ("stall-timeout = \"3\"", "stall-timeout", "unit"),
        ("listen = [\"127.0.0.1:1\"]", "listen", "one value"),
        ("max-job = 5", "max-job", "no such setting"),
        ("log = \"xml\"", "log", "invalid value"),
        ("public-url = [\"https://a.example/v1\"]", "--public-url", "no origin"),
        ("redis = \"redis://x\"", "--redis", "Postgres"),
        ("database = \"mysql://x\"", "--database", "postgres://"),
        ("internal-listen = \"127.0.0.1:1\"", "--redis", "required"),
        ("tls-cert = \"a.pem\"", "--tls-key", "required"),
        ("tls-cert = \"a.pem\"\ntls-key = \"b.pem\"", "--tls-cert", "a.pem"),
        ("first-token-floor = \"9s\"\nfirst-token-timeout = \"8s\"", "--first-token-floor", "more than"),
        ("listen = ", "gateway.toml", "line 1"),
    ] {
        let told = found(folder, file, &[], &[]).expect_err(file);
        assert!(told.contains(key) && told.contains(why), "{file}: {told}");
    }
    for (flag, key) in [("--max-jobs=0", "--max-jobs"), ("--max-connections=x", "--max-connections")] {
        let output = gateway(folder, &["serve", flag], &[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(key), "{told}");
    }
    let nowhere = gateway(folder, &["serve", "--config", "nowhere.toml"], &[]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("nowhere.toml"));
}

#[test]
fn a_flag_comes_before_the_environment_before_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let wrong = |origin: &str| format!("https://{origin}/path");
    let told = |by: &str, result: Result<String, String>| {
        let told = result.expect_err("no origin");
        assert!(told.contains(&wrong(by)) && told.matches("no origin").count() == 1, "{by}: {told}");
    };
    let file = format!("public-url = \"{}\"", wrong("file"));
    let environment = wrong("environment");
    let environment = [("LUMBUNG_PUBLIC_URL", environment.as_str())];
    told("file", found(folder, &file, &[], &[]));
    told("environment", found(folder, &file, &[], &environment));
    told("flag", found(folder, &file, &["--public-url", &wrong("flag")], &environment));
    told("flag", found(folder, &file, &[&format!("--public-url={}", wrong("flag"))], &[]));
    // Where the books are, every command wants to know; the rest of the file is for `serve`.
    std::fs::write(folder.join("gateway.toml"), "data-dir = \"there\"\nmax-jobs = 5").expect("a file");
    let made = gateway(folder, &["accounts", "create", "serve"], &[("LUMBUNG_CONFIG", "gateway.toml")]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(folder.join("there/books.db").exists());
}

#[test]
fn the_reference_is_that_of_this_gateway() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFIG.md");
    let reference = config::reference();
    if std::env::var_os("LUMBUNG_WRITE_SPEC").is_some() {
        std::fs::write(&path, &reference).expect("a file");
    }
    let written = std::fs::read_to_string(&path).expect("gateway/CONFIG.md");
    assert!(written == reference, "gateway/CONFIG.md is not that of this gateway: LUMBUNG_WRITE_SPEC=1 writes it");
}

#[test]
fn health_is_asked_without_a_shell() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = crate::support::process::free_port();
    let nobody = gateway(folder.path(), &["health", "--listen", &format!("127.0.0.1:{port}")], &[]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no answer"));
}
