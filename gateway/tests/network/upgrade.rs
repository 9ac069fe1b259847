//! An upgrade as operators do it: the old gateway answers, the new one changes the schema under it and starts beside it, the
//! old one drains. No request fails, and the books are exact.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use lumbung_gateway::store::{Step, Store};
use lumbung_openapi::money::TokenPrice;
use serde_json::json;
use sqlx::Connection;

use crate::support::client::{Client, read};
use crate::support::process::{Process, free_port, wait_until};
use crate::support::provider::ProviderSetup;
use crate::support::proxy::{Kind, Proxy};
use crate::support::redis::OwnRedis;
use crate::support::{ASK, MODEL, fresh_postgres, usd};

const PROMPT: u32 = 7;
const TOKENS: u32 = 12;
/// A stream that begins before the upgrade and ends after the old gateway was told to stop: 12 s.
const LONG: u32 = 600;
const CLIENTS: usize = 6;

/// What a later release could add to the tables that every job writes: the most that a single step may do.
const NEXT: Step = (
    9000,
    "next",
    "ALTER TABLE attempts ADD COLUMN next_note TEXT;
     ALTER TABLE attempts ADD COLUMN next_count BIGINT NOT NULL DEFAULT 0 CHECK (next_count >= 0);
     ALTER TABLE ledger_accounts ADD COLUMN next_note TEXT NOT NULL DEFAULT '';
     ALTER TABLE api_keys ADD COLUMN next_note TEXT;
     ALTER TABLE accounts ADD COLUMN next_note TEXT;
     ALTER TABLE replicas ADD COLUMN next_note TEXT;
     CREATE TABLE next_things (id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id));
     CREATE INDEX next_attempts ON attempts (model, settled_at);",
);

/// Where the gateways of both releases find everything.
struct Servers {
    database: String,
    redis: String,
    public: String,
    folder: tempfile::TempDir,
}

impl Servers {
    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
        command.env("DATABASE_URL", &self.database).env("REDIS_URL", &self.redis).env("RUST_LOG", "info");
        command.env("LUMBUNG_DATA_DIR", self.folder.path());
        command
    }

    /// What the operator's command prints.
    fn operate(&self, program: &PathBuf, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        let output = command.env_remove("REDIS_URL").args(arguments).output().expect("the command runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn serve(&self, program: &PathBuf, address: &str, name: &str) -> Process {
        let mut command = self.command(program);
        command.args(["serve", "--listen", address, "--public-url", &self.public, "--lease-secs", "5"]);
        command.env("LUMBUNG_JOINS_PER_MINUTE", "1000000");
        let process = Process::start("gateway", command, Some(self.folder.path().join(name)));
        let ready = format!("http://{address}/health/ready");
        wait_until(&format!("{name} is ready"), Duration::from_secs(60), async || {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        process
    }
}

/// Asks one question after the other until told to stop; says what failed. Every second answer is streamed.
async fn ask_on(client: Client, stop: Arc<AtomicBool>, answered: Arc<AtomicU32>) -> Vec<String> {
    let mut failed = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let body = Client::body("short", json!({"max_tokens": TOKENS, "stream": number % 2 == 0}));
        let request = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(&client.key);
        let answer = match request.json(&body).send().await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await),
            Err(error) => (0, Err(error)),
        };
        match answer {
            (200, Ok(text)) if number % 2 == 1 || text.ends_with("data: [DONE]\n\n") && !text.contains("\"error\"") => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            other => failed.push(format!("{other:?}")),
        }
    }
    failed
}

/// The gateway of the release before, where there is one to be had: `LUMBUNG_TEST_OLD_GATEWAY` names it.
fn old_program() -> PathBuf {
    std::env::var_os("LUMBUNG_TEST_OLD_GATEWAY")
        .map_or_else(|| env!("CARGO_BIN_EXE_lumbung-gateway").into(), PathBuf::from)
}

