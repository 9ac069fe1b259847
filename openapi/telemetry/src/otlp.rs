//! Where traces and figures go: to a collector, over OTLP (http/protobuf), in batches, by OpenTelemetry's own SDK.
//!
//! Configured by the standard's variables: nothing is sent unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or that of one signal) is set.
//! The SDK reads those that are not read here: headers, timeouts, batch sizes, resource attributes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::genai;
use crate::trace::{Sampler, Tracer};

/// How long a collector may take where `OTEL_EXPORTER_OTLP_TIMEOUT` does not say less.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What is left when the process ends may take so long.
const LAST_WITHIN: Duration = Duration::from_secs(5);
/// The library's name in what is sent.
const SCOPE: &str = "lumbung";

/// What is being sent.
#[derive(Default)]
pub struct Otlp {
    meters: Option<SdkMeterProvider>,
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// A variable cannot be understood.
    #[error("{0}")]
    Variable(String),
    /// The exporter cannot be built.
    #[error("no OTLP exporter: {0}")]
    Exporter(String),
}

/// A variable that is set, and not to nothing.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a signal has somewhere to go.
fn is_wanted(signal: &str) -> bool {
    let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || variable(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|value| value == "none");
    let endpoint = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
    !is_off && (variable("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() || variable(&endpoint).is_some())
}

/// Reads the variables and begins to send what they ask for, if they do. To be called once, within a runtime.
/// `program` is the service's name where `OTEL_SERVICE_NAME` gives none; `instance` tells its processes apart.
pub fn start(program: &'static str, instance: String) -> Result<Otlp, OtlpError> {
    let (traces, metrics) = (is_wanted("TRACES"), is_wanted("METRICS"));
    if !traces && !metrics {
        return Ok(Otlp::default());
    }
    for name in
        ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"]
    {
        if let Some(other) = variable(name).filter(|protocol| protocol != "http/protobuf") {
            return Err(OtlpError::Variable(format!("{name}: '{other}' is not spoken here, only http/protobuf")));
        }
    }
    let resource = resource(program, instance);
    let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
    let client = Client::new()?;
    if traces {
        let (name, argument) = (variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"));
        let sampler = Sampler::parse(name.as_deref(), argument.as_deref()).map_err(OtlpError::Variable)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client.clone()).build();
        let exporter = exporter.map_err(|error| OtlpError::Exporter(error.to_string()))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource);
        let tracer = Tracer { sampler, processor, scope: scope.clone() };
        if !tracer.install() {
            return Err(OtlpError::Exporter("it was started before".into()));
        }
        info!(?sampler, "traces are sent over OTLP");
    }
    let meters = match metrics {
        true => {
            let exporter = MetricExporter::builder().with_http().with_http_client(client).build();
            let exporter = exporter.map_err(|error| OtlpError::Exporter(error.to_string()))?;
            let meters = SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource).build();
            genai::install(&meters.meter_with_scope(scope));
            info!("metrics are sent over OTLP");
            Some(meters)
        }
        false => None,
    };
    Ok(Otlp { meters })
}

fn resource(program: &'static str, instance: String) -> Resource {
    let own =
        [KeyValue::new("service.version", env!("CARGO_PKG_VERSION")), KeyValue::new("service.instance.id", instance)];
    let resource = Resource::builder().with_attributes(own);
    match variable("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(), // the SDK has read it
        None => resource.with_service_name(program).build(),
    }
}

impl Otlp {
    /// Sends what is left, in a few seconds at most.
    pub async fn stop(self) {
        let last = tokio::task::spawn_blocking(move || {
            if let Some(tracer) = Tracer::installed()
                && let Err(error) = tracer.processor.shutdown_with_timeout(LAST_WITHIN)
            {
                warn!(%error, "the last spans may not have been sent");
            }
            if let Some(meters) = self.meters
                && let Err(error) = meters.shutdown_with_timeout(LAST_WITHIN)
            {
                warn!(%error, "the last metrics may not have been sent");
            }
        });
        drop(last.await);
    }
}

/// The SDK's threads ask, this process' runtime sends.
#[derive(Clone, Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
    /// Whether the last batch was lost: told once, not for each.
    is_failing: Arc<AtomicBool>,
}

impl Client {
    fn new() -> Result<Self, OtlpError> {
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).build();
        let http = http.map_err(|error| OtlpError::Exporter(error.to_string()))?;
        Ok(Self { http, runtime: Handle::current(), is_failing: Arc::default() })
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.execute(request.try_into()?).await?;
        let mut response = Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            headers.clone_from(answer.headers());
        }
        Ok(response.body(answer.bytes().await?)?)
    }

    fn note(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let why = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !was_failing => warn!(why, "the OTLP collector does not take what is sent; it is lost"),
            None if was_failing => info!("the OTLP collector takes what is sent again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.runtime.spawn(self.clone().send(request)).await?;
        self.note(&sent);
        sent
    }
}
