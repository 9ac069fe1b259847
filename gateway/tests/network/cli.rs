//! The operator's command line on limits and on erasing: what it sets, shows and takes away, and how it says no.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"))
        .args(arguments)
        .env("LUMBUNG_DATA_DIR", folder)
        .env_remove("DATABASE_URL")
        .output()
        .expect("the command runs")
}

/// What a command prints with `--json`.
fn operate(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Why a command fails.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(!output.status.success(), "{arguments:?} is refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn limits_are_set_shown_and_cleared_from_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let account = operate(folder, &["accounts", "create", "Ana"])["id"].as_str().expect("an id").to_owned();
    let made = operate(folder, &["keys", "create", &account, "--label", "laptop"]);
    let key = operate(folder, &["keys", "list"])[0]["id"].as_str().expect("an id").to_owned();
    assert!(made.to_string().contains(&key));
    let model = ["models", "add", "a/b", "--alias", "b", "--context-length", "100", "--prompt-price", "1"];
    operate(folder, &[&model[..], &["--completion-price", "1"]].concat());

    for (group, owner) in [("keys", &key), ("accounts", &account)] {
        let limits = |arguments: &[&str]| operate(folder, &[&[group, "limits"], arguments].concat());
        let none = limits(&["show", owner]);
        assert_eq!((&none["requests_per_minute"], &none["allow_probation"]), (&Value::Null, &json!(true)));
        let set = limits(&[
            "set",
            owner,
            "--budget-day",
            "1.5",
            "--budget-month",
            "20",
            "--model",
            "b",
            "--requests-per-minute",
            "60",
            "--tokens-per-minute",
            "1000",
            "--concurrent-requests",
            "8",
            "--expires-after",
            "2099-12-31",
            "--allow-probation",
            "false",
        ]);
        assert_eq!(limits(&["show", owner]), set);
        assert_eq!(
            (&set["budget_day_usd"], &set["budget_month_usd"], &set["budget_week_usd"]),
            (&json!("1.5"), &json!("20"), &Value::Null)
        );
        assert_eq!((&set["models"], &set["requests_per_minute"]), (&json!(["a/b"]), &json!(60)), "an alias counts");
        assert_eq!(set["expires_at_us"], json!(4_102_444_800_000_000_i64), "the day after, at midnight");
        let more = limits(&["set", owner, "--budget-total", "100"]);
        assert_eq!(
            (&more["budget_total_usd"], &more["budget_day_usd"]),
            (&json!("100"), &json!("1.5")),
            "what is not named stays"
        );
        let some = limits(&["clear", owner, "--only", "budgets", "--only", "probation"]);
        assert_eq!(
            (&some["budget_day_usd"], &some["allow_probation"], &some["tokens_per_minute"]),
            (&Value::Null, &json!(true), &json!(1000))
        );
        assert_eq!(limits(&["clear", owner]), none);

        let table = run(folder, &[group, "limits", "show", owner]);
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        assert!(table.status.success() && text.contains("requests per minute"), "{text}");
        assert!(refused(folder, &[group, "limits", "set", owner]).contains("required"), "nothing to set");
        assert!(refused(folder, &[group, "limits", "set", owner, "--budget-day=-1"]).contains("below zero"));
        assert!(refused(folder, &[group, "limits", "set", owner, "--model", "c"]).contains("catalogue"));
        assert!(
            refused(folder, &[group, "limits", "set", owner, "--expires-after", "2026-02-30"]).contains("2026-02-30")
        );
    }
    assert!(refused(folder, &["keys", "limits", "set", &account, "--budget-day", "1"]).contains(&account), "no key");
    let nobody = "acct_01K00000000000000000000000";
    assert!(refused(folder, &["accounts", "limits", "set", nobody, "--budget-day", "1"]).contains("no such account"));
}

#[test]
fn an_account_is_erased_from_the_command_line_and_the_books_stay_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let account = operate(folder, &["accounts", "create", "Ana"])["id"].as_str().expect("an id").to_owned();
    operate(folder, &["keys", "create", &account, "--label", "laptop"]);
    operate(folder, &["credit", "add", &account, "5", "--reference", "payment 1"]);
    operate(folder, &["credit", "add", &account, "1", "--promotional"]);
    let why = refused(folder, &["accounts", "erase", &account]);
    assert!(why.contains("$6 of credit is left, $5 of it paid for"), "{why}");
    let name = |folder| operate(folder, &["accounts", "show", &account])["account"]["name"].clone();
    assert_eq!(name(folder), "Ana", "nothing is done in part");
    let erased = operate(folder, &["accounts", "erase", &account, "--balance", "forfeit"]);
    let rows = &erased["rows"];
    assert_eq!((&rows["name"], &rows["api_keys"], &rows["payment_references"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&erased["forfeited_usd"], &erased["lapsed_usd"]), (&json!("5"), &json!("1")));
    assert_eq!(name(folder), "");
    let list = String::from_utf8(run(folder, &["accounts", "list"]).stdout).expect("text");
    assert!(list.contains("erased  $0") && !list.contains("Ana"), "{list}");
    assert!(refused(folder, &["credit", "add", &account, "1"]).contains("the account was erased"));
    let other = operate(folder, &["accounts", "create", "Budi"])["id"].as_str().expect("an id").to_owned();
    let again = refused(folder, &["credit", "add", &other, "5", "--reference", "payment 1"]);
    assert!(again.contains("credited already"), "{again}");
    let second = operate(folder, &["accounts", "erase", &account]);
    assert!(second["rows"].as_object().expect("rows").values().all(|rows| rows == 0), "{second}");
    operate(folder, &["books", "check"]);
    let stranger = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    assert!(refused(folder, &["providers", "erase", stranger]).contains("there is no such provider"));
    operate(folder, &["providers", "ban", stranger]);
    operate(folder, &["providers", "erase", stranger]);
    assert_eq!(operate(folder, &["providers", "list"])[0]["provider"]["standing"], "banned", "a ban holds");
}
