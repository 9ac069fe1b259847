//! All that is kept anywhere: every column of every table, and all that Redis is told.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sqlx::{AnyPool, AssertSqlSafe, Row};

use super::process::Process;

/// `table.column` of every place of the books that holds this text.
pub async fn places_of(text: &str, url: &str) -> BTreeSet<String> {
    sqlx::any::install_default_drivers();
    let pool = AnyPool::connect(url).await.expect("the books");
    let columns = match url.starts_with("sqlite:") {
        true => "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'",
        false => {
            "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns
             WHERE table_schema = 'public'"
        }
    };
    let columns = sqlx::query(columns).fetch_all(&pool).await.expect("columns");
    assert!(columns.len() > 100, "{} columns", columns.len());
    let mut found = BTreeSet::new();
    for row in &columns {
        let (table, column): (String, String) = (row.get(0), row.get(1));
        let count = format!("SELECT COUNT(*) FROM \"{table}\" WHERE CAST(\"{column}\" AS TEXT) LIKE '%{text}%'");
        let count: i64 = sqlx::query(AssertSqlSafe(count)).fetch_one(&pool).await.expect("a count").get(0);
        if count > 0 {
            found.insert(format!("{table}.{column}"));
        }
    }
    pool.close().await;
    found
}

/// Everything that Redis is told, from now on.
pub struct Monitor {
    process: Process,
    url: String,
}

impl Monitor {
    pub fn start(url: &str, folder: &Path) -> Self {
        let path = folder.join("redis-monitor");
        let mut command = Command::new("sh");
        command.args(["-c", "exec redis-cli -u \"$0\" MONITOR >&2", url]);
        let monitor = Self { process: Process::start("redis-cli", command, Some(path)), url: url.to_owned() };
        for _ in 0..500 {
            if monitor.told().contains("OK") {
                return monitor;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("Redis is not monitored: {}", monitor.told());
    }

    pub fn told(&self) -> String {
        self.process.log()
    }

    /// The names of keys that do not expire.
    pub fn kept_for_ever(&self) -> String {
        let script = "local kept = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
                      if redis.call('TTL', key) < 0 then kept[#kept + 1] = key end end return table.concat(kept, ' ')";
        let output = Command::new("redis-cli").args(["-u", &self.url, "EVAL", script, "0"]).output();
        let output = output.expect("redis-cli comes with the server");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
