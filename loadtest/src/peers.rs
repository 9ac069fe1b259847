//! Other gateways and proxies, each in front of [`crate::upstream`]: what they are called, how they are started, and how
//! much they can be asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;

use crate::client::Target;
use crate::network::MODEL;
use crate::servers::{Server, free_port, get_status};

/// Where what was installed from PyPI is: a virtual environment for each, as `scripts/peers` makes them.
const FOLDER: &str = ".cache/lumbung/peers";
/// What peers that want a key are given: of a length that they find good enough. It guards nothing.
const KEY: &str = "sk-5ef1c7a09b3d42e8a6d1f0937b8c2e4d91a7306fbe58d24c";
/// A Python program may take its time.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Peer {
    /// The floor: a proxy that knows nothing of what it passes on.
    Nginx,
    /// Another such proxy.
    Haproxy,
    /// vLLM's router.
    VllmRouter,
    /// SGLang's model gateway.
    SglangRouter,
    /// LiteLLM's proxy.
    Litellm,
}

/// A peer that runs.
pub struct Running {
    /// Its process.
    pub server: Server,
    /// Where it is asked.
    pub target: Target,
    _folder: tempfile::TempDir,
}

/// What all peers, and clients for comparison, ask in the end.
pub struct Upstream {
    /// Where it is asked directly.
    pub target: Target,
    port: u16,
    _server: Server,
    _folder: tempfile::TempDir,
}

impl Upstream {
    /// Starts it: a `lumbung-loadtest`.
    pub fn start(program: &Path) -> anyhow::Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let mut command = Command::new(program);
        command.args(["upstream", "--listen", &format!("127.0.0.1:{port}")]);
        let server = Server::start(&mut command, &folder.path().join("upstream.log"))?;
        server.wait_for(START_TIMEOUT, || get_status(port, "/health").is_some())?;
        let target = Target::new(&format!("http://127.0.0.1:{port}/v1"), "none")?;
        Ok(Self { target, port, _server: server, _folder: folder })
    }

    /// What has a gateway send its traces here, of those requests whose callers want it.
    pub fn as_collector(&self) -> Vec<(&'static str, String)> {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", self.port));
        let only = ("OTEL_METRICS_EXPORTER", "none".to_owned());
        vec![endpoint, only, ("OTEL_TRACES_SAMPLER", "parentbased_always_off".to_owned())]
    }
}

impl Peer {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::VllmRouter => "vllm-router",
            Self::SglangRouter => "sglang-router",
            Self::Litellm => "LiteLLM",
        }
    }

    /// What it stands for in figures: a hundredth of the load is all that some can take on a small machine.
    pub fn share(self) -> f64 {
        if self == Self::Litellm { 0.01 } else { 1.0 }
    }

    /// Its program; `None` where it is not installed.
    fn program(self) -> Option<PathBuf> {
        let installed = |name: &str| {
            let home = std::env::var_os("HOME").map(PathBuf::from)?;
            let cache = std::env::var_os("LUMBUNG_CACHE").map(|cache| PathBuf::from(cache).join("peers"));
            let folder = cache.unwrap_or_else(|| home.join(FOLDER));
            Some(folder.join(name).join("bin").join(name)).filter(|program| program.exists())
        };
        let from_debian = |name: &str| {
            let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
            folders.iter().map(|folder| Path::new(folder).join(name)).find(|program| program.exists())
        };
        match self {
            Self::Nginx => from_debian("nginx"),
            Self::Haproxy => from_debian("haproxy"),
            Self::VllmRouter => installed("vllm-router"),
            Self::SglangRouter => installed("sglang-router"),
            Self::Litellm => installed("litellm"),
        }
    }

    /// The version that is installed, as it says itself or as pip does.
    pub fn version(self) -> Option<String> {
        let program = self.program()?;
        let mut command = match self {
            Self::Nginx | Self::Haproxy => {
                let mut command = Command::new(&program);
                command.arg("-v");
                command
            }
            Self::VllmRouter | Self::SglangRouter | Self::Litellm => {
                let mut command = Command::new(program.with_file_name("pip"));
                command.args(["show", self.name()]);
                command
            }
        };
        let output = command.stdin(Stdio::null()).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let version = said.split(|c: char| !(c.is_ascii_digit() || c == '.'));
        version.map(|part| part.trim_matches('.')).find(|part| part.contains('.')).map(str::to_owned)
    }

    /// Starts it in front of the upstream; `None` where it is not installed.
    pub fn start(self, upstream: &Upstream) -> anyhow::Result<Option<Running>> {
        let Some(program) = self.program() else { return Ok(None) };
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let worker = format!("http://127.0.0.1:{}", upstream.port);
        let mut command = Command::new(program);
        command.current_dir(folder.path());
        let config = folder.path().join("config");
        match self {
            Self::Nginx => {
                fs::write(&config, nginx_config(port, upstream.port))?;
                command.arg("-p").arg(folder.path()).arg("-c").arg(&config).args(["-e", "stderr"]);
            }
            Self::Haproxy => {
                fs::write(&config, haproxy_config(port, upstream.port))?;
                command.arg("-db").arg("-f").arg(&config);
            }
            Self::VllmRouter | Self::SglangRouter => {
                if self == Self::SglangRouter {
                    command.arg("launch");
                }
                command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--worker-urls", &worker]);
                command.args(["--policy", "round_robin", "--log-level", "error"]);
                command.args(["--prometheus-port", &free_port()?.to_string()]);
            }
            Self::Litellm => {
                fs::write(&config, litellm_config(&worker))?;
                command.arg("--config").arg(&config).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
                command.env("LITELLM_LOG", "ERROR").env("LITELLM_MODE", "PRODUCTION").env("LITELLM_MASTER_KEY", KEY);
                // What its own `--help` recommends against asking the network for prices.
                command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
            }
        }
        let server = Server::start(&mut command, &folder.path().join("log"))?;
        let health = if self == Self::Litellm { "/health/liveliness" } else { "/v1/models" };
        server
            .wait_for(START_TIMEOUT, || get_status(port, health) == Some(200))
            .with_context(|| format!("{} does not start", self.name()))?;
        let target = Target::new(&format!("http://127.0.0.1:{port}/v1"), KEY)?;
        Ok(Some(Running { server, target, _folder: folder }))
    }
}

fn nginx_config(port: u16, upstream: u16) -> String {
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{ worker_connections 8192; }}
http {{
  access_log access.log;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  keepalive_requests 100000000;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
    }}
  }}
}}
"
    )
}

fn haproxy_config(port: u16, upstream: u16) -> String {
    format!(
        "global
  maxconn 8192
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend model
backend model
  server one 127.0.0.1:{upstream}
"
    )
}

fn litellm_config(upstream: &str) -> String {
    format!(
        "model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: {upstream}/v1
      api_key: none
litellm_settings:
  telemetry: false
"
    )
}
