//! One JSON object a line: time, level, target, message, and the fields of the event and of the spans around it, flat.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use chrono::SecondsFormat;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    fmt::MakeWriter,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use crate::clock::Clock;

/// Writes each event as one JSON object on one line to the writers of `M`.
///
/// The keys `time`, `level`, `target` and `message` come first and cannot be overwritten by a field of that name. Where
/// spans and the event name the same field, the inner one wins.
#[derive(Debug)]
pub struct JsonLines<M> {
    writers: M,
    clock: Clock,
}

impl<M> JsonLines<M> {
    /// Lines that bear the time of the machine's clock.
    pub fn new(writers: M) -> Self {
        Self { writers, clock: Clock::System }
    }
}

/// The fields of a span, kept with the span.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl<S, M> Layer<S> for JsonLines<M>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    M: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut extensions = span.extensions_mut();
            if let Some(fields) = extensions.get_mut::<Fields>() {
                values.record(fields);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            inherit(&mut fields, &span);
        }
        event.record(&mut fields);

        let metadata = event.metadata();
        let message = fields.0.remove("message").unwrap_or_default();
        let time = self.clock.now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let head = [
            ("time", Value::from(time)),
            ("level", metadata.level().as_str().into()),
            ("target", metadata.target().into()),
            ("message", message),
        ];
        let tail = fields.0.iter().filter(|(name, _)| head.iter().all(|(taken, _)| taken != name));
        let mut text = String::from("{");
        for (name, value) in head.iter().map(|(name, value)| (*name, value)).chain(tail.map(|(n, v)| (n.as_str(), v))) {
            let comma = if text.len() > 1 { "," } else { "" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{}:{value}", Value::from(name));
        }
        text.push('}');
        text.push('\n');
        // Nobody is left to be told when the log itself cannot be written.
        let _ = self.writers.make_writer_for(metadata).write_all(text.as_bytes());
    }
}

fn inherit<S: for<'a> LookupSpan<'a>>(fields: &mut Fields, span: &SpanRef<'_, S>) {
    if let Some(of_span) = span.extensions().get::<Fields>() {
        fields.0.extend(of_span.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}
