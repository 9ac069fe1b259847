//! What `migrations/README.md` promises: gateways of the release before go on while a new one changes the schema.

use std::fs;
use std::path::{Path, PathBuf};

/// Migrations from before there was a release to go on beside: they may tighten what is there.
const BEFORE_RELEASES: u32 = 17;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Number, file name and text of each migration, in order.
fn migrations() -> Vec<(u32, String, String)> {
    let folder = root().join("migrations");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path());
    let mut migrations: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "sql"))
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let number = name.split_once('_').and_then(|(number, _)| number.parse().ok());
            let number = number.unwrap_or_else(|| panic!("{name} is not named NNNN_what.sql"));
            (number, name, fs::read_to_string(&path).expect("text"))
        })
        .collect();
    migrations.sort();
    migrations
}

/// Its statements in one line each, without comments.
fn statements(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split("--").next().unwrap_or_default());
    let text = lines.collect::<Vec<_>>().join(" ");
    let words = |statement: &str| statement.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split(';').map(words).filter(|statement| !statement.is_empty()).collect()
}

/// Why a gateway that does not know this statement could not go on; `None` if it can. `made`: the tables that this migration
/// itself makes.
fn hinders(statement: &str, made: &[String]) -> Option<&'static str> {
    let words: Vec<&str> = statement.split(' ').collect();
    match words.as_slice() {
        ["CREATE", "TABLE", ..] | ["INSERT", "INTO", ..] | ["CREATE", "INDEX", ..] => None,
        ["CREATE", "UNIQUE", "INDEX", ..] => {
            let on = words.iter().position(|word| *word == "ON").and_then(|at| words.get(at + 1));
            let is_new = on.is_some_and(|table| made.iter().any(|made| made == table));
            (!is_new).then_some("what is there may not be unique, and what old gateways write may not be")
        }
        ["ALTER", "TABLE", _, "ADD", "COLUMN", rest @ ..] => {
            let is_filled = rest.contains(&"DEFAULT") || !rest.join(" ").contains("NOT NULL");
            (!is_filled).then_some("old gateways do not write a column that must not be null")
        }
        _ => Some("it takes away or changes what old gateways use"),
    }
}

#[test]
fn a_migration_only_adds_unless_it_says_what_it_contracts() {
    let (migrations, mut wrong) = (migrations(), Vec::new());
    for (number, name, text) in &migrations {
        let contracts = text.lines().next().and_then(|line| line.strip_prefix("-- Contracts "));
        if let Some(earlier) = contracts {
            let earlier: u32 = earlier.trim_end_matches('.').parse().unwrap_or(u32::MAX);
            assert!(migrations.iter().any(|(known, ..)| known == &earlier && earlier < *number), "{name}: {earlier}?");
            continue;
        }
        if *number <= BEFORE_RELEASES {
            continue;
        }
        let statements = statements(text);
        let made = statements.iter().filter_map(|statement| statement.strip_prefix("CREATE TABLE "));
        let made: Vec<String> = made.map(|rest| rest.split([' ', '(']).next().unwrap_or_default().to_owned()).collect();
        let hindrances = statements.iter().filter_map(|statement| Some((statement, hinders(statement, &made)?)));
        wrong.extend(hindrances.map(|(statement, why)| format!("{name}: {why}: {statement}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_hinders_old_gateways_is_recognized() {
    let made = ["fresh".to_owned()];
    for good in [
        "CREATE TABLE fresh (id TEXT PRIMARY KEY)",
        "CREATE INDEX fresh_at ON attempts (at)",
        "CREATE UNIQUE INDEX fresh_id ON fresh (id)",
        "ALTER TABLE attempts ADD COLUMN note TEXT",
        "ALTER TABLE attempts ADD COLUMN count BIGINT NOT NULL DEFAULT 0",
        "INSERT INTO counters (name, value) VALUES ('fresh', 0)",
    ] {
        assert_eq!(hinders(good, &made), None, "{good}");
    }
    for bad in [
        "CREATE UNIQUE INDEX one ON attempts (public_id)",
        "ALTER TABLE attempts ADD COLUMN note TEXT NOT NULL",
        "ALTER TABLE attempts DROP COLUMN record",
        "ALTER TABLE attempts RENAME COLUMN record TO proof",
        "ALTER TABLE attempts ALTER COLUMN receipt SET NOT NULL",
        "DROP TABLE recounts",
        "DROP INDEX attempts_account",
        "UPDATE accounts SET name = ''",
        "DELETE FROM postings",
    ] {
        assert!(hinders(bad, &made).is_some(), "{bad}");
    }
    let text = "-- a; comment\nCREATE TABLE a (\n  id TEXT -- its; id\n);\nDROP\n TABLE b;\n";
    assert_eq!(statements(text), ["CREATE TABLE a ( id TEXT )", "DROP TABLE b"]);
}

/// A column that is added changes the answer of `SELECT *`, and what `INSERT` without names expects.
#[test]
fn statements_name_their_columns() {
    let store = root().join("gateway/src/store");
    let mut wrong = Vec::new();
    for entry in fs::read_dir(store).expect("a folder").flatten().filter(|entry| entry.path().is_file()) {
        let text = fs::read_to_string(entry.path()).expect("text");
        for (number, line) in text.lines().enumerate() {
            let insert = line.split("INSERT INTO ").nth(1).and_then(|rest| rest.split_once(' '));
            let is_unnamed = insert.is_some_and(|(_, rest)| rest.starts_with("VALUES") || rest.starts_with("SELECT"));
            if is_unnamed || line.contains("SELECT *") || line.contains("RETURNING *") || line.contains(".* ") {
                wrong.push(format!("{}:{}: {}", entry.path().display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is kept of whom and for how long is told of each table, and of no other.
#[test]
fn every_table_is_in_the_table_of_what_is_kept() {
    let page = fs::read_to_string(root().join("gateway/docs/pages/operations/keep.md")).expect("a page");
    let section =
        page.split("\n## What is kept, and for how long\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = section.expect("the section").lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').nth(1).expect("a cell").to_owned());
    let mut told: Vec<String> =
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect();
    told.sort();
    let mut tables: Vec<String> = Vec::new();
    for statement in migrations().iter().flat_map(|(_, _, text)| statements(text)) {
        let words: Vec<&str> = statement.split([' ', '(']).collect();
        match words.as_slice() {
            ["CREATE", "TABLE", "IF", "NOT", "EXISTS", name, ..] | ["CREATE", "TABLE", name, ..] => {
                tables.push((*name).to_owned())
            }
            ["DROP", "TABLE", name, ..] => tables.retain(|table| table != name),
            _ => {}
        }
    }
    tables.sort();
    assert_eq!(told, tables, "gateway/docs/pages/operations/keep.md says what is in each table, and for how long");
}

#[test]
fn every_migration_is_embedded_under_its_number() {
    let embedded = fs::read_to_string(root().join("gateway/src/store/migrate.rs")).expect("text");
    let migrations = migrations();
    for (number, name, _) in &migrations {
        let line = embedded.lines().find(|line| line.contains(&format!("migrations/{name}\"")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in gateway/src/store/migrate.rs"));
        assert!(line.trim_start().starts_with(&format!("({number}, ")), "{name} has another number there: {line}");
    }
    assert_eq!(embedded.matches("include_str!").count(), migrations.len(), "there are no others");
}
