//! A Postgres of a test's own, which it may kill.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sqlx::Connection;

use super::process::{free_port, wait_until};

/// A running server; it ends with the test.
pub struct OwnPostgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
}

impl OwnPostgres {
    pub async fn start() -> Self {
        let programs = std::env::var("LUMBUNG_TEST_POSTGRES_BIN")
            .expect("LUMBUNG_TEST_POSTGRES_BIN names no folder: run through `make test`");
        let folder = tempfile::tempdir().expect("a folder");
        let server = Self { folder, programs: programs.into(), port: free_port() };
        if is_root() {
            run(Command::new("chmod").arg("711").arg(server.folder.path()));
            run(Command::new("install").args(["-d", "-o", "postgres"]).arg(server.data()));
        }
        let data = server.data();
        let flags = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"];
        run(server.program("initdb").arg("-D").arg(&data).args(flags));
        server.restart().await;
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends every one of its processes at once, without a checkpoint: what it had committed it recovers from its log.
    pub fn kill(&self) {
        run(self.program("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "-s", "stop"]));
    }

    /// Stops all of its processes where they are (`STOP`), or lets them go on (`CONT`).
    pub fn signal(&self, name: &str) {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("a running server");
        let postmaster = file.lines().next().expect("its process").to_owned();
        let children = std::fs::read_dir("/proc").expect("processes").flatten().filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.to_owned();
            (parent == postmaster).then(|| entry.file_name().to_string_lossy().into_owned())
        });
        let processes: Vec<String> = children.collect();
        // One that ends at this moment cannot be signalled, which is as good.
        let _ = Command::new("kill").arg(format!("-{name}")).args(processes).status().expect("kill runs");
        run(Command::new("kill").args([&format!("-{name}"), &postmaster]));
    }

    /// Starts it (again), and waits until it answers.
    pub async fn restart(&self) {
        let data = self.data();
        let options = format!("-p {} -k '{}' -c listen_addresses=127.0.0.1 -c fsync=off", self.port, data.display());
        let log = data.join("log");
        run(self.program("pg_ctl").arg("-D").arg(&data).arg("-l").arg(log).args(["-w", "-s", "-o", &options, "start"]));
        wait_until("Postgres answers", Duration::from_secs(30), async || {
            sqlx::PgConnection::connect(&self.url()).await.is_ok()
        })
        .await;
    }

    /// Stops it, and starts it with TLS and this certificate.
    pub async fn with_tls(&self, certificate: &Path, key: &Path) {
        run(self.program("pg_ctl").arg("-D").arg(self.data()).args(["-m", "fast", "-s", "stop"]));
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let owner: &[&str] = if is_root() { &["-o", "postgres"] } else { &[] };
            run(Command::new("install").args(["-m", "600"]).args(owner).arg(from).arg(self.data().join(name)));
        }
        let settings = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&settings).expect("settings");
        std::fs::write(&settings, text + "\nssl = on\n").expect("settings");
        self.restart().await;
    }

    /// Asks everybody but the superuser for a password, from now on.
    pub async fn with_passwords(&self) {
        let rules =
            "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(self.data().join("pg_hba.conf"), rules).expect("rules");
        self.run("SELECT pg_reload_conf()").await;
    }

    /// Runs a statement as the superuser.
    pub async fn run(&self, statement: &str) {
        let mut connection = sqlx::PgConnection::connect(&self.url()).await.expect("the server answers");
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut connection).await.expect("the statement runs");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One of Postgres' programs, which refuse to run as root.
    fn program(&self, name: &str) -> Command {
        let path: &Path = &self.programs.join(name);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(path);
                command
            }
            false => Command::new(path),
        };
        command.current_dir("/").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        let _ = self.program("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "-s", "stop"]).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("the program runs");
    assert!(status.success(), "{command:?} ended with {status}");
}

pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find(|line| line.starts_with("Uid:"));
    uids.is_some_and(|line| line.split_whitespace().nth(2) == Some("0"))
}
