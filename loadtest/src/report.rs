//! The figures of a run, in JSON and for people.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::Used;

/// Where the plots of a distribution are read off: from the fastest to the slowest of a hundred thousand.
const QUANTILES: [f64; 14] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0];

/// What came of a load.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Connections at once, at most.
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
    /// Answers that were whole, warm-up included.
    pub whole: u64,
    /// Answers whose readers left, as they meant to, warm-up included.
    pub left: u64,
    /// Completion tokens of the answers that were whole, by their usage.
    pub completion_tokens: u64,
    /// Requests that ended, per second.
    pub requests_per_second: f64,
    /// Streamed pieces, per second.
    pub chunks_per_second: f64,
    /// Streamed pieces with text, per second: an answer's beginning and end are left out.
    pub tokens_per_second: f64,
    /// From when a request was due to the head of its answer.
    pub first_byte_ms: Latency,
    /// From when a request was due to the answer's first token.
    pub first_token_ms: Latency,
    /// From token to token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_tokens_ms: Option<Latency>,
    /// From when a request was due to the end of its answer.
    pub total_ms: Latency,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// One in ten took longer.
    pub p90: f64,
    /// One in a hundred took longer.
    pub p99: f64,
    /// One in a thousand took longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// The whole distribution: quantile, milliseconds.
    pub curve: Vec<(f64, f64)>,
}

/// CPU time of the watched process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cpu {
    /// How many cores it kept busy.
    pub cores: f64,
    /// Microseconds per request.
    pub us_per_request: f64,
    /// How much of that the gateway's threads for the books have used.
    pub books_us_per_request: f64,
    /// Microseconds per streamed piece, everything included; absent where nothing was streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub us_per_chunk: Option<f64>,
}

/// Resident memory and open files of the watched process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// At the end of the load.
    pub rss_mib: f64,
    /// At most.
    pub peak_rss_mib: f64,
    /// Open file descriptors at the end of the load.
    pub open_files: u64,
}

impl Report {
    /// Whether every answer was whole, or left by its reader.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// Its distributions, by name.
    pub fn latencies(&self) -> Vec<(&'static str, &Latency)> {
        let mut named = vec![("first byte", &self.first_byte_ms), ("first token", &self.first_token_ms)];
        named.extend(self.between_tokens_ms.as_ref().map(|latency| ("between tokens", latency)));
        named.push(("total", &self.total_ms));
        named
    }

    /// The figures as a Markdown table.
    pub fn markdown(&self) -> String {
        let kind = self.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
        let mut text = format!(
            "{} connections, {kind}, {:.1} s: {} requests ({:.0}/s), {} streamed pieces ({:.0}/s), {} whole, {} left.\n\n\
             | ms | p50 | p90 | p99 | p99.9 | max |\n|---|---|---|---|---|---|\n",
            self.connections,
            self.seconds,
            self.requests,
            self.requests_per_second,
            self.chunks,
            self.chunks_per_second,
            self.whole,
            self.left,
        );
        for (name, Latency { p50, p90, p99, p999, max, .. }) in self.latencies() {
            text += &format!("| {name} | {p50:.2} | {p90:.2} | {p99:.2} | {p999:.2} | {max:.2} |\n");
        }
        if let Some(cpu) = &self.cpu {
            let chunk = cpu.us_per_chunk.map_or(String::new(), |micros| format!(", {micros:.1} µs per streamed piece"));
            text += &format!("\nCPU: {:.2} cores, {:.1} µs per request{chunk}.", cpu.cores, cpu.us_per_request);
        }
        if let Some(memory) = &self.memory {
            let Memory { rss_mib, peak_rss_mib, open_files } = memory;
            text += &format!(
                "\nMemory: {rss_mib:.1} MiB resident, {peak_rss_mib:.1} MiB at most; {open_files} open files."
            );
        }
        text += "\n\n";
        match self.failures.is_empty() {
            true => text += "Every answer was whole.\n",
            false => self.failures.iter().for_each(|(kind, count)| text += &format!("- FAILED: {count} × {kind}\n")),
        }
        text
    }
}

impl Latency {
    /// From microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let curve = QUANTILES.into_iter().map(|quantile| (quantile, at(quantile))).collect();
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0), curve }
    }
}

impl Cpu {
    /// From what was spent.
    pub fn of(before: &Used, after: &Used, seconds: f64, requests: u64, chunks: u64) -> Self {
        let spent = after.cpu.saturating_sub(before.cpu);
        let books = after.books.saturating_sub(before.books);
        let micros = spent.as_secs_f64() * 1e6;
        Self {
            cores: spent.as_secs_f64() / seconds,
            us_per_request: micros / requests.max(1) as f64,
            books_us_per_request: books.as_secs_f64() * 1e6 / requests.max(1) as f64,
            us_per_chunk: (chunks > 0).then(|| micros / chunks as f64),
        }
    }
}

impl Memory {
    /// From what `/proc` says.
    pub fn of(used: &Used) -> Self {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Self { rss_mib: mib(used.rss), peak_rss_mib: mib(used.peak_rss), open_files: used.open_files }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = self;
        write!(f, "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
        writeln!(f, "{} connections, {kind}, {:.1} s", self.connections, self.seconds)?;
        writeln!(f, "  requests        {} ({:.0}/s)", self.requests, self.requests_per_second)?;
        if self.chunks > 0 {
            writeln!(f, "  chunks          {} ({:.0}/s)", self.chunks, self.chunks_per_second)?;
        }
        self.latencies().into_iter().try_for_each(|(name, latency)| writeln!(f, "  {name:<15} {latency}"))?;
        if let Some(cpu) = &self.cpu {
            write!(f, "  CPU             {:.2} cores, {:.1} µs per request", cpu.cores, cpu.us_per_request)?;
            match cpu.us_per_chunk {
                Some(micros) => writeln!(f, ", {micros:.1} µs per chunk")?,
                None => writeln!(f)?,
            }
        }
        if let Some(Memory { rss_mib, peak_rss_mib, open_files }) = &self.memory {
            write!(f, "  memory          {rss_mib:.1} MiB resident, {peak_rss_mib:.1} MiB at most, ")?;
            writeln!(f, "{open_files} open files")?;
        }
        if self.failures.is_empty() {
            return writeln!(f, "  every answer was whole: {}, and {} left by their readers", self.whole, self.left);
        }
        writeln!(f, "  FAILED")?;
        self.failures.iter().try_for_each(|(kind, count)| writeln!(f, "    {count} × {kind}"))
    }
}
