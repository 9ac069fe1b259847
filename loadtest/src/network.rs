//! A network to put under load: a gateway that keeps books, an account in credit, and providers with scripted answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::ask::{Reader, Wording};
use crate::client::{Connection, Target};
use crate::servers::{Server, free_port, get_body, get_status};
use crate::tally::Tally;
use crate::upstream::{ANSWER_TOKENS, MS_PER_TOKEN};

/// The model that is served.
pub const MODEL: &str = "lumbung/scripted";
/// Prompts with this in them get the long answer, at 50 tokens a second.
pub const STORY: &str = "story ";
/// At 20 tokens a second.
pub const NOVEL: &str = "novel ";
/// At 2 tokens a second.
pub const EPIC: &str = "epic ";
/// Credit of the account.
const CREDIT: &str = "100000";
/// Dollars for a million tokens, of prompts and of answers: whole nano-dollars for each.
pub const PRICE: (&str, &str) = ("0.10", "0.40");
/// Accounts that are made at a time.
const ADDED_AT_ONCE: usize = 8;
/// How long a gateway and a provider may take until they are ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the last answers may take to be in the books.
const SETTLED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take until every receipt is offered: as many as a provider keeps at most, a thousand a second.
const RECEIPTS_TIMEOUT: Duration = Duration::from_secs(90);

/// A network that is being described.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Folder of the binaries.
    pub bin: PathBuf,
    /// Providers.
    pub providers: usize,
    /// Jobs at a time, of each.
    pub slots: u32,
    /// The folder of a model that they run; scripted answers if absent.
    pub answering: Option<PathBuf>,
    /// A program that runs the gateway, with its arguments: none, or a profiler.
    pub under: Vec<String>,
    /// How much slower it is under that.
    pub patience: u32,
    /// Where the books are: a database's URL, or a SQLite file if absent.
    pub database: Option<String>,
    /// Redis, through which gateways share the fleet.
    pub redis: Option<String>,
    /// Flags of `lumbung-gateway serve`.
    pub flags: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

/// A running network.
pub struct Network {
    // Dropped, and thereby ended, in this order.
    providers: Vec<Server>,
    /// The gateway.
    pub gateway: Server,
    /// Its port.
    pub port: u16,
    key: String,
    account: String,
    operator: Operator,
    setup: Setup,
}

/// The gateway's command line on the gateway's books.
struct Operator {
    program: PathBuf,
    folder: tempfile::TempDir,
    database: Option<String>,
}

impl Setup {
    /// One provider, books in SQLite, the binaries beside this program.
    pub fn new(bin: Option<&Path>) -> anyhow::Result<Self> {
        let bin = match bin {
            Some(bin) => bin.to_owned(),
            None => std::env::current_exe()?.parent().context("this program lies in no folder")?.to_owned(),
        };
        let (database, redis, answering) = (None, None, None);
        let (under, flags, environment) = (Vec::new(), Vec::new(), Vec::new());
        let (providers, slots, patience) = (1, 4096, 1);
        Ok(Self { bin, providers, slots, answering, under, patience, database, redis, flags, environment })
    }

    /// Starts everything; ready when this returns.
    pub fn start(self) -> anyhow::Result<Network> {
        let folder = tempfile::tempdir()?;
        let operator = Operator { program: self.bin.join("lumbung-gateway"), folder, database: self.database.clone() };
        let (gateway, port) = self.gateway(&operator, "gateway")?;
        let account = operator.json(&["accounts", "create", "load"])?;
        let account = text(&account, "id")?.to_owned();
        operator.json(&["credit", "add", &account, CREDIT])?;
        let key = operator.json(&["keys", "create", &account, "--label", "load"])?;
        let key = text(&key, "secret")?.to_owned();
        let model = ["models", "add", MODEL, "--context-length", "2000000"];
        operator.json(&[&model[..], &["--prompt-price", PRICE.0, "--completion-price", PRICE.1]].concat())?;
        let mut network = Network { providers: Vec::new(), gateway, port, key, account, operator, setup: self };
        for _ in 0..network.setup.providers {
            network.add_provider()?;
        }
        Ok(network)
    }

