//! Trace contexts, sampling and spans.
//!
//! A span is made when it has ended, from times that its job knows anyway, and only where its trace is sampled. So a request
//! that is not sampled costs the look at one header and one comparison.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};

/// W3C Trace Context's header. `tracestate` is not passed on: it is the client's own, and providers are strangers.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Where this process' spans go. None where nothing is configured.
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// What samples and sends.
#[derive(Debug)]
pub(crate) struct Tracer {
    pub(crate) sampler: Sampler,
    pub(crate) processor: BatchSpanProcessor,
    pub(crate) scope: InstrumentationScope,
}

impl Tracer {
    /// From now on, for the whole process; `false` where there was one already.
    pub(crate) fn install(self) -> bool {
        TRACER.set(self).is_ok()
    }

    pub(crate) fn installed() -> Option<&'static Self> {
        TRACER.get()
    }
}

/// Which traces are recorded, as `OTEL_TRACES_SAMPLER` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether the caller's decision stands, where it has made one.
    heeds_parent: bool,
    /// Of 2^63 trace ids, so many are recorded.
    of_2_to_63: u64,
}

impl Sampler {
    /// Reads the two variables' values.
    pub fn parse(name: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        let ratio = || match argument {
            None => Err("OTEL_TRACES_SAMPLER_ARG is missing: the share of traces to record, such as 0.01".to_owned()),
            Some(text) => match text.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok((ratio * (1_u64 << 63) as f64) as u64),
                _ => Err(format!("OTEL_TRACES_SAMPLER_ARG: '{text}' is no number from 0 to 1")),
            },
        };
        let (heeds_parent, of_2_to_63) = match name.unwrap_or("parentbased_always_on") {
            "always_on" => (false, 1 << 63),
            "always_off" => (false, 0),
            "traceidratio" => (false, ratio()?),
            "parentbased_always_on" => (true, 1 << 63),
            "parentbased_always_off" => (true, 0),
            "parentbased_traceidratio" => (true, ratio()?),
            other => return Err(format!("OTEL_TRACES_SAMPLER: '{other}' is not known here")),
        };
        Ok(Self { heeds_parent, of_2_to_63 })
    }

    fn takes(self, parent: Option<&Parent>, low_half: u64) -> bool {
        match parent {
            Some(parent) if self.heeds_parent => parent.sampled,
            // As the SDKs do it, so that all of them agree about one trace.
            _ => low_half >> 1 < self.of_2_to_63,
        }
    }
}

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: TraceId,
    span: SpanId,
    sampled: bool,
}

impl Parent {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may have more to say, but begin like this one.
        let is_known = match version {
            "00" => parts.next().is_none(),
            "ff" => false,
            _ => is_hex(version, 2),
        };
        if !is_known || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span, sampled })
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A place in a sampled trace: that of one span, which may not have ended yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: TraceId,
    span: SpanId,
    parent: SpanId,
    parent_is_remote: bool,
}

impl Context {
    /// A request comes in from outside: whether it is sampled. `draw` is random, or follows from something random.
    pub fn begin(headers: &HeaderMap, draw: impl FnOnce() -> u64) -> Option<Self> {
        TRACER.get().and_then(|tracer| Self::sample(tracer.sampler, headers, draw))
    }

    fn sample(sampler: Sampler, headers: &HeaderMap, draw: impl FnOnce() -> u64) -> Option<Self> {
        let parent = Parent::read(headers);
        let low_half = parent.map_or_else(draw, |parent| u128::from_be_bytes(parent.trace.to_bytes()) as u64);
        if !sampler.takes(parent.as_ref(), low_half) {
            return None;
        }
        let span = fresh_span();
        Some(match parent {
            Some(parent) => Self { trace: parent.trace, span, parent: parent.span, parent_is_remote: true },
            None => {
                let high_half = u64::from_be_bytes(fresh_span().to_bytes());
                let trace = TraceId::from((u128::from(high_half) << 64) | u128::from(low_half));
                Self { trace, span, parent: SpanId::INVALID, parent_is_remote: false }
            }
        })
    }

    /// A request comes in from another of our own processes: part of its trace, if that is sampled, and there is somewhere to
    /// tell of it.
    pub fn follow(headers: &HeaderMap) -> Option<Self> {
        TRACER.get()?;
        let parent = Parent::read(headers).filter(|parent| parent.sampled)?;
        Some(Self { trace: parent.trace, span: fresh_span(), parent: parent.span, parent_is_remote: true })
    }

    /// A part of this part.
    pub fn child(&self) -> Self {
        Self { trace: self.trace, span: fresh_span(), parent: self.span, parent_is_remote: false }
    }

    /// As [`TRACEPARENT`] tells it.
    pub fn header(&self) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-01", self.trace, self.span);
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The trace's id in hexadecimal, for logs.
    pub fn trace_id(&self) -> TraceId {
        self.trace
    }
}

