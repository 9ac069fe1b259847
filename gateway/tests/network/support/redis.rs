//! A Redis of a test's own, which it may stop and start.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::process::{free_port, wait_until};

/// A running server, alone; it ends with the test.
pub struct OwnRedis {
    folder: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    server: Mutex<Option<Child>>,
}

impl OwnRedis {
    pub async fn start() -> Self {
        Self::start_with(free_port(), &[]).await
    }

    /// On a port, with further arguments.
    pub async fn start_with(port: u16, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let redis = Self { folder, port, arguments, server: Mutex::default() };
        redis.start_again().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`: what it held is gone.
    pub fn stop(&self) {
        if let Some(mut server) = self.server.lock().expect("a lock").take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = self.server.lock().expect("a lock").as_ref().expect("a running Redis").id();
        let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name} of Redis");
    }

    /// Starts it, and waits until it listens.
    pub async fn start_again(&self) {
        let folder = self.folder.path().display().to_string();
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.args(self.arguments.iter().filter(|a| a.ends_with(".conf"))); // a file comes first
        command.args(["--bind", "127.0.0.1", "--port", &port, "--dir", &folder, "--save", "", "--appendonly", "no"]);
        command.args(self.arguments.iter().filter(|a| !a.ends_with(".conf")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().expect("redis-server starts: it is installed by `make setup`");
        *self.server.lock().expect("a lock") = Some(server);
        let address = ("127.0.0.1", self.port);
        wait_until("Redis listens", Duration::from_secs(10), async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.stop();
    }
}
