//! The operator's commands, as a process of their own on books that are in use.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::on_both;
use crate::support::{Books, Provider, tokens, usd};

fn lumbung(books: &Books, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"))
        .args(arguments)
        .env("DATABASE_URL", &books.url)
        .output()
        .expect("the gateway's binary runs")
}

/// What a command prints with `--json`.
fn json(books: &Books, arguments: &[&str]) -> Value {
    let output = lumbung(books, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What a command prints for people.
fn text(books: &Books, arguments: &[&str]) -> String {
    let output = lumbung(books, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

on_both! {
    async fn an_account_is_opened_credited_and_given_a_key(books: &Books) {
        let account = text(books, &["accounts", "create", "ACME"]);
        let credited = json(books, &["credit", "add", &account, "12.50", "--reference", "pay_1"]);
        assert_eq!(credited["balance"]["spendable_usd"], "12.5");
        let again = lumbung(books, &["credit", "add", &account, "12.50", "--reference", "pay_1"]);
        assert!(!again.status.success());
        assert!(String::from_utf8_lossy(&again.stderr).contains("credited already"));
        assert!(!lumbung(books, &["credit", "add", &account, "1e3"]).status.success(), "no floats");

        let secret = text(books, &["keys", "create", &account, "--label", "laptop"]);
        assert!(secret.starts_with("sk-lumbung-"));
        let keys = json(books, &["keys", "list", &account]);
        let key = keys[0]["id"].as_str().expect("an id").to_owned();
        assert!(!keys.to_string().contains(&secret), "the key is shown once");
        assert!(text(books, &["keys", "list"]).contains("laptop"));
        text(books, &["keys", "revoke", &key]);
        assert!(json(books, &["accounts", "show", &account])["keys"][0]["revoked_at_us"].is_i64());
        let shown = text(books, &["accounts", "show", &account]);
        assert!(shown.contains("spendable $12.5") && shown.contains("revoked"), "{shown}");
        text(books, &["accounts", "close", &account]);
        assert!(text(books, &["accounts", "list"]).contains("closed"));
        assert!(json(books, &["accounts", "list"])[0]["account"]["closed_at_us"].is_i64());
    }

    async fn the_catalogue_and_the_providers_are_managed(books: &Books) {
        let add = ["models", "add", "tiny", "--alias", "small", "--context-length", "4096", "--prompt-price", "0.10", "--completion-price", "0.40"];
        let model = json(books, &add);
        assert_eq!((&model["id"], &model["reference"]["prompt_usd_per_mtok"]), (&"tiny".into(), &"0.1".into()));
        assert!(text(books, &["models", "list"]).contains("$0.4"));
        assert_eq!(books.store.models().await.expect("answer")[0].aliases, ["small"]);
        text(books, &["models", "remove", "tiny"]);
        assert_eq!(json(books, &["models", "list"]), Value::Array(vec![]));

        let provider = Provider::new(1).id.to_string();
        assert_eq!(json(books, &["providers", "ban", &provider])["standing"], "banned");
        text(books, &["providers", "unban", &provider]);
        text(books, &["providers", "trust", &provider]);
        assert_eq!(json(books, &["providers", "list"])[0]["provider"]["standing"], "trusted");
        assert!(!lumbung(books, &["providers", "trust", "me"]).status.success());
    }

    async fn a_check_says_whether_the_books_are_right(books: &Books) {
        let account = books.account_with(usd("1")).await;
        assert!(text(books, &["books", "check"]).starts_with("the books are right"));
        let tamper = |more: i64| format!("UPDATE ledger_accounts SET balance = balance + {more} WHERE owner = '{account}'");
        books.sql(&tamper(1)).await;
        let found = lumbung(books, &["books", "check"]);
        assert_eq!(found.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&found.stdout).contains("balance is not the sum of its entries"));
        let found = lumbung(books, &["books", "check", "--json"]);
        assert_eq!(found.status.code(), Some(1));
        let report: Value = serde_json::from_slice(&found.stdout).expect("JSON");
        assert_eq!(report["differences"].as_array().map(Vec::len), Some(2));
        books.sql(&tamper(-1)).await;
    }

    async fn a_receipt_is_verified_without_the_books(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        books.settle(&[customer.settlement(books, ticket.clone(), tokens(10, 20))]).await;
        books.offer(&provider, vec![provider.receipt(books, &ticket, tokens(10, 20))]).await;
        let receipt = books.store.job_receipt(&customer.account, &ticket.public_id).await.expect("answer").expect("settled");
        let receipt = serde_json::to_string(&receipt).expect("JSON");

        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("jwks.json");
        std::fs::write(&keys, serde_json::to_vec(&books.keys.published()).expect("JSON")).expect("written");
        let verify = |receipt: &str| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"))
                .args(["receipt", "verify", "-", "--keys"])
                .arg(&keys)
                .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the gateway's binary runs");
            child.stdin.take().expect("stdin").write_all(receipt.as_bytes()).expect("written");
            child.wait_with_output().expect("it ends")
        };
        let good = verify(&receipt);
        assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
        assert!(String::from_utf8_lossy(&good.stdout).contains("for $0.00005"));
        let bad = verify(&receipt.replace("\"charge_usd\":\"0.00005\"", "\"charge_usd\":\"0.00004\""));
        assert_eq!(bad.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&bad.stderr).contains("do not sum"), "{}", String::from_utf8_lossy(&bad.stderr));
    }
}
