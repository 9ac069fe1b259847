//! Passwords of the database and of Redis, and the network's own keys, are exchanged while gateways answer: no request fails.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::Connection;

use crate::support::client::Client;
use crate::support::postgres::OwnPostgres;
use crate::support::process::{Process, free_port, wait_until};
use crate::support::reckoning::number;
use crate::support::redis::OwnRedis;
use crate::support::{Network, Setup};

const TAKEN_UP: &str = "new connections go by it";
const NOT_YET: &str = "cannot be used yet: the old one stays";

/// Replaces a file as whoever rotates would: all at once.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file");
    std::fs::rename(&beside, path).expect("the new file");
}

async fn logs(gateways: &[&Process], what: &str, times: usize) {
    wait_until(&format!("'{what}' in each log"), Duration::from_secs(30), async || {
        gateways.iter().all(|gateway| gateway.log().matches(what).count() >= times)
    })
    .await;
}

/// Customers who ask until told to stop; what failed.
fn crowd(clients: Vec<Client>, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<Vec<String>>> {
    let ask = async |client: Client, stop: Arc<AtomicBool>| {
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let answer = client.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await;
            if answer.status() != 200 {
                failed.push(format!("{} {:?}", answer.status(), answer.text().await));
            }
        }
        failed
    };
    clients.into_iter().map(|client| tokio::spawn(ask(client, stop.clone()))).collect()
}

fn redis_cli(port: u16, password: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["--no-auth-warning", "-p", &port.to_string(), "-a", password]).args(arguments);
    let output = command.output().expect("redis-cli runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("ERR") && !text.contains("NOAUTH"), "{arguments:?}: {text}");
    text
}

async fn network(server: &OwnPostgres, redis: &str, folder: &Path, database: &str) -> Network {
    let (database_file, redis_file) = (folder.join("database-url"), folder.join("redis-url"));
    replace(&database_file, database);
    replace(&redis_file, redis);
    let setup = Setup::on(server.url()).shared_over(redis.to_owned()).told_by_files();
    let setup = setup.with_gateway_flag("--database-file", &database_file.display().to_string());
    setup.with_gateway_flag("--redis-file", &redis_file.display().to_string()).start().await
}

#[tokio::test]
async fn passwords_of_database_and_redis_are_exchanged_without_a_failed_request() {
    let (server, port) = (OwnPostgres::start().await, free_port());
    server.run("CREATE ROLE lumbung LOGIN SUPERUSER PASSWORD 'first'").await;
    server.with_passwords().await;
    let _redis = OwnRedis::start_with(port, &["--requirepass", "first"]).await;
    let database = |password: &str| server.url().replace("postgres@", &format!("lumbung:{password}@"));
    let redis = |password: &str| format!("redis://:{password}@127.0.0.1:{port}\n");
    let folder = tempfile::tempdir().expect("a folder");
    let network = network(&server, &redis("first"), folder.path(), &database("first")).await;
    let other = network.another_gateway().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 5, "prompt_tokens": 7}])).await;
    network.serves_at(&other.base, crate::support::MODEL).await;
    let gateways = [&network.gateway, &other.process];

    let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), Vec::new());
    for base in [&network.base, &other.base, &network.base, &other.base] {
        let client = network.client("5").await;
        clients.push(Client::new(base.clone(), client.key, client.account));
    }
    let asking = crowd(clients, &stop);
    // The file first, then the server: whoever needs a connection in between gets one within a second.
    replace(&folder.path().join("database-url"), &database("second"));
    logs(&gateways, NOT_YET, 1).await;
    server.run("ALTER ROLE lumbung PASSWORD 'second'").await;
    logs(&gateways, TAKEN_UP, 1).await;
    // Redis lets connections be that are there: either may come first.
    redis_cli(port, "first", &["CONFIG", "SET", "requirepass", "second"]);
    replace(&folder.path().join("redis-url"), &redis("second"));
    logs(&gateways, TAKEN_UP, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        assert_eq!(asking.await.expect("a client does not panic"), Vec::<String>::new());
    }

    // Nobody can go on with a connection from before, and everything works.
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lumbung'").await;
    redis_cli(port, "second", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    redis_cli(port, "second", &["CLIENT", "KILL", "TYPE", "pubsub"]);
    for base in [&network.base, &other.base] {
        let client = network.client("1").await;
        let client = Client::new(base.clone(), client.key, client.account);
        wait_until("a new customer is served", Duration::from_secs(20), async || {
            client.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await.status() == 200
        })
        .await;
    }
    wait_until("both have subscribed to Redis again", Duration::from_secs(20), async || {
        redis_cli(port, "second", &["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count() >= 2
    })
    .await;
    let mut books = sqlx::PgConnection::connect(&server.url()).await.expect("the books answer");
    let theirs = "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = 'lumbung'";
    assert!(number(&mut books, theirs).await >= 2, "both are connected again, with the new password");

    // A file that leads elsewhere, or holds nonsense, changes nothing.
    server.run("CREATE DATABASE elsewhere OWNER lumbung").await;
    for wrong in [database("second").replace("/postgres", "/elsewhere"), database("third"), "nonsense".into()] {
        let before = network.gateway.log().matches(NOT_YET).count();
        replace(&folder.path().join("database-url"), &wrong);
        logs(&[&network.gateway], NOT_YET, before + 1).await;
    }
    for secret in ["second", "third"] {
        assert!(!network.gateway.log().contains(secret), "no password is logged");
    }
    other.stop().await;
    network.finish().await;
}

#[tokio::test]
async fn signing_keys_are_exchanged_without_a_failed_request_and_old_receipts_stay_good() {
    let network = Setup::new(crate::support::Books::Postgres).start().await;
    let provider = network.scripted(json!([{"match": "*", "tokens": 5, "prompt_tokens": 7}])).await;
    let client = network.client("5").await;
    let before = client.ask("x", json!({"max_tokens": 5})).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = crowd(vec![Client::new(client.base.clone(), client.key.clone(), client.account)], &stop);
    let mut rotate = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"));
    rotate.args(["signing-keys", "rotate"]).env("DATABASE_URL", network.database_url()).env_remove("REDIS_URL");
    let rotated = tokio::task::spawn_blocking(move || rotate.output()).await.expect("no panic").expect("it runs");
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let published = async || {
        let keys = reqwest::get(format!("{}/.well-known/jwks.json", network.base)).await.expect("an answer");
        keys.json::<serde_json::Value>().await.expect("JSON")["keys"].as_array().expect("keys").len()
    };
    wait_until("both keys are published", Duration::from_secs(10), async || published().await == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        assert_eq!(asking.await.expect("a client does not panic"), Vec::<String>::new());
    }
    let after = client.ask("x", json!({"max_tokens": 5})).await;
    provider.receipts_acknowledged().await;
    let (old, new) = (client.receipt(&before.id).await, client.receipt(&after.id).await);
    for receipt in [&old, &new] {
        assert_eq!(receipt["completion_tokens"], 5, "{receipt}");
    }
    network.finish().await;
}
