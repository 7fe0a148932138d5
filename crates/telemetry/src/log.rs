//! One JSON object per line on stderr, with the ids of the current trace.

use std::fmt;

use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::text;

/// The longest text field of a log line, in bytes.
const FIELD_BYTES_MAX: usize = 2048;

pub(crate) struct Json {
    pub(crate) service: &'static str,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Map::new();
        line.insert("time".to_owned(), time.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("service".to_owned(), self.service.into());
        line.insert("target".to_owned(), event.metadata().target().into());
        event.record(&mut Fields(&mut line));
        let context = opentelemetry::Context::current();
        let span = context.span();
        if span.span_context().is_valid() {
            line.insert("trace_id".to_owned(), span.span_context().trace_id().to_string().into());
            line.insert("span_id".to_owned(), span.span_context().span_id().to_string().into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, text::clean(value, FIELD_BYTES_MAX).into_owned());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::TracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{names, setup, spans};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_carries_the_ids_of_its_span() {
        let lines = Lines::default();
        let writer = lines.clone();
        let provider = setup::provider_builder(opentelemetry_sdk::Resource::builder_empty().build()).build();
        let layer = tracing_subscriber::fmt::layer().event_format(Json { service: "attester" }).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(setup::trace_layer(provider.tracer("test"))).with(layer);
        let trace_id = tracing::subscriber::with_default(subscriber, || {
            spans::root(names::ATTEST).in_scope(|| {
                tracing::info!(td = "U1", size = 3, "quoted\nthen more");
                spans::current_trace_id().unwrap()
            })
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "a line feed in a text must not make a second line: {text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "quoted?then more");
        assert_eq!(
            (&line["td"], &line["size"], &line["level"], &line["service"]),
            (&"U1".into(), &3.into(), &"INFO".into(), &"attester".into())
        );
        assert_eq!(line["trace_id"], trace_id);
        assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
    }
}
