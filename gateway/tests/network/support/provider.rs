//! Real providers, with a scripted engine or the bundled model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use lumbung_openapi::jws::SigningKey;
use serde_json::Value;

use super::process::{Process, wait_until};
use super::sidecar::Sidecar;
use super::{ASK, MODEL, programs};

/// A provider that is being described.
pub struct ProviderSetup {
    model: String,
    flags: Vec<String>,
    script: Option<Value>,
    folder: Option<tempfile::TempDir>,
    ask: (String, String),
    /// Gateways beside the first.
    gateways: Vec<String>,
    entrance: Vec<String>,
    env: Vec<(String, String)>,
}

/// A running provider.
pub struct Provider {
    pub model: String,
    pub process: Process,
    pub folder: Option<tempfile::TempDir>,
    flags: Vec<String>,
    base: String,
    entrance: Vec<String>,
    env: Vec<(String, String)>,
}

impl ProviderSetup {
    /// Answers from a script, in as many slots as anyone could want.
    pub fn scripted(script: Value) -> Self {
        let flags = ["--engine", "scripted", "--slots", "1024"].map(str::to_owned).into();
        Self {
            model: MODEL.into(),
            flags,
            script: Some(script),
            folder: None,
            ask: ask(),
            gateways: Vec::new(),
            entrance: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Has a server beside it answer, which honours these parameters.
    pub fn sidecar(model: &str, sidecar: &Sidecar, supports: &str) -> Self {
        let flags = ["--engine", "openai", "--upstream", &sidecar.url(), "--upstream-model", "beside", "--slots", "16"];
        let flags = flags.map(str::to_owned).into_iter();
        let more = ["--context-length", "100000", "--upstream-supports", supports].map(str::to_owned);
        Self { model: model.into(), flags: flags.chain(more).collect(), script: None, ..Self::scripted(Value::Null) }
    }

    /// Answers with the bundled model.
    pub fn bundled(model: &str) -> Self {
        Self::embedded(model, "padi")
    }

    /// Makes vectors with the bundled model for that.
    pub fn bundled_vectors(model: &str) -> Self {
        Self::embedded(model, "padi-embed")
    }

    fn embedded(model: &str, name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../provider-runtime/models").join(name);
        let flags = vec!["--engine".into(), "mistral".into(), "--model".into(), folder.display().to_string()];
        Self {
            model: model.into(),
            flags,
            script: None,
            folder: None,
            ask: ask(),
            gateways: Vec::new(),
            entrance: Vec::new(),
            env: Vec::new(),
        }
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// With one more flag.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Serves this model of the catalogue.
    pub fn model(mut self, model: &str) -> Self {
        self.model = model.into();
        self
    }

    /// Asks for so many dollars per million tokens, in and out.
    pub fn ask(mut self, prompt: &str, completion: &str) -> Self {
        self.ask = (prompt.into(), completion.into());
        self
    }

    pub fn slots(mut self, slots: u32) -> Self {
        match self.flags.iter().position(|flag| flag == "--slots") {
            Some(at) => self.flags[at + 1] = slots.to_string(),
            None => self.flags.extend(["--slots".into(), slots.to_string()]),
        }
        self
    }

    /// Trusts this authority (a PEM file), too.
    pub fn trusting(mut self, authority: &Path) -> Self {
        self.flags.extend(["--gateway-ca".into(), authority.display().to_string()]);
        self
    }

    /// Runs where this command lets it in.
    pub fn inside(mut self, entrance: [String; 4]) -> Self {
        self.entrance = entrance.into();
        self
    }

    /// Dials this gateway, too.
    pub fn gateway(mut self, base: &str) -> Self {
        self.gateways.push(base.into());
        self
    }

    /// Keeps so many tunnels.
    pub fn tunnels(mut self, tunnels: u32) -> Self {
        self.flags.extend(["--tunnels".into(), tunnels.to_string()]);
        self
    }

    pub fn start(self, base: &str) -> Provider {
        let folder = self.folder.unwrap_or_else(|| tempfile::tempdir().expect("a temporary folder"));
        let mut flags = self.flags;
        flags.extend(["--model-id".to_owned(), self.model.clone()]);
        flags.extend(["--ask-prompt", &self.ask.0, "--ask-completion", &self.ask.1].map(str::to_owned));
        if let Some(script) = self.script {
            let path = folder.path().join("script.json");
            std::fs::write(&path, script.to_string()).expect("a script is written");
            flags.extend(["--script".to_owned(), path.display().to_string()]);
        }
        let base = &std::iter::once(base.to_owned()).chain(self.gateways).collect::<Vec<_>>().join(",");
        let process = start(&self.entrance, &flags, base, folder.path(), &self.env);
        let (base, entrance, env) = (base.to_owned(), self.entrance, self.env);
        Provider { model: self.model, process, folder: Some(folder), flags, base, entrance, env }
    }
}

impl Provider {
    fn path(&self) -> &Path {
        self.folder.as_ref().expect("a running provider has its folder").path()
    }

    /// What its own status file says.
    pub fn status(&self) -> Value {
        let text = std::fs::read_to_string(self.path().join("status.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Tokens that came out of its engine, by its own counter.
    pub fn generated(&self) -> u64 {
        self.status()["completion_tokens"].as_u64().unwrap_or(0)
    }

    pub async fn connected(&self) {
        wait_until("the provider has a tunnel", Duration::from_secs(60), async || {
            self.status()["connected"].as_array().is_some_and(|replicas| !replicas.is_empty())
        })
        .await;
    }

    pub async fn receipts_acknowledged(&self) {
        wait_until("every receipt is acknowledged", Duration::from_secs(30), async || {
            self.status()["receipts_unacknowledged"] == 0 && self.status()["pid"] == self.process.id()
        })
        .await;
    }

    /// `kill -9`, then a new process with the same identity and journal.
    pub fn restart(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_file(self.path().join("status.json"));
        self.process = start(&self.entrance, &self.flags, &self.base, self.path(), &self.env);
    }

    /// Its key's thumbprint, by which the network knows it.
    pub fn id(&self) -> String {
        SigningKey::from_seed(&self.seed()).public().thumbprint()
    }

    /// Its identity's seed, for tests that act as this provider.
    pub fn seed(&self) -> [u8; 32] {
        let text = std::fs::read_to_string(self.path().join("identity.key")).expect("an identity");
        BASE64_URL_SAFE_NO_PAD.decode(text.trim()).expect("base64url").try_into().expect("a seed of 32 bytes")
    }
}

fn start(entrance: &[String], flags: &[String], base: &str, folder: &Path, env: &[(String, String)]) -> Process {
    let program = programs().join("lumbung-provider");
    let mut command = match entrance.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["--data-dir", &folder.display().to_string()]).arg("serve").args(["--gateway", base]).args(flags);
    command.env("RUST_LOG", "info").envs(env.iter().map(|(name, value)| (name, value)));
    Process::start("provider", command, Some(folder.join("provider.log")))
}

/// What test providers ask where nothing else is said.
fn ask() -> (String, String) {
    (ASK.0.into(), ASK.1.into())
}
