//! Log lines: text for people, JSON for machines, and never a secret.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt::{MakeWriter, writer::BoxMakeWriter},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::{json::JsonLines, scrub::Scrubbed};
use crate::config::{Log, LogFormat};

/// The filter of `config/default.toml`: it means that nobody asked for another one.
const DEFAULT_FILTER: &str = "info";

/// Crates that see URLs, headers or bodies in the raw. At `debug` and `trace` they write them into their log lines, the
/// pre-authenticated download URL and the `authorization` header among them, so they stay silent.
const SILENT: &[&str] = &["h2", "hyper", "hyper_rustls", "hyper_util", "reqwest", "tower", "tower_http"];

/// Our own crates: everything else is somebody else's, and says no more than warnings.
const OURS: &[&str] = &["m365_ledger", "graph_sim"];

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// For the daemon: containers collect it.
    Stdout,
    /// For commands: their stdout belongs to their result.
    Stderr,
    /// For commands that are read by people: as [`Destination::Stderr`], and only warnings and errors unless another
    /// filter than the default was set.
    StderrQuiet,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.filter` cannot be read.
    #[error("log.filter: `{filter}` is no filter: {reason} (for example `info` or `info,m365_ledger::graph=debug`)")]
    Filter {
        /// As it was set.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A second call in one process.
    #[error("logging is already set up")]
    Again,
}

/// Sets up logging for the whole process. To be called once.
///
/// With `log.format = "auto"` a terminal gets text, everything else one JSON object a line. Whatever `log.filter` says,
/// other people's crates are held to warnings, and those that handle URLs and headers to silence; and every line goes
/// through a last filter that cuts user, query and fragment out of URLs.
pub fn init(log: &Log, to: Destination) -> Result<(), LogError> {
    let (writers, terminal) = match to {
        Destination::Stdout => (BoxMakeWriter::new(io::stdout), io::stdout().is_terminal()),
        Destination::Stderr | Destination::StderrQuiet => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
    };
    let filter = match to {
        // A failed attempt stands in the command's own table, with advice.
        Destination::StderrQuiet if log.filter == DEFAULT_FILTER => "warn,m365_ledger::daemon::worker=error",
        _ => &log.filter,
    };
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    subscriber(filter, text, terminal, writers)?.try_init().map_err(|_| LogError::Again)?;
    if to == Destination::Stdout {
        log_panics();
    }
    Ok(())
}

/// All of it but the installing, so that tests can look at what is written.
fn subscriber<M>(filter: &str, text: bool, terminal: bool, writers: M) -> Result<impl SubscriberInitExt, LogError>
where
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let capped = filter.and(filter_fn(is_harmless));
    Ok(Registry::default().with(lines(text, terminal, Scrubbed(writers)).with_filter(capped)))
}

fn lines<S, M>(text: bool, terminal: bool, writers: M) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    if !text {
        return Box::new(JsonLines::new(writers));
    }
    let layer = tracing_subscriber::fmt::layer().with_writer(writers);
    // On a terminal the layer decides itself: it honours NO_COLOR.
    if terminal { Box::new(layer) } else { Box::new(layer.with_ansi(false)) }
}

/// The cap on what other people's crates may say, whatever the user's filter allows.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next().unwrap_or_default();
    let cap = if OURS.contains(&krate) {
        LevelFilter::TRACE
    } else if SILENT.contains(&krate) {
        LevelFilter::OFF
    } else {
        LevelFilter::from_level(Level::WARN)
    };
    *metadata.level() <= cap
}

/// Makes a panic a log line like any other, in place of bare text on stderr.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string);
        let what = info.payload_as_str().unwrap_or("no message");
        tracing::error!(panic.location = at, panic.message = what, "a fault of this program: panic");
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use tracing_subscriber::util::SubscriberInitExt;

    use super::subscriber;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn capture(filter: &str, text: bool, act: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writers = {
            let captured = captured.clone();
            move || captured.clone()
        };
        let guard = subscriber(filter, text, false, writers).unwrap().set_default();
        act();
        drop(guard);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_is_flat_and_has_the_fields_of_its_spans() {
        let out = capture("info", false, || {
            let outer =
                tracing::info_span!("attempt", tenant = "Contoso", period = 7, request_id = tracing::field::Empty);
            outer.record("request_id", "r-1");
            let _outer = outer.entered();
            let _inner = tracing::info_span!("stage", period = 30).entered();
            let error = io::Error::other("broken");
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                rows = 3u64,
                level = "forged",
                "could not {}",
                "do it"
            );
        });
        let line: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(out.matches('\n').count(), 1);
        assert_eq!(line["message"], "could not do it");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["target"], "m365_ledger::telemetry::logs::tests");
        assert_eq!(line["tenant"], "Contoso");
        assert_eq!(line["request_id"], "r-1");
        assert_eq!(line["period"], 30, "the inner span wins");
        assert_eq!(line["rows"], 3);
        assert_eq!(line["error"], "broken");
        let time = line["time"].as_str().unwrap();
        assert!(time.ends_with('Z'));
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok());
    }

    #[test]
    fn a_line_break_in_a_value_stays_inside_its_line() {
        let out = capture("info", false, || tracing::info!(tenant = "a\n{\"level\":\"ERROR\"}", "hello"));
        assert_eq!(out.lines().count(), 1);
    }

    #[test]
    fn other_crates_cannot_leak_even_at_trace() {
        for text in [true, false] {
            let out = capture("trace,hyper=trace,reqwest=trace,sqlx=trace", text, || {
                tracing::error!(target: "hyper::proto", "secret-1");
                tracing::trace!(target: "hyper_util::client", "secret-2");
                tracing::debug!(target: "reqwest::connect", "secret-3");
                tracing::warn!(target: "h2::codec", "secret-4");
                tracing::info!(target: "sqlx::query", "secret-5");
                tracing::debug!(target: "rustls::client", "secret-6");
                tracing::info!(target: "tokio_cron_scheduler::job", "secret-7");
                let _span = tracing::info_span!(target: "h2::proto", "conn", uri = "secret-8").entered();
                tracing::warn!(target: "sqlx::pool", "pool is slow");
                tracing::trace!("ours");
            });
            assert!(!out.contains("secret"), "{out}");
            assert!(out.contains("pool is slow") && out.contains("ours"), "{out}");
        }
    }

    #[test]
    fn secrets_in_urls_are_cut_in_both_formats() {
        for text in [true, false] {
            let out = capture("info", text, || {
                let _span = tracing::info_span!("s", from = "https://dl.office.com/a?sig=SECRET").entered();
                tracing::info!(database = "postgres://u:SECRET@db/x", "went to {}", "https://h/p?t=SECRET");
            });
            assert!(!out.contains("SECRET"), "{out}");
            assert!(out.contains("dl.office.com"), "{out}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error_that_names_the_setting() {
        let error = subscriber("m365_ledger=loud", false, false, io::sink).err().unwrap().to_string();
        assert!(error.contains("log.filter") && error.contains("loud"), "{error}");
    }
}