fn fresh_span() -> SpanId {
    let mut bytes = [0; 8];
    // Without entropy nothing else here works either; a span that is not valid is not sent.
    let _ = getrandom::fill(&mut bytes);
    SpanId::from_bytes(bytes)
}

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Serves what another process asks.
    Server,
    /// Asks another process.
    Client,
    /// Within this process.
    Internal,
}

/// A part of a trace that is over.
pub struct Span(SpanData);

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({})", self.0.name)
    }
}

impl Span {
    /// From its beginning to its end, Unix microseconds.
    pub fn new(context: Context, kind: Kind, name: String, start_us: i64, end_us: i64) -> Self {
        let Context { trace, span, parent, parent_is_remote } = context;
        Self(SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: parent,
            parent_span_is_remote: parent_is_remote,
            span_kind: match kind {
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
                Kind::Internal => SpanKind::Internal,
            },
            name: name.into(),
            start_time: at(start_us),
            end_time: at(end_us.max(start_us)),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: TRACER.get().map_or_else(InstrumentationScope::default, |t| t.scope.clone()),
        })
    }

    /// Adds an attribute: a number, or a name that the code or the catalogue gives.
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.0.attributes.push(KeyValue::new(key, value));
        self
    }

    /// Adds an attribute, where there is a value.
    pub fn with_some(self, key: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Something happened then, Unix microseconds.
    pub fn event(mut self, name: &'static str, at_us: i64) -> Self {
        self.0.events.events.push(Event::new(name, at(at_us), Vec::new(), 0));
        self
    }

    /// It failed, if it did; the kind is one of the code's own names.
    pub fn failed(mut self, kind: Option<&'static str>) -> Self {
        if let Some(kind) = kind {
            self.0.status = Status::error("");
            self.0.attributes.push(KeyValue::new(crate::genai::ERROR_TYPE, kind));
        }
        self
    }

    /// Hands it over for sending. Where that is not quick enough, it is lost; nobody waits.
    pub fn send(self) {
        if let Some(tracer) = TRACER.get() {
            tracer.processor.on_end(self.0);
        }
    }
}

/// An attribute's value of several texts.
pub fn texts(texts: Vec<&'static str>) -> Value {
    Value::Array(Array::String(texts.into_iter().map(Into::into).collect()))
}

fn at(us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(us.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(traceparent: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(traceparent))])
    }

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let parent = Parent::read(&headers(SAMPLED)).expect("a parent");
        assert_eq!((parent.trace.to_string().as_str(), parent.sampled), ("4bf92f3577b34da6a3ce929d0e0e4736", true));
        assert!(Parent::read(&headers(NOT_SAMPLED)).is_some_and(|parent| !parent.sampled));
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(Parent::read(&headers(later)).is_some(), "a later version begins like this one");
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::read(&headers(bad)), None, "{bad}");
        }
    }

    #[test]
    fn the_callers_decision_stands_where_the_sampler_says_so() {
        let sampler = |name, argument| Sampler::parse(Some(name), argument).expect("a sampler");
        let samples = |sampler, headers: &HeaderMap| Context::sample(sampler, headers, || u64::MAX).is_some();
        for (name, argument, expected) in [
            ("always_on", None, [true, true, true]),
            ("always_off", None, [false, false, false]),
            ("parentbased_always_on", None, [true, false, true]),
            ("parentbased_always_off", None, [true, false, false]),
            ("parentbased_traceidratio", Some("0.5"), [true, false, false]),
            ("traceidratio", Some("1"), [true, true, true]),
        ] {
            let sampler = sampler(name, argument);
            let got = [headers(SAMPLED), headers(NOT_SAMPLED), HeaderMap::new()].map(|h| samples(sampler, &h));
            assert_eq!(got, expected, "{name}");
        }
        for (name, argument) in [("traceidratio", None), ("traceidratio", Some("2")), ("jaeger_remote", None)] {
            assert!(Sampler::parse(Some(name), argument).is_err(), "{name}");
        }
    }

    #[test]
    fn one_in_a_hundred_is_one_in_a_hundred() {
        let sampler = Sampler::parse(Some("parentbased_traceidratio"), Some("0.01")).expect("a sampler");
        let step = u64::MAX / 10_000;
        let taken = (0..10_000).filter(|n| Context::sample(sampler, &HeaderMap::new(), || n * step).is_some()).count();
        assert!((99..=101).contains(&taken), "{taken}");
    }

    #[test]
    fn a_child_follows_its_parent_and_tells_its_own_span() {
        let always = Sampler::parse(None, None).expect("a sampler");
        let root = Context::sample(always, &headers(SAMPLED), || 0).expect("sampled");
        let child = root.child();
        assert_eq!((root.trace, root.parent_is_remote), (child.trace, true));
        assert_eq!(child.parent, root.span);
        let told = HeaderMap::from_iter([(TRACEPARENT, child.header())]);
        let parent = Parent::read(&told).expect("a parent");
        assert_eq!((parent.trace, parent.span, parent.sampled), (child.trace, child.span, true));
    }
}
