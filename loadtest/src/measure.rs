//! What a request costs the gateway: a gateway on a SQLite file, a provider with scripted answers, two loads of fixed
//! shape. Where nginx is installed, it is measured in front of a trivial upstream right after, because microseconds of
//! different machines cannot be compared, and ratios can.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::Target;
use crate::load::{self, Plan};
use crate::process;
use crate::report::{Memory, Report};
use crate::upstream::{ANSWER_TOKENS, MS_PER_TOKEN};

const MODEL: &str = "lumbung/scripted";
/// How long a program may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may be busy with what a load left behind.
const QUIET_TIMEOUT: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct MeasureArgs {
    /// How long each load counts.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Connections of the load that is not streamed.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Its requests per second: fewer than SQLite settles, because a queue that fills answers 503.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Streams at once.
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Figures {
    binary_mib: f64,
    idle: Memory,
    gateway: Pair,
    #[serde(skip_serializing_if = "Option::is_none")]
    nginx: Option<Pair>,
}

/// Both loads on one server.
#[derive(Debug, Serialize)]
struct Pair {
    completion: Report,
    stream: Report,
}

/// Measures and prints.
pub async fn run(args: &MeasureArgs) -> anyhow::Result<()> {
    let bin = match &args.bin {
        Some(bin) => bin.clone(),
        None => std::env::current_exe()?.parent().context("this program lies in no folder")?.to_owned(),
    };
    let network = Network::start(&bin)?;
    let idle = Memory::of(&process::used_by(network.gateway.pid())?);
    let gateway = both(args, &network.base_url, &network.key, network.gateway.pid()).await?;
    network.check_books()?;
    drop(network);

    let nginx = match Nginx::start()? {
        Some(nginx) => Some(both(args, &nginx.base_url, "none", nginx.server.pid()).await?),
        None => None,
    };
    let binary_mib = fs::metadata(bin.join("lumbung-gateway"))?.len() as f64 / f64::from(1 << 20);
    let figures = Figures { binary_mib, idle, gateway, nginx };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&figures)?),
        false => figures.print(),
    }
    Ok(())
}

async fn both(args: &MeasureArgs, base_url: &str, key: &str, pid: u32) -> anyhow::Result<Pair> {
    let load = async |connections: usize, stream: bool| {
        let mut request = json!({
            "model": MODEL,
            "messages": [{ "role": "user", "content": if stream { "Tell me a long story." } else { "A word, please." } }],
        });
        if stream {
            request["stream"] = json!(true);
            request["stream_options"] = json!({ "include_usage": true });
        }
        let plan = Plan {
            target: Target::new(base_url, key, &request)?,
            connections,
            rate: (!stream).then_some(args.rate),
            warm_up: Duration::from_secs(2),
            length: Duration::try_from_secs_f64(args.seconds)?,
            pid: Some(pid),
        };
        let report = load::run(plan).await?;
        ensure!(report.is_clean(), "not every answer was whole:\n{report}");
        Ok(report)
    };
    let stream = load(args.streams, true).await?;
    wait_until_quiet(pid).await?;
    Ok(Pair { completion: load(args.connections, false).await?, stream })
}

/// What the last load left behind must not be charged to the next.
async fn wait_until_quiet(pid: u32) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut before = process::used_by(pid)?.cpu;
    while begun.elapsed() < QUIET_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = process::used_by(pid)?.cpu;
        if now.saturating_sub(before) <= Duration::from_millis(10) {
            return Ok(());
        }
        before = now;
    }
    bail!("the server is still busy {} seconds after the load", QUIET_TIMEOUT.as_secs());
}

impl Figures {
    fn print(&self) {
        println!("gateway, not streamed: {}", self.gateway.completion);
        println!("gateway, streamed: {}", self.gateway.stream);
        if let Some(nginx) = &self.nginx {
            println!("nginx, not streamed: {}", nginx.completion);
            println!("nginx, streamed: {}", nginx.stream);
        }
        println!(
            "CPU of the gateway per request, not streamed  {}",
            self.row(|pair| Some(pair.completion.cpu?.us_per_request))
        );
        println!("CPU of the gateway per streamed chunk         {}", self.row(|pair| pair.stream.cpu?.us_per_chunk));
        let peak = self.gateway.stream.memory.map_or(0.0, |memory| memory.peak_rss_mib);
        println!(
            "memory of the gateway                         {:.1} MiB idle, {peak:.1} MiB at most",
            self.idle.rss_mib
        );
        println!("binary of the gateway                         {:.1} MiB", self.binary_mib);
    }

    fn row(&self, figure: impl Fn(&Pair) -> Option<f64>) -> String {
        let ours = figure(&self.gateway).unwrap_or(f64::NAN);
        match self.nginx.as_ref().and_then(figure) {
            Some(theirs) => format!("{ours:.1} µs ({:.2} × nginx, {theirs:.1} µs)", ours / theirs),
            None => format!("{ours:.1} µs"),
        }
    }
}

/// A gateway with an account in credit, and a provider that serves it.
struct Network {
    // Dropped, and thereby ended, in this order.
    _provider: Server,
    gateway: Server,
    base_url: String,
    key: String,
    operator: Operator,
}

