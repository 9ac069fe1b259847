//! The text that Prometheus reads, made anew each time it asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::metric::Reading;

/// The type of [`Pages::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Something with figures to tell.
pub trait Tells: Send + Sync + 'static {
    /// Writes them.
    fn tell(&self, page: &mut Page<'_, '_>) -> fmt::Result;
}

/// The text in the making.
pub struct Page<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    /// A number that only grows, for each set of labels. The text adds `_total` to its name.
    pub fn counter<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'l str, &'l str)>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            metric.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A number that rises and falls, for each set of labels.
    pub fn gauge<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'l str, &'l str)>, i64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels.as_slice())?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A number without labels that rises and falls.
    pub fn number(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        self.gauge(name, help, [(Vec::new(), value)])
    }

    /// A number without labels that only grows.
    pub fn total(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counter(name, help, [(Vec::new(), value)])
    }

    /// Times, in seconds, for each set of labels.
    pub fn times<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'l str, &'l str)>, Reading)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, reading) in values {
            let secs = |us: u64| us as f64 / 1e6;
            let buckets: Vec<(f64, u64)> =
                reading.buckets.iter().map(|(bound, count)| (bound.map_or(f64::INFINITY, secs), *count)).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let none: Option<&std::collections::HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
            let labels = labels.as_slice();
            metric.encode_family(&labels)?.encode_histogram(secs(reading.sum_us), count, &buckets, none)?;
        }
        Ok(())
    }
}

/// All that a process tells.
pub struct Pages(Registry);

struct Told(Arc<dyn Tells>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.tell(&mut Page(&mut encoder))
    }
}

impl Pages {
    /// Of these.
    pub fn new(told: impl IntoIterator<Item = Arc<dyn Tells>>) -> Self {
        let mut registry = Registry::default();
        told.into_iter().for_each(|told| registry.register_collector(Box::new(Told(told))));
        Self(registry)
    }

    /// The text as of now.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.0)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Histogram;

    struct Example;

    impl Tells for Example {
        fn tell(&self, page: &mut Page<'_, '_>) -> fmt::Result {
            let histogram = Histogram::new(&[1000, 500_000]);
            [1000, 1001, 2_000_000].into_iter().for_each(|us| histogram.observe_us(us));
            page.counter("requests", "Requests.", [(vec![("model", "a\"b")], 3)])?;
            page.number("waiting", "Who waits.", -1)?;
            page.times("wait_seconds", "How long.", [(vec![], histogram.read())])
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let page = Pages::new([Arc::new(Example) as Arc<dyn Tells>]).render().expect("text");
        for line in [
            "# TYPE requests counter",
            r#"requests_total{model="a\"b"} 3"#,
            "waiting -1",
            r#"wait_seconds_bucket{le="0.001"} 1"#,
            r#"wait_seconds_bucket{le="0.5"} 2"#,
            r#"wait_seconds_bucket{le="+Inf"} 3"#,
            "wait_seconds_sum 2.002001",
            "wait_seconds_count 3",
            "# EOF",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}
