//! A provider process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lumbung-provider");

/// A provider process, killed when dropped.
pub struct Provider {
    child: Child,
    dir: Arc<TempDir>,
}

/// How to start one.
pub struct Start {
    dir: Arc<TempDir>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    program: PathBuf,
    script: Option<String>,
}

/// A provider that answers from this script.
pub fn scripted(gateway: &str, script: &str) -> Start {
    Start::new("scripted", Some(script.to_owned())).with("--gateway", gateway)
}

/// A provider that passes jobs on to a server beside it.
pub fn sidecar(gateway: &str, upstream: &str) -> Start {
    let start = Start::new("openai", None).with("--upstream-model", "upstream-name").with("--context-length", "4096");
    start.with("--upstream", upstream).with("--gateway", gateway)
}

impl Start {
    fn new(engine: &str, script: Option<String>) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self { dir, args: vec!["--engine".into(), engine.into()], env: Vec::new(), program: PROGRAM.into(), script }
    }

    /// With a flag; one without a value where that is empty.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.args.push(name.to_owned());
        self.args.extend(Some(value.to_owned()).filter(|value| !value.is_empty()));
        self
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same program, where it lies there.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// With the data directory of one that ran before.
    pub fn in_the_place_of(mut self, earlier: &Provider) -> Self {
        self.dir = earlier.dir.clone();
        self
    }

    pub fn start(self) -> Provider {
        let data_dir = self.dir.path().join("data");
        let log = fs::OpenOptions::new().append(true).create(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["serve", "--model-id", "test/model"]).args(self.args);
        if let Some(script) = self.script {
            let path = self.dir.path().join("script.json");
            fs::write(&path, script).unwrap();
            command.arg("--script").arg(path);
        }
        let child = command
            .env("LUMBUNG_PROVIDER_DATA_DIR", &data_dir)
            .env("LUMBUNG_PROVIDER_LOG_LEVEL", "info,lumbung_provider=debug")
            .envs(self.env)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Provider { child, dir: self.dir }
    }
}

impl Provider {
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// As by `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the process ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the provider ends", async || self.child.try_wait().unwrap()).await
    }

    pub fn status(&self) -> Option<Value> {
        status_of(&self.data_dir())
    }

    /// Waits until the status says so.
    pub async fn status_when(&self, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || self.status().filter(&check)).await
    }
}

fn status_of(data_dir: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(data_dir.join("status.json")).ok()?).ok()
}

/// What the program prints when it runs on this provider's data directory; not in the way of the test's own gateway.
pub async fn told(provider: &Provider, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("--data-dir").arg(provider.data_dir()).args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// All that it said.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

impl Drop for Provider {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the provider's log ---\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