    fn gateway(&self, operator: &Operator, name: &str) -> anyhow::Result<(Server, u16)> {
        let port = free_port()?;
        let serve = operator.command(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
        let mut command = match self.under.split_first() {
            None => serve,
            Some((profiler, args)) => {
                let mut command = clean(Path::new(profiler));
                command.args(args).arg(serve.get_program()).args(serve.get_args());
                command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
                command
            }
        };
        command.args(&self.flags).envs(self.environment.iter().map(|(name, value)| (name, value)));
        // Everybody here comes from one address.
        command.args(["--joins-per-minute", "1000000", "--newcomer-joins-per-minute", "1000000"]);
        command.args(["--newcomer-tunnels-per-address", "100000", "--newcomer-tunnels-percent", "100"]);
        command.args(["--max-tunnels", "20000"]);
        command.envs(self.redis.as_ref().map(|url| ("REDIS_URL", url)));
        let gateway = Server::start(&mut command, &operator.path(&format!("{name}.log")))?;
        gateway.wait_for(START_TIMEOUT * self.patience, || get_status(port, "/health/ready") == Some(200))?;
        Ok((gateway, port))
    }

    /// Starts a provider of the model, which joins `gateway`. What it keeps is in `folder`, under its name.
    pub fn start_provider(&self, gateway: &str, folder: &Path, name: &str) -> anyhow::Result<Server> {
        let mut serve = clean(&self.bin.join("lumbung-provider"));
        serve.args(["serve", "--gateway", gateway, "--model-id", MODEL]);
        serve.args(["--ask-prompt", PRICE.0, "--ask-completion", PRICE.1, "--slots", &self.slots.to_string()]);
        match &self.answering {
            None => {
                let path = folder.join(format!("{name}.script.json"));
                fs::write(&path, script().to_string())?;
                serve.args(["--engine", "scripted", "--script"]).arg(path)
            }
            Some(model) => serve.args(["--engine", "mistral", "--model"]).arg(model),
        };
        serve.arg("--data-dir").arg(folder.join(name));
        Server::start(&mut serve, &folder.join(format!("{name}.log")))
    }
}

impl Network {
    /// Starts one more provider of the model; ready when this returns.
    pub fn add_provider(&mut self) -> anyhow::Result<()> {
        let name = format!("provider-{}", self.providers.len());
        let provider = self.setup.start_provider(&self.origin(), self.operator.folder.path(), &name)?;
        provider.wait_for(START_TIMEOUT * self.setup.patience, || provider.log().contains("tunnel is up"))?;
        let served = || get_body(self.port, "/v1/models").is_some_and(|body| body.contains(MODEL));
        provider.wait_for(START_TIMEOUT * self.setup.patience, served)?;
        self.providers.push(provider);
        Ok(())
    }

    /// One more gateway on the same books, and its port.
    pub fn add_gateway(&self, name: &str) -> anyhow::Result<(Server, u16)> {
        self.setup.gateway(&self.operator, name)
    }

    /// More accounts, each in credit and with a key; the keys. Made by the API for operators, some at a time.
    pub async fn add_accounts(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let token = self.operator.json(&["admin", "token", "--role", "admin", "--subject", "load"])?;
        let admin = Target::new(&format!("{}/admin/v1", self.origin()), text(&token, "token")?)?;
        let mut adding = JoinSet::new();
        for part in 0..ADDED_AT_ONCE {
            adding.spawn(add_some(admin.clone(), (count + part) / ADDED_AT_ONCE));
        }
        let mut keys = Vec::with_capacity(count);
        while let Some(added) = adding.join_next().await {
            keys.extend(added??);
        }
        Ok(keys)
    }

    /// `http://host:port` of the gateway.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The gateway, as clients see it.
    pub fn target(&self) -> anyhow::Result<Target> {
        Target::new(&format!("{}/v1", self.origin()), &self.key)
    }

    /// The same with another key.
    pub fn target_for(&self, key: &str) -> anyhow::Result<Target> {
        Target::new(&format!("{}/v1", self.origin()), key)
    }

    /// Another gateway on the same books.
    pub fn target_at(&self, port: u16) -> anyhow::Result<Target> {
        Target::new(&format!("http://127.0.0.1:{port}/v1"), &self.key)
    }

    /// Waits until another gateway knows who serves the model.
    pub fn is_served_at(&self, gateway: &Server, port: u16) -> anyhow::Result<()> {
        gateway.wait_for(START_TIMEOUT, || get_body(port, "/v1/models").is_some_and(|body| body.contains(MODEL)))
    }

    /// How many providers there are.
    pub fn provider_count(&self) -> usize {
        self.providers.len()
    }

    /// The first provider.
    pub fn provider(&self) -> anyhow::Result<&Server> {
        self.providers.first().context("there is no provider")
    }

