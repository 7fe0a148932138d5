//! Metrics as declared values: `names::RELEASE_DECISIONS.add(1, &[(names::DECISION, "denied"), ...])`.
//!
//! Before [`crate::init`] measurements go nowhere. A label that a metric does not declare is dropped: an undeclared label
//! is a mistake, and one more time series per caller's whim is worse than a missing label.

use std::sync::OnceLock;

use opentelemetry::{
    KeyValue,
    metrics::{Counter as OtelCounter, Gauge as OtelGauge, Histogram as OtelHistogram, Meter},
};
use prometheus::{Encoder, Registry, TextEncoder};

use crate::{names::Attribute, text};

static METER: OnceLock<Meter> = OnceLock::new();
static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// A label and its value, from a bounded set.
pub type Label<'a> = (Attribute, &'a str);

/// What every declared metric can say about itself.
pub trait Instrument: Sync {
    /// The name as exported over OTLP.
    fn name(&self) -> &'static str;
    /// The unit, in UCUM.
    fn unit(&self) -> &'static str;
    /// The labels it may carry.
    fn labels(&self) -> &'static [Attribute];
    /// The name in Prometheus text, e.g. `keyferry_key_release_decisions_total`.
    fn prometheus_name(&self) -> String;
}

macro_rules! instrument {
    ($(#[doc = $doc:literal])+ $type:ident, $otel:ty, $prometheus:literal, [$($extra:ident: $extra_type:ty),*]) => {
        $(#[doc = $doc])+
        pub struct $type {
            name: &'static str,
            unit: &'static str,
            description: &'static str,
            labels: &'static [Attribute],
            $($extra: $extra_type,)*
            instrument: OnceLock<$otel>,
        }
        impl $type {
            pub(crate) const fn new(
                name: &'static str,
                unit: &'static str,
                description: &'static str,
                labels: &'static [Attribute],
                $($extra: $extra_type,)*
            ) -> Self {
                Self { name, unit, description, labels, $($extra,)* instrument: OnceLock::new() }
            }
        }
        impl Instrument for $type {
            fn name(&self) -> &'static str {
                self.name
            }
            fn unit(&self) -> &'static str {
                self.unit
            }
            fn labels(&self) -> &'static [Attribute] {
                self.labels
            }
            fn prometheus_name(&self) -> String {
                let unit = if self.unit == "s" { "_seconds" } else { "" };
                format!("{}{unit}{}", self.name.replace('.', "_"), $prometheus)
            }
        }
    };
}

instrument! {
    /// A count that only grows.
    Counter, OtelCounter<u64>, "_total", []
}
instrument! {
    /// A distribution with its own buckets.
    Histogram, OtelHistogram<f64>, "", [buckets: &'static [f64]]
}
instrument! {
    /// A value that is set.
    Gauge, OtelGauge<f64>, "", []
}

impl Counter {
    /// Adds `value`. Adding 0 at start makes the series exist, so that rates work from the first event.
    pub fn add(&'static self, value: u64, labels: &[Label<'_>]) {
        #[allow(clippy::disallowed_methods, reason = "the one place where declared metrics become instruments")]
        let build = |meter: &Meter| meter.u64_counter(self.name).with_unit(self.unit).with_description(self.description).build();
        if let Some(meter) = METER.get() {
            self.instrument.get_or_init(|| build(meter)).add(value, &key_values(self.labels, labels));
        }
    }
}

impl Histogram {
    /// Records `value`, in the metric's unit.
    pub fn record(&'static self, value: f64, labels: &[Label<'_>]) {
        #[allow(clippy::disallowed_methods, reason = "the one place where declared metrics become instruments")]
        let build = |meter: &Meter| {
            let builder = meter.f64_histogram(self.name).with_unit(self.unit).with_description(self.description);
            builder.with_boundaries(self.buckets.to_vec()).build()
        };
        if let Some(meter) = METER.get() {
            self.instrument.get_or_init(|| build(meter)).record(value, &key_values(self.labels, labels));
        }
    }
}

impl Gauge {
    /// Sets the value, in the metric's unit.
    pub fn set(&'static self, value: f64, labels: &[Label<'_>]) {
        #[allow(clippy::disallowed_methods, reason = "the one place where declared metrics become instruments")]
        let build = |meter: &Meter| meter.f64_gauge(self.name).with_unit(self.unit).with_description(self.description).build();
        if let Some(meter) = METER.get() {
            self.instrument.get_or_init(|| build(meter)).record(value, &key_values(self.labels, labels));
        }
    }
}

fn key_values(declared: &[Attribute], labels: &[Label<'_>]) -> Vec<KeyValue> {
    let keep = |(name, value): &Label<'_>| {
        if declared.contains(name) {
            return Some(KeyValue::new(name.as_str(), text::label(value)));
        }
        // Not a panic, not even in a debug build: telemetry is never a reason to fail.
        tracing::warn!(label = name.as_str(), "a label is not declared for this metric and was dropped");
        None
    };
    labels.iter().filter_map(keep).collect()
}

pub(crate) fn install(meter: Meter, registry: Registry) {
    // Whoever comes second in one process shares the first one's provider.
    let _first_wins = METER.set(meter);
    let _first_wins = REGISTRY.set(registry);
}

/// Every metric of this process in Prometheus' text format; empty before [`crate::init`].
pub fn render() -> String {
    let Some(registry) = REGISTRY.get() else { return String::new() };
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => String::from_utf8(text).unwrap_or_default(),
        Err(error) => format!("# metrics could not be rendered: {error}\n"),
    }
}
