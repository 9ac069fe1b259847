//! A backup, taken while the gateway works, restored to another database: the books are exact, keys and credit are there, and
//! a gateway goes on from it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lumbung_gateway::store::Store;
use serde_json::json;

use crate::support::client::Client;
use crate::support::{Books, Setup, fresh_postgres, usd};

/// One of the programs that Postgres' clients come with.
fn postgres(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).output().expect("the program is installed");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

fn back_up(database: &str, file: &Path) {
    postgres("pg_dump", &["--format=custom", "--no-owner", "--file", &file.display().to_string(), database]);
}

#[tokio::test]
async fn what_is_backed_up_under_load_is_restored_exactly() {
    let network = Setup::new(Books::Postgres).start().await;
    let script = json!([{"match": "*", "tokens": 8, "prompt_tokens": 7}]);
    let _provider = network.scripted(script.clone()).await;
    let client = network.client("5").await;
    let before = network.balance(&client.account).await;
    client.ask("x", json!({})).await;
    network.charged(&client.account, before).await;

    let (folder, database) = (tempfile::tempdir().expect("a folder"), network.database_url().to_owned());
    let file = folder.path().join("books.dump");
    let dump = {
        let file = file.clone();
        tokio::task::spawn_blocking(move || back_up(&database, &file))
    };
    let mut asked = 0;
    while !dump.is_finished() || asked < 20 {
        client.ask("x", json!({})).await;
        asked += 1;
    }
    dump.await.expect("a backup");
    network.finish().await;

    let restored = fresh_postgres().await;
    postgres("pg_restore", &["--no-owner", "--exit-on-error", "--dbname", &restored, &file.display().to_string()]);
    let store = Store::open(&restored).await.expect("the books open");
    let report = store.books_check().await.expect("the books can be read");
    assert!(report.is_right(), "{report:?}");
    let then = store.account_balance(&client.account).await.expect("a balance").spendable;
    assert!(then > usd("0") && then < before, "{then} of {before}");
    drop(store);

    // A gateway goes on from there: the same key, what is left of the same credit.
    let again = Setup::on(restored).start().await;
    let _provider = again.scripted(script).await;
    let client = Client::new(again.base.clone(), client.key, client.account);
    let answer = tokio::time::timeout(Duration::from_secs(60), client.ask("x", json!({}))).await.expect("an answer");
    assert_eq!(answer.usage.map(|usage| usage.completion_tokens), Some(8));
    again.charged(&client.account, then).await;
    again.finish().await;
}