    /// Waits until the gateway has every receipt: what one load has left to be offered must not be in the way of the next.
    pub async fn wait_for_receipts(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for place in 0..self.providers.len() {
            // Written anew a moment after a change.
            tokio::time::sleep(Duration::from_millis(500)).await;
            while self.unacknowledged(place)? > 0 {
                ensure!(begun.elapsed() < RECEIPTS_TIMEOUT, "receipts are still to be offered");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    fn unacknowledged(&self, provider: usize) -> anyhow::Result<u64> {
        let status = fs::read(self.operator.path(&format!("provider-{provider}")).join("status.json"))?;
        let status: Value = serde_json::from_slice(&status)?;
        status["receipts_unacknowledged"].as_u64().with_context(|| format!("no receipts in {status}"))
    }

    /// Requests for the model that is served.
    pub fn wording() -> Wording {
        Wording { stream_cue: STORY.into(), ..Wording::of(MODEL) }
    }

    /// The books must agree with themselves.
    pub fn check_books(&self) -> anyhow::Result<()> {
        let checked = self.operator.command(&["books", "check"]).output()?;
        ensure!(checked.status.success(), "the books do not add up:\n{}", String::from_utf8_lossy(&checked.stdout));
        Ok(())
    }

    /// The books must agree with what the clients saw, to the token and the nano-dollar: with the usage of every whole
    /// answer, and for readers that left with what they can ask for afterwards, which is no less than what they saw.
    pub async fn reconcile(&self, loads: &[&Tally]) -> anyhow::Result<Reconciled> {
        let target = self.target()?;
        let mut seen = Reconciled::default();
        for tally in loads {
            ensure!(tally.failures.is_empty(), "what failed cannot be compared: {:?}", tally.failures);
            seen.requests += tally.whole + tally.left.len() as u64;
            seen.left += tally.left.len() as u64;
            seen.prompt_tokens += tally.used.prompt_tokens;
            seen.completion_tokens += tally.used.completion_tokens;
        }
        let booked = self.settled(seen.requests).await?;
        for (id, tokens) in loads.iter().flat_map(|tally| &tally.left) {
            let answer = target.get(&format!("/generation?id={id}")).await?;
            let number = |name: &str| answer["data"][name].as_u64().with_context(|| format!("no '{name}' in {answer}"));
            let charged = number("tokens_completion")?;
            ensure!(charged >= *tokens, "{id}: {tokens} tokens had come, and {charged} were charged");
            seen.prompt_tokens += number("tokens_prompt")?;
            seen.completion_tokens += charged;
        }
        let price = TokenPrice { prompt: PRICE.0.parse()?, completion: PRICE.1.parse()? };
        let cost = |prompt, completion| price.cost(u32::try_from(prompt).ok()?, u32::try_from(completion).ok()?);
        seen.charge = cost(seen.prompt_tokens, seen.completion_tokens).context("too much for one sum")?;
        ensure!(booked == Reconciled { left: booked.left, ..seen }, "the books say {booked:?}, the clients {seen:?}");
        let balance = target.get("/balance").await?;
        let left: NanoUsd = text(&balance, "spendable_usd")?.parse()?;
        let spent = CREDIT.parse::<NanoUsd>()?.checked_sub(left).context("more than the credit")?;
        ensure!(spent == seen.charge, "{spent} dollars are gone, {} were charged", seen.charge);
        self.check_books()?;
        Ok(seen)
    }

    /// What the books say, once so many requests are in them.
    async fn settled(&self, requests: u64) -> anyhow::Result<Reconciled> {
        let begun = Instant::now();
        loop {
            let lines = self.operator.json(&["usage", "show", "--account", &self.account])?;
            let line = &lines[0];
            let number = |name: &str| line[name].as_u64().unwrap_or(0);
            let booked = Reconciled {
                requests: number("requests"),
                left: 0,
                prompt_tokens: number("prompt_tokens"),
                completion_tokens: number("completion_tokens"),
                charge: line["charge_usd"].as_str().unwrap_or("0").parse()?,
            };
            if booked.requests >= requests {
                return Ok(booked);
            }
            ensure!(
                begun.elapsed() < SETTLED_TIMEOUT,
                "only {} of {requests} requests are in the books",
                booked.requests
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// So many accounts, over one connection.
async fn add_some(admin: Target, count: usize) -> anyhow::Result<Vec<String>> {
    let mut connection = Connection::open(&admin, Reader::Steady).await?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let account = connection.post(&admin, "/accounts", &json!({ "name": "one of many" })).await?;
        let path = format!("/accounts/{}", text(&account, "id")?);
        let credit = json!({ "amount_usd": "10", "kind": "paid" });
        connection.post(&admin, &format!("{path}/credit"), &credit).await?;
        let key = connection.post(&admin, &format!("{path}/keys"), &json!({ "label": "load" })).await?;
        keys.push(text(&key, "key")?.to_owned());
    }
    Ok(keys)
}

/// What clients and books agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Requests that were charged.
    pub requests: u64,
    /// Those among them whose readers left.
    pub left: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of their answers.
    pub completion_tokens: u64,
    /// What they cost.
    pub charge: NanoUsd,
}

/// Long answers a token at a time, and a short one at once.
fn script() -> Value {
    let long = |cue: &str, delay_ms: u32| json!({ "match": cue.trim(), "tokens": ANSWER_TOKENS, "delay_ms_per_token": delay_ms, "prompt_tokens": 12 });
    let short = json!({ "match": "*", "reply": "Here is a word: padi.", "prompt_tokens": 12 });
    let rules = [long(STORY, MS_PER_TOKEN), long(NOVEL, 50), long(EPIC, 500), short];
    json!({ "context_length": 2_000_000, "rules": rules })
}

impl Operator {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(&self.program);
        command.args(args).env("LUMBUNG_DATA_DIR", self.path("gateway"));
        command.envs(self.database.as_ref().map(|url| ("DATABASE_URL", url)));
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