#[tokio::test]
async fn an_upgrade_over_a_migration_fails_no_request_and_the_books_are_exact() {
    let (old, new) = (old_program(), PathBuf::from(env!("CARGO_BIN_EXE_lumbung-gateway")));
    let (redis, public) = (OwnRedis::start().await, format!("127.0.0.1:{}", free_port()));
    let servers = Servers {
        database: fresh_postgres().await,
        redis: redis.url(),
        public: format!("http://{public}"),
        folder: tempfile::tempdir().expect("a folder"),
    };
    let model = ["models", "add", MODEL, "--context-length", "100000"];
    servers.operate(&old, &[&model[..], &["--prompt-price", ASK.0, "--completion-price", ASK.1]].concat());
    let account = servers.operate(&old, &["accounts", "create", "someone"]);
    servers.operate(&old, &["credit", "add", &account, "5"]);
    let key = servers.operate(&old, &["keys", "create", &account]);
    let account = account.parse().expect("an account's id");

    let addresses = [0; 2].map(|_| format!("127.0.0.1:{}", free_port()));
    let mut old_gateway = servers.serve(&old, &addresses[0], "old.log").await;
    let proxy = Proxy::start(Kind::Haproxy, &public, &[&addresses[0], &addresses[1]], None).await;
    let script = json!([
        {"match": "short", "tokens": TOKENS, "prompt_tokens": PROMPT, "delay_ms_per_token": 5},
        {"match": "long", "tokens": LONG, "prompt_tokens": PROMPT, "delay_ms_per_token": 20},
    ]);
    let provider = ProviderSetup::scripted(script).start(&proxy.base);
    provider.connected().await;
    let client = || Client::new(proxy.base.clone(), key.clone(), account);
    wait_until("the model is served", Duration::from_secs(20), async || {
        client().get("/v1/models").await.text().await.is_ok_and(|models| models.contains(MODEL))
    })
    .await;

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let asking: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(ask_on(client(), stop.clone(), answered.clone()))).collect();
    let long = client().open("long", json!({"max_tokens": LONG})).await;
    let go_on = async |more: u32| {
        let until = answered.load(Ordering::Relaxed) + more;
        wait_until("answers go on", Duration::from_secs(60), async || answered.load(Ordering::Relaxed) >= until).await;
    };
    go_on(50).await;

    // The first of the new release opens the books while a backup reads every table, as pg_dump does.
    let mut backup = sqlx::PgConnection::connect(&servers.database).await.expect("the books answer");
    let mut reading = backup.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE attempts, accounts IN ACCESS SHARE MODE").execute(&mut *reading).await.expect("locked");
    let database = servers.database.clone();
    let migrating = tokio::spawn(async move { Store::open_with(&database, &[NEXT]).await });
    go_on(50).await;
    assert!(!migrating.is_finished(), "it waits for the backup, and nobody waits for it");
    reading.commit().await.expect("the backup is done");
    let store = migrating.await.expect("no panic").expect("the books open");
    go_on(50).await;

    let mut new_gateway = servers.serve(&new, &addresses[1], "new.log").await;
    go_on(100).await;
    old_gateway.signal("TERM");
    old_gateway.stops(Duration::from_secs(60)).await;
    go_on(100).await;
    let long = read(long).await;
    assert_eq!((long.done, long.error, long.usage.map(|usage| usage.completion_tokens)), (true, None, Some(LONG)));
    stop.store(true, Ordering::Relaxed);
    let mut failed = Vec::new();
    for asking in asking {
        failed.extend(asking.await.expect("a client does not panic"));
    }
    let answered = answered.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "{} of {} requests failed: {failed:#?}", failed.len(), answered as usize + failed.len());
    println!("{answered} requests and a stream over the upgrade, none failed");

    provider.receipts_acknowledged().await;
    new_gateway.signal("TERM");
    new_gateway.stops(Duration::from_secs(60)).await;
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    let one = price.cost(PROMPT, TOKENS).expect("a small cost").nanos();
    let charged = i64::from(answered) * one + price.cost(PROMPT, LONG).expect("a small cost").nanos();
    let left = store.account_balance(&account).await.expect("a balance");
    assert_eq!(left.spendable.nanos(), usd("5").nanos() - charged, "{answered} answers");
    assert_eq!(left.allowances, usd("0"), "what was set aside has gone back");
    let report = store.books_check().await.expect("the books can be read");
    assert!(report.is_right(), "{report:?}");
    servers.operate(&new, &["books", "check"]);
}
