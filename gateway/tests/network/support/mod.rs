//! A whole network on this machine: a real gateway, real providers, a real database; started, killed and checked by tests.

pub mod client;
pub mod collector;
pub mod crowd;
pub mod everything;
pub mod image;
pub mod load;
pub mod namespace;
pub mod postgres;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod reckoning;
pub mod redis;
pub mod sidecar;
pub mod silence;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use lumbung_gateway::domain::catalogue::CatalogueModel;
use lumbung_gateway::domain::ids::AccountId;
use lumbung_gateway::store::{CreditKind, Store};
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use serde_json::Value;
use sqlx::Connection;

use client::Client;
use process::{Process, free_port, wait_until};
use provider::{Provider, ProviderSetup};

/// The model that scripted providers serve.
pub const MODEL: &str = "lumbung/scripted";
/// The catalogue's cap on asks, which is also what the test providers ask.
pub const ASK: (&str, &str) = ("0.50", "2");

/// Which database keeps the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Books {
    Sqlite,
    Postgres,
}

/// A network that is being described.
pub struct Setup {
    books: Books,
    database_url: Option<String>,
    redis: Option<String>,
    models: Vec<(String, u32)>,
    gateway_flags: Vec<String>,
    gateway_env: Vec<(String, String)>,
    in_files: bool,
    scheme: &'static str,
}

/// A running network. [`Network::finish`] must be called: it checks the books.
pub struct Network {
    pub store: Store,
    pub gateway: Process,
    pub base: String,
    pub folder: tempfile::TempDir,
    run: Run,
    finished: bool,
}

/// How this network's gateways are run.
#[derive(Clone)]
struct Run {
    database_url: Option<String>,
    redis_url: Option<String>,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    in_files: bool,
}

/// One more gateway on the same books. [`Replica::stop`] it before the network is finished.
pub struct Replica {
    pub process: Process,
    pub base: String,
    folder: tempfile::TempDir,
}

impl Replica {
    /// Ends it in good order.
    pub async fn stop(mut self) {
        self.process.signal("TERM");
        self.process.stops(Duration::from_secs(40)).await;
    }
}

pub fn usd(text: &str) -> NanoUsd {
    text.parse().expect("an amount of dollars")
}

impl Setup {
    pub fn new(books: Books) -> Self {
        Self {
            books,
            database_url: None,
            redis: None,
            models: vec![(MODEL.into(), 100_000)],
            gateway_flags: Vec::new(),
            gateway_env: Vec::new(),
            in_files: false,
            scheme: "http",
        }
    }

    /// Has the gateway end TLS itself, with these files.
    pub fn with_tls(mut self, certificate: &Path, key: &Path) -> Self {
        self.scheme = "https";
        self.with_gateway_flag("--tls-cert", &certificate.display().to_string())
            .with_gateway_flag("--tls-key", &key.display().to_string())
    }

    pub fn with_model(mut self, id: &str, context_length: u32) -> Self {
        self.models.push((id.into(), context_length));
        self
    }

