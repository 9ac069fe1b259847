//! What is told of a job when it is over: figures, and its trace where that is sampled. Made from what the job knows anyway,
//! and never from what was asked or answered. `deploy/observe/README.md` says what each name means.

use lumbung_openapi::endpoint::Endpoint;
use lumbung_telemetry::genai::{self, Answered};
use lumbung_telemetry::trace::{Context, Kind, Span};

use super::settle::Totals;
use crate::domain::meter::ModelMeter;
use crate::store::Settlement;

/// How a job and an attempt end that have nothing to complain of.
const COMPLETE: &str = "complete";

/// Tells of one provider's attempt. `broke_off` says why, where it did not come to its end.
pub fn attempt(
    meter: &ModelMeter,
    endpoint: Endpoint,
    settlement: &Settlement,
    broke_off: Option<&'static str>,
    trace: Option<Context>,
) {
    let Settlement { ticket, counted, charge, .. } = settlement;
    meter.attempts.count(broke_off.unwrap_or(COMPLETE));
    meter.continued.add(u64::from(ticket.first_token > 0));
    meter.charge(charge);
    counted.per_token_us().into_iter().for_each(|us| meter.per_token.observe_us(us));
    let Some(trace) = trace else { return };
    let (operation, model) = (endpoint.operation(), ticket.model.clone());
    let name = format!("{operation} {model}");
    let mut span = Span::new(trace, Kind::Client, name, counted.started_us, counted.finished_us)
        .with(genai::OPERATION, operation)
        .with(genai::PROVIDER, genai::LUMBUNG)
        .with(genai::REQUEST_MODEL, model.clone())
        .with(genai::RESPONSE_MODEL, model)
        .with(genai::RESPONSE_ID, ticket.public_id.clone())
        .with(genai::MAX_TOKENS, i64::from(ticket.max_completion_tokens))
        .with(genai::INPUT_TOKENS, i64::from(counted.prompt_tokens))
        .with(genai::OUTPUT_TOKENS, i64::from(counted.completion_tokens))
        .with("lumbung.job.id", ticket.job.clone())
        .with("lumbung.attempt", i64::from(ticket.attempt))
        .with("lumbung.attempt.first_token", i64::from(ticket.first_token))
        .with("lumbung.provider.id", ticket.provider.clone())
        .with("lumbung.charge.nano_usd", charge.amount.nanos())
        .failed(broke_off);
    if broke_off.is_none() {
        let reasons = vec![known_reason(&counted.finish_reason)];
        span = span.with(genai::FINISH_REASONS, lumbung_telemetry::trace::texts(reasons));
    }
    let span = match counted.first_token_us {
        Some(first) => span.event("first token", first),
        None => span,
    };
    span.send();
}

/// A reason to end, if it is one of those that there are: a provider may write anything.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 4] = ["stop", "length", "tool_calls", "content_filter"];
    KNOWN.into_iter().find(|known| *known == reason).unwrap_or("other")
}

/// A job that is over.
pub struct Over<'a> {
    /// Where it came.
    pub endpoint: Endpoint,
    /// The catalogue's id of the model that was tried last.
    pub model: &'a str,
    /// The id that the client sees.
    pub id: &'a str,
    /// `x-request-id` of the answer.
    pub request_id: &'a str,
    /// `complete`, `client_gone`, or an error's kind.
    pub outcome: &'static str,
    /// Tokens charged.
    pub totals: Totals,
    /// When it came, Unix microseconds.
    pub received_us: i64,
    /// When its first token arrived, Unix microseconds.
    pub first_token_us: Option<i64>,
    /// When it was over, Unix microseconds.
    pub over_us: i64,
}

impl Over<'_> {
    fn since_received(&self, at: i64) -> u64 {
        u64::try_from(at - self.received_us).unwrap_or(0)
    }

    fn first_token_after_us(&self) -> Option<u64> {
        self.first_token_us.map(|at| self.since_received(at))
    }

    /// Tells it in figures.
    pub fn count(&self, meter: &ModelMeter) {
        let Totals { prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, .. } = self.totals;
        meter.outcomes.count(self.outcome);
        meter.prompt_tokens.add(u64::from(prompt_tokens));
        meter.cached_tokens.add(u64::from(cached_tokens));
        meter.completion_tokens.add(u64::from(completion_tokens));
        meter.reasoning_tokens.add(u64::from(reasoning_tokens));
        meter.duration.observe_us(self.since_received(self.over_us));
        self.first_token_after_us().into_iter().for_each(|us| meter.first_token.observe_us(us));
    }

    /// Tells of it as the root of what this gateway knows of the trace.
    pub fn trace(&self, trace: Option<Context>, attempts: usize) {
        let Some(trace) = trace else { return };
        let error = (self.outcome != COMPLETE).then_some(self.outcome);
        let name = format!("POST {}", self.endpoint.path());
        let span = Span::new(trace, Kind::Server, name, self.received_us, self.over_us)
            .with("http.request.method", "POST")
            .with("http.route", self.endpoint.path())
            .with("lumbung.request.id", self.request_id.to_owned())
            .with("lumbung.response.id", self.id.to_owned())
            .with("lumbung.model", self.model.to_owned())
            .with("lumbung.outcome", self.outcome)
            .with("lumbung.attempts", i64::try_from(attempts).unwrap_or(i64::MAX))
            .failed(error);
        let span = match self.first_token_us {
            Some(first) => span.event("first token", first),
            None => span,
        };
        span.send();
    }

    /// The same for OpenTelemetry's own metrics, if they are sent.
    pub fn answered(&self) -> Option<Answered> {
        genai::is_wanted().then(|| {
            let later = u64::from(self.totals.completion_tokens.saturating_sub(1));
            let per_token = |first: i64| u64::try_from(self.over_us - first).ok()?.checked_div(later);
            Answered {
                operation: self.endpoint.operation(),
                model: self.model.to_owned(),
                error: (self.outcome != COMPLETE).then_some(self.outcome),
                input_tokens: self.totals.prompt_tokens,
                output_tokens: self.totals.completion_tokens,
                duration_us: self.since_received(self.over_us),
                first_token_us: self.first_token_after_us(),
                per_token_us: self.first_token_us.and_then(per_token),
            }
        })
    }
}
