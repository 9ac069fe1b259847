//! Where traces and metrics go in a test: a receiver that reads OTLP with OpenTelemetry's own types.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::{Process, free_port, wait_until};

/// A running receiver.
pub struct Collector {
    process: Process,
    folder: tempfile::TempDir,
    port: u16,
}

impl Collector {
    pub async fn start() -> Self {
        let python =
            std::env::var("LUMBUNG_TEST_PYTHON").expect("LUMBUNG_TEST_PYTHON is not set: run through `make test`");
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let mut command = Command::new(python);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/otlp_receiver.py"));
        command.arg(port.to_string()).arg(folder.path().join("received"));
        let process = Process::start("OTLP receiver", command, Some(folder.path().join("log")));
        wait_until("the OTLP receiver listens", Duration::from_secs(30), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self { process, folder, port }
    }

    /// The environment of whoever sends here, at once rather than every few seconds.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", self.port)),
            ("OTEL_BSP_SCHEDULE_DELAY", "100".into()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500".into()),
        ]
    }

    /// All that has come, as it was written down.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("received")).unwrap_or_default()
    }

    /// The same, read: spans and metrics.
    pub fn received(&self) -> Vec<Value> {
        let whole = self.text();
        let lines = whole.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The spans of a trace.
    pub fn trace(&self, id: &str) -> Vec<Value> {
        self.received().into_iter().filter(|line| line["trace_id"] == id).collect()
    }

    /// What it complained of.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