    pub fn with_gateway_flag(mut self, flag: &str, value: &str) -> Self {
        match self.gateway_flags.iter().position(|given| given == flag) {
            Some(at) => self.gateway_flags[at + 1] = value.to_owned(),
            None => self.gateway_flags.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }

    /// With a variable of the environment.
    pub fn with_gateway_env(mut self, name: &str, value: &str) -> Self {
        self.gateway_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Does not tell gateways where database and Redis are: flags name files that do.
    pub fn told_by_files(mut self) -> Self {
        self.in_files = true;
        self
    }

    /// Keeps the books on this server.
    pub fn on(url: String) -> Self {
        Self { database_url: Some(url), ..Self::new(Books::Postgres) }
    }

    /// Lets several gateways share the books: [`Network::another_gateway`].
    pub fn shared(mut self) -> Self {
        self.redis = Some(std::env::var("LUMBUNG_TEST_REDIS").expect("LUMBUNG_TEST_REDIS: run through `make test`"));
        self
    }

    /// The same, over this Redis.
    pub fn shared_over(mut self, url: String) -> Self {
        self.redis = Some(url);
        self
    }

    pub async fn start(self) -> Network {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database_url = match (self.books, self.database_url) {
            (Books::Sqlite, _) => None,
            (Books::Postgres, Some(url)) => Some(url),
            (Books::Postgres, None) => Some(fresh_postgres().await),
        };
        let url =
            database_url.clone().unwrap_or_else(|| format!("sqlite:{}", folder.path().join("books.db").display()));
        let store = Store::open(&url).await.expect("the books open");
        for (id, context_length) in &self.models {
            store.upsert_model(&catalogue_model(id, *context_length)).await.expect("the catalogue takes a model");
        }
        let base = format!("{}://127.0.0.1:{}", self.scheme, free_port());
        let (flags, env, in_files) = (self.gateway_flags, self.gateway_env, self.in_files);
        let run = Run { database_url, redis_url: self.redis, flags, env, in_files };
        let gateway = run.gateway(&base, folder.path());
        let network = Network { store, gateway, base, folder, run, finished: false };
        network.ready().await;
        network
    }
}

impl Network {
    /// Starts another gateway, which shares the books with the first; ready when this returns.
    pub async fn another_gateway(&self) -> Replica {
        self.another_gateway_with(&[]).await
    }

    /// The same, with other values for flags that the first one has.
    pub async fn another_gateway_with(&self, flags: &[(&str, &str)]) -> Replica {
        let (folder, base) = (tempfile::tempdir().expect("a folder"), format!("http://127.0.0.1:{}", free_port()));
        let process = self.run.with(flags).gateway(&base, folder.path());
        is_ready(&base).await;
        Replica { process, base, folder }
    }

    /// A provider of the scripted model; ready when this returns.
    pub async fn scripted(&self, script: Value) -> Provider {
        self.provider(ProviderSetup::scripted(script)).await
    }

    pub async fn provider(&self, setup: ProviderSetup) -> Provider {
        self.provider_at(&self.base, setup).await
    }

    /// A provider that joins another gateway than the first.
    pub async fn provider_at(&self, base: &str, setup: ProviderSetup) -> Provider {
        let provider = setup.start(base);
        provider.connected().await;
        self.serves_at(base, &provider.model).await;
        provider
    }

    /// The Postgres database that keeps the books.
    pub fn database_url(&self) -> &str {
        self.run.database_url.as_deref().expect("books in Postgres")
    }

    /// Where the books are kept, whichever database that is.
    pub fn books_url(&self) -> String {
        let here = || format!("sqlite:{}", self.folder.path().join("books.db").display());
        self.run.database_url.clone().unwrap_or_else(here)
    }

    /// Waits until someone serves this model.
    pub async fn serves(&self, model: &str) {
        self.serves_at(&self.base, model).await;
    }

    pub async fn serves_at(&self, base: &str, model: &str) {
        let url = format!("{base}/v1/models");
        wait_until(&format!("{model} is served"), Duration::from_secs(20), async || {
            let Ok(response) = get(&url).await else { return false };
            let Ok(list) = response.json::<Value>().await else { return false };
            list["data"].as_array().is_some_and(|models| models.iter().any(|m| m["id"] == model))
        })
        .await;
    }

    /// A client with a fresh account of so many dollars.
    pub async fn client(&self, dollars: &str) -> Client {
        let account = self.store.create_account("test").await.expect("an account").id;
        let credit = usd(dollars);
        if credit > NanoUsd::ZERO {
            self.store
                .add_credit(&account, credit, CreditKind::Paid, &format!("payment of {account}"))
                .await
                .expect("credit");
        }
        let (_, secret) = self.store.create_key(&account, "test").await.expect("a key");
        Client::new(self.base.clone(), secret, account)
    }

    /// What an account has left.
    pub async fn balance(&self, account: &AccountId) -> NanoUsd {
        self.store.account_balance(account).await.expect("a balance").spendable
    }

    /// Waits until something has been charged; what is left then.
    pub async fn charged(&self, account: &AccountId, before: NanoUsd) -> NanoUsd {
        wait_until("the account is charged", Duration::from_secs(10), async || self.balance(account).await < before)
            .await;
        self.balance(account).await
    }

    /// Waits until an account has so much left: settlements take a moment.
    pub async fn balance_becomes(&self, account: &AccountId, expected: NanoUsd) {
        let reached = async || self.balance(account).await == expected;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !reached().await {
            let now = self.balance(account).await;
            assert!(tokio::time::Instant::now() < deadline, "the balance is {now}, not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn ready(&self) {
        is_ready(&self.base).await;
    }

    /// Kills the gateway as a power cut would.
    pub fn kill_gateway(&mut self) {
        self.gateway.kill();
    }

    /// Starts it again, on the same port and the same books.
    pub async fn restart_gateway(&mut self) {
        self.start_gateway_again();
        self.ready().await;
    }

    /// The same, without waiting for it.
    pub fn start_gateway_again(&mut self) {
        self.gateway = self.run.gateway(&self.base, self.folder.path());
    }

    /// Starts another gateway again, on the same port and the same books.
    pub fn start_again(&self, replica: &mut Replica) {
        replica.process = self.run.gateway(&replica.base, replica.folder.path());
    }

    /// Recomputes every balance from the entries; panics with the differences.
    pub async fn check_books(&self) {
        let report = self.store.books_check().await.expect("the books can be read");
        assert!(report.is_right(), "the books do not agree: {report:?}");
    }

    /// Ends the test: the books must agree, while the gateway runs and after it has stopped.
    pub async fn finish(mut self) {
        self.finished = true;
        self.check_books().await;
        self.gateway.signal("TERM");
        self.gateway.stops(Duration::from_secs(40)).await;
        self.check_books().await;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            panic!("a test must end with Network::finish, which checks the books");
        }
    }
}

impl Run {
    fn with(&self, flags: &[(&str, &str)]) -> Self {
        let mut run = self.clone();
        for (flag, value) in flags {
            let at = run.flags.iter().position(|given| given == flag);
            let at = at.unwrap_or_else(|| panic!("the first gateway has no {flag}"));
            run.flags[at + 1] = (*value).to_owned();
        }
        run
    }

    fn gateway(&self, base: &str, folder: &Path) -> Process {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
        command.arg("serve").args(["--listen", base.split_once("//").expect("a URL").1]).args(&self.flags);
        command
            .env_remove("DATABASE_URL")
            .env_remove("REDIS_URL")
            .env("LUMBUNG_DATA_DIR", folder)
            .env("LUMBUNG_LEASE_SECS", "5")
            // Everybody here comes from one address.
            .env("LUMBUNG_JOINS_PER_MINUTE", "1000000")
            .env("LUMBUNG_WRONG_KEYS_PER_MINUTE", "1000000")
            // Nobody here asks for a gateway's health before going there.
            .env("LUMBUNG_DRAIN_NOTICE_SECS", "0");
        command.env("RUST_LOG", std::env::var("LUMBUNG_TEST_LOG").unwrap_or_else(|_| "info".into()));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let servers = [("DATABASE_URL", &self.database_url), ("REDIS_URL", &self.redis_url)];
        if !self.in_files {
            command.envs(servers.into_iter().filter_map(|(name, url)| Some((name, url.as_deref()?))));
        }
        Process::start("gateway", command, Some(folder.join("gateway.log")))
    }
}

async fn is_ready(base: &str) {
    let url = format!("{base}/health/ready");
    wait_until("the gateway is ready", Duration::from_secs(30), async || {
        get(&url).await.is_ok_and(|response| response.status() == 200)
    })
    .await;
}

/// Whoever answers there: whose certificate it is, these questions leave to others.
async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
    reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build()?.get(url).send().await
}

fn catalogue_model(id: &str, context_length: u32) -> CatalogueModel {
    CatalogueModel {
        id: id.parse().expect("a model id"),
        aliases: Vec::new(),
        digests: Vec::new(),
        context_length,
        max_completion_tokens: None,
        input_modalities: Default::default(),
        output_modalities: Default::default(),
        tokenizer: None,
        reference: TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) },
        created_at_us: 1_700_000_000_000_000,
    }
}

/// A database of its own on the server that `make test` has started.
pub async fn fresh_postgres() -> String {
    let server =
        std::env::var("LUMBUNG_TEST_POSTGRES").expect("LUMBUNG_TEST_POSTGRES is not set: run through `make test`");
    let name = format!("net_{}", ulid::Ulid::generate().to_string().to_lowercase());
    let mut connection = sqlx::PgConnection::connect(&server).await.expect("the test server answers");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .expect("a database");
    let (server, _) = server.rsplit_once('/').expect("a URL with a database");
    format!("{server}/{name}")
}

/// The folder of the programs under test.
pub fn programs() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| PathBuf::from(env!("CARGO_BIN_EXE_lumbung-gateway")).parent().expect("a folder").to_owned())
        .clone()
}
