//! The figures of a run, in JSON and for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::Used;

/// What came of a load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Connections at once.
    pub connections: usize,
    /// Requests per second that were due; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// How long it counted.
    pub seconds: f64,
    /// Requests that ended in that time.
    pub requests: u64,
    /// Streamed pieces that arrived in that time.
    pub chunks: u64,
    /// Completion tokens of the answers that were whole, by their usage.
    pub completion_tokens: u64,
    /// Requests that ended, per second.
    pub requests_per_second: f64,
    /// Streamed pieces, per second.
    pub chunks_per_second: f64,
    /// From when a request was due to the end of its answer.
    pub latency_ms: Latency,
    /// From when a request was due to the answer's first piece.
    pub first_piece_ms: Latency,
    /// Of the watched process and its children.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Of the watched process and its children, under load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Answers that were refused, not whole, or lost, by kind.
    pub failures: BTreeMap<String, u64>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// One in ten took longer.
    pub p90: f64,
    /// One in a hundred took longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// CPU time of the watched process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cpu {
    /// How many cores it kept busy.
    pub cores: f64,
    /// Microseconds per request.
    pub us_per_request: f64,
    /// Microseconds per streamed piece, everything included; absent where nothing was streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub us_per_chunk: Option<f64>,
}

/// Resident memory of the watched process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// At the end of the load.
    pub rss_mib: f64,
    /// At most.
    pub peak_rss_mib: f64,
}

impl Report {
    /// Whether every answer was whole.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Latency {
    /// From microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

impl Cpu {
    /// From what was spent.
    pub fn of(spent: Duration, seconds: f64, requests: u64, chunks: u64) -> Self {
        let micros = spent.as_secs_f64() * 1e6;
        Self {
            cores: spent.as_secs_f64() / seconds,
            us_per_request: micros / requests.max(1) as f64,
            us_per_chunk: (chunks > 0).then(|| micros / chunks as f64),
        }
    }
}

impl Memory {
    /// From what `/proc` says.
    pub fn of(used: &Used) -> Self {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Self { rss_mib: mib(used.rss), peak_rss_mib: mib(used.peak_rss) }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2} ms", self.p50, self.p90, self.p99, self.max)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
        writeln!(f, "{} connections, {kind}, {:.1} s", self.connections, self.seconds)?;
        writeln!(f, "  requests     {} ({:.0}/s)", self.requests, self.requests_per_second)?;
        if self.chunks > 0 {
            writeln!(f, "  chunks       {} ({:.0}/s)", self.chunks, self.chunks_per_second)?;
        }
        writeln!(f, "  first piece  {}", self.first_piece_ms)?;
        writeln!(f, "  whole        {}", self.latency_ms)?;
        if let Some(cpu) = &self.cpu {
            write!(f, "  CPU          {:.2} cores, {:.1} µs per request", cpu.cores, cpu.us_per_request)?;
            match cpu.us_per_chunk {
                Some(micros) => writeln!(f, ", {micros:.1} µs per chunk")?,
                None => writeln!(f)?,
            }
        }
        if let Some(memory) = &self.memory {
            writeln!(f, "  memory       {:.1} MiB resident, {:.1} MiB at most", memory.rss_mib, memory.peak_rss_mib)?;
        }
        if self.failures.is_empty() {
            return writeln!(f, "  every answer was whole");
        }
        writeln!(f, "  FAILED")?;
        self.failures.iter().try_for_each(|(kind, count)| writeln!(f, "    {count} × {kind}"))
    }
}