/// The gateway's command line on the gateway's books.
struct Operator {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Network {
    fn start(bin: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let operator = Operator { program: bin.join("lumbung-gateway"), folder };
        let mut serve = operator.command(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
        let gateway = Server::start(&mut serve, &operator.path("gateway.log"))?;
        gateway.wait_for(|| get_status(port, "/health/ready") == Some(200))?;

        let account = operator.json(&["accounts", "create", "load"])?;
        let account = text(&account, "id")?;
        operator.json(&["credit", "add", account, "1000"])?;
        let key = operator.json(&["keys", "create", account, "--label", "load"])?;
        operator.json(&[
            "models",
            "add",
            MODEL,
            "--context-length",
            "8192",
            "--prompt-price",
            "0.10",
            "--completion-price",
            "0.40",
        ])?;

        let script = operator.path("script.json");
        fs::write(&script, script_json().to_string())?;
        let mut serve = clean(&bin.join("lumbung-provider"));
        serve.args(["serve", "--gateway", &url, "--engine", "scripted", "--model-id", MODEL, "--slots", "1024"]);
        serve.arg("--script").arg(&script).arg("--data-dir").arg(operator.path("provider"));
        let provider = Server::start(&mut serve, &operator.path("provider.log"))?;
        provider.wait_for(|| get_body(port, "/v1/models").is_some_and(|body| body.contains(MODEL)))?;

        let key = text(&key, "secret")?.to_owned();
        Ok(Self { _provider: provider, gateway, base_url: format!("{url}/v1"), key, operator })
    }

    fn check_books(&self) -> anyhow::Result<()> {
        let checked = self.operator.command(&["books", "check"]).output()?;
        ensure!(checked.status.success(), "the books do not add up:\n{}", String::from_utf8_lossy(&checked.stdout));
        Ok(())
    }
}

/// A short answer at once, and a long one a token at a time.
fn script_json() -> Value {
    json!([
        { "match": "story", "tokens": ANSWER_TOKENS, "delay_ms_per_token": MS_PER_TOKEN, "prompt_tokens": 12 },
        { "match": "*", "reply": "Here is a word: padi.", "prompt_tokens": 12 },
    ])
}

impl Operator {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(&self.program);
        command.args(args).env("LUMBUNG_DATA_DIR", self.path("gateway"));
        command
    }

    fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.command(args).arg("--json").stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "lumbung-gateway {} failed", args.join(" "));
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("lumbung-gateway {} printed no JSON", args.join(" ")))
    }
}

/// Without what the environment may say to a gateway or a provider.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let ours = name.to_string_lossy().starts_with("LUMBUNG_");
        if ours || ["DATABASE_URL", "REDIS_URL", "RUST_LOG"].iter().any(|other| name == *other) {
            command.env_remove(name);
        }
    }
    command
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name].as_str().with_context(|| format!("no '{name}' in {value}"))
}

/// nginx in front of [`crate::upstream`], which answers as the provider does and costs nginx no more than it must.
struct Nginx {
    // Dropped, and thereby ended, in this order.
    server: Server,
    _upstream: Server,
    base_url: String,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// `None` where nginx is not installed.
    fn start() -> anyhow::Result<Option<Self>> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let (port, upstream_port) = (free_port()?, free_port()?);
        let mut upstream = Command::new(std::env::current_exe()?);
        upstream.args(["upstream", "--listen", &format!("127.0.0.1:{upstream_port}")]);
        let upstream = Server::start(&mut upstream, &folder.path().join("upstream.log"))?;
        upstream.wait_for(|| get_status(upstream_port, "/").is_some())?;

        let config = folder.path().join("nginx.conf");
        fs::write(&config, nginx_config(port, upstream_port))?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&config).args(["-e", "stderr"]);
        let server = Server::start(&mut nginx, &folder.path().join("nginx.log"))?;
        server.wait_for(|| get_status(port, "/").is_some())?;
        let base_url = format!("http://127.0.0.1:{port}/v1");
        Ok(Some(Self { server, _upstream: upstream, base_url, _folder: folder }))
    }
}

fn nginx_config(port: u16, upstream_port: u16) -> String {
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log access.log;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  keepalive_requests 100000000;
  upstream model {{ server 127.0.0.1:{upstream_port}; keepalive 512; keepalive_requests 100000000; }}
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

/// A program that ends when this is dropped.
struct Server {
    child: std::cell::RefCell<Child>,
    log: PathBuf,
}

impl Server {
    fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("cannot start {:?}; is it built?", command.get_program()))?;
        Ok(Self { child: child.into(), log: log.to_owned() })
    }

    fn pid(&self) -> u32 {
        self.child.borrow().id()
    }

    fn wait_for(&self, is_ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !is_ready() {
            let ended = self.child.borrow_mut().try_wait()?;
            if ended.is_some() || begun.elapsed() > START_TIMEOUT {
                bail!("it did not start:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Both may fail only if it has ended already.
        child.kill().ok();
        child.wait().ok();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn get_status(port: u16, path: &str) -> Option<u16> {
    let answer = get(port, path)?;
    answer.split_whitespace().nth(1)?.parse().ok()
}

fn get_body(port: u16, path: &str) -> Option<String> {
    Some(get(port, path)?.split_once("\r\n\r\n")?.1.to_owned())
}

/// A whole answer, head included.
fn get(port: u16, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
