//! What this provider tells of its jobs: figures for Prometheus, and its part of traces that the gateway samples. Never what
//! was asked or answered.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use http::HeaderMap;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::ticket::Ticket;
use lumbung_telemetry::genai::{self, DURATION_US, FIRST_TOKEN_US, PER_TOKEN_US};
use lumbung_telemetry::listener;
use lumbung_telemetry::metric::{Counter, Histogram};
use lumbung_telemetry::page::{Page, Pages, Tells};
use lumbung_telemetry::process::Process;
use lumbung_telemetry::trace::{Context, Kind, Span};
use tokio::net::TcpListener;

use crate::node::Node;
use crate::served::Served;

/// How long answers took, and how large their prompts were.
pub struct Meter {
    prompt_tokens: Counter,
    duration: Histogram,
    first_token: Histogram,
    per_token: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            prompt_tokens: Counter::default(),
            duration: Histogram::new(&DURATION_US),
            first_token: Histogram::new(&FIRST_TOKEN_US),
            per_token: Histogram::new(&PER_TOKEN_US),
        }
    }
}

impl Meter {
    /// Tokens of prompts that were read.
    pub fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens.get()
    }
}

/// When a job passed which point, and the trace that it is part of.
pub struct Times {
    operation: &'static str,
    /// Where the gateway samples its trace.
    trace: Option<Context>,
    arrived_us: i64,
    asked_us: i64,
    first_us: Option<i64>,
}

impl Times {
    /// A job begins to arrive.
    pub fn arrived(endpoint: Endpoint, headers: &HeaderMap) -> Self {
        let now_us = now_us();
        let trace = Context::follow(headers);
        Self { operation: endpoint.operation(), trace, arrived_us: now_us, asked_us: now_us, first_us: None }
    }

    /// The engine is asked.
    pub fn engine_asked(&mut self) {
        self.asked_us = now_us();
    }

    /// Tokens came from it.
    pub fn tokens_came(&mut self) {
        self.first_us.get_or_insert_with(now_us);
    }

    /// The answer is over.
    pub fn over(
        &self,
        node: &Node,
        served: &Served,
        ticket: &Ticket,
        outcome: &'static str,
        (prompt, tokens): (PromptCount, u32),
    ) {
        let (over_us, meter) = (now_us(), &node.meter);
        let since_arrival = |at: i64| u64::try_from(at - self.arrived_us).unwrap_or(0);
        meter.prompt_tokens.add(u64::from(prompt.prompt_tokens));
        meter.duration.observe_us(since_arrival(over_us));
        if let Some(first) = self.first_us {
            meter.first_token.observe_us(since_arrival(first));
            let later = u64::from(tokens.saturating_sub(1));
            let per_token = u64::try_from(over_us - first).unwrap_or(0).checked_div(later);
            per_token.into_iter().for_each(|us| meter.per_token.observe_us(us));
        }
        node.note_job(served, ticket, outcome, (prompt.prompt_tokens, tokens), since_arrival(over_us));
        if let Some(trace) = self.trace {
            self.tell(trace, ticket, outcome, (prompt, tokens), over_us);
        }
    }

    fn tell(
        &self,
        trace: Context,
        ticket: &Ticket,
        outcome: &'static str,
        (prompt, tokens): (PromptCount, u32),
        over_us: i64,
    ) {
        let error = (outcome != "complete").then_some(outcome);
        let span = |context: Context, kind: Kind, what: &str, from: i64| {
            Span::new(context, kind, format!("{what} {}", ticket.model), from, over_us)
                .with(genai::OPERATION, self.operation)
                .with(genai::PROVIDER, genai::LUMBUNG)
                .with(genai::REQUEST_MODEL, ticket.model.clone())
                .failed(error)
        };
        let engine = span(trace.child(), Kind::Internal, "generate", self.asked_us);
        match self.first_us {
            Some(first) => engine.event("first token", first),
            None => engine,
        }
        .send();
        span(trace, Kind::Server, self.operation, self.arrived_us)
            .with(genai::RESPONSE_MODEL, ticket.model.clone())
            .with(genai::RESPONSE_ID, ticket.public_id.clone())
            .with(genai::INPUT_TOKENS, i64::from(prompt.prompt_tokens))
            .with(genai::OUTPUT_TOKENS, i64::from(tokens))
            .with("lumbung.job.id", ticket.job.clone())
            .with("lumbung.attempt", i64::from(ticket.attempt))
            .with("lumbung.attempt.first_token", i64::from(ticket.first_token))
            .with("lumbung.provider.id", ticket.provider.clone())
            .send();
    }
}

/// Unix microseconds, by this machine's own clock.
fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// Listens; the returned future answers for as long as it is polled.
pub async fn serve(address: SocketAddr, node: Arc<Node>) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for metrics"))?;
    tracing::info!(bound = %listener.local_addr()?, "metrics are told at /metrics");
    let told: [Arc<dyn Tells>; 2] = [Arc::new(Figures(node)), Arc::new(Process)];
    Ok(listener::serve(listener, Pages::new(told)))
}

/// A provider's figures.
struct Figures(Arc<Node>);

impl Tells for Figures {
    fn tell(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let node = &*self.0;
        let (counters, meter) = (&node.counters, &node.meter);
        let jobs = [
            ("complete", &counters.finished),
            ("cancelled", &counters.cancelled),
            ("failed", &counters.failed),
            ("refused", &counters.refused),
        ];
        let jobs = jobs.map(|(outcome, counter)| (vec![("outcome", outcome)], counter.get()));
        page.counter("lumbung_provider_jobs", "Jobs that are over, by how they ended.", jobs)?;
        let tokens = [("prompt", meter.prompt_tokens.get()), ("completion", counters.completion_tokens.get())];
        let tokens = tokens.map(|(kind, count)| (vec![("kind", kind)], count));
        page.counter("lumbung_provider_tokens", "Tokens that were read and made.", tokens)?;
        let models = node.models.list();
        let per_model = |read: fn(&Served) -> u32| {
            models
                .iter()
                .map(|served| (vec![("model", served.model.as_str())], i64::from(read(served))))
                .collect::<Vec<_>>()
        };
        page.gauge("lumbung_provider_slots", "Jobs at a time.", per_model(|served| served.slot_count()))?;
        page.gauge("lumbung_provider_slots_taken", "Jobs that run.", per_model(|served| served.running()))?;
        let tunnels = i64::try_from(node.connected().len()).unwrap_or(i64::MAX);
        page.number("lumbung_provider_tunnels", "Gateways that a tunnel is open to.", tunnels)?;
        page.number(
            "lumbung_provider_draining",
            "Whether no new job is taken: paused, out of hours, machine in use, or about to end.",
            node.holds.any().into(),
        )?;
        let unacknowledged = i64::try_from(node.journal.backlog().len()).unwrap_or(i64::MAX);
        let help = "Receipts that the gateway has not acknowledged.";
        page.number("lumbung_provider_receipts_unacknowledged", help, unacknowledged)?;
        for (name, help, times) in [
            ("gen_ai_server_request_duration_seconds", "From a job's arrival to its end.", &meter.duration),
            ("gen_ai_server_time_to_first_token_seconds", "From arrival to the first token.", &meter.first_token),
            ("gen_ai_server_time_per_output_token_seconds", "Of each token after the first.", &meter.per_token),
        ] {
            page.times(name, help, [(Vec::new(), times.read())])?;
        }
        Ok(())
    }
}
