//! The status page: from what the ledger says to words that a person understands. Pure; `templates/status.html` lays it
//! out.

use std::sync::LazyLock;

use askama::Template;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::{
    NextDue,
    chart::{self, Chart, chart},
    data::Details,
};
use crate::{
    outcome::{ErrorClass, Retry},
    report::Period,
    store::status::{AttemptLine, Gap, TargetStatus},
    telemetry::scrub,
};

/// With more targets than this, only those that need attention most are listed.
const MOST_ROWS: usize = 50;

/// Longest list of gaps.
const MOST_GAPS: usize = 50;

const CSS: &str = include_str!("../../templates/status.css");

/// What a browser may do with the page: show it, with exactly the one style sheet inside it, and nothing else.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = base64(&Sha256::digest(CSS));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// Everything the page shows.
#[derive(Debug, Template)]
#[template(path = "status.html")]
pub struct Page {
    css: &'static str,
    version: &'static str,
    as_of: Moment,
    /// `good`, `wait` or `bad`: the colour of the headline.
    mood: &'static str,
    headline: String,
    remark: Option<&'static str>,
    /// Whether the ledger could be read at all.
    readable: bool,
    counts: Vec<(&'static str, usize)>,
    rows: Vec<Row>,
    total: usize,
    chart: Option<(String, Chart)>,
    attempts: Vec<Attempt>,
    gaps: Vec<Hole>,
    more_gaps: usize,
}

/// One target.
#[derive(Debug)]
struct Row {
    tenant: String,
    report: String,
    period: String,
    state: State,
    refresh_date: String,
    behind: Option<String>,
    success: Option<Moment>,
    outcome: Option<&'static str>,
    error_class: Option<String>,
    advice: Option<&'static str>,
    next_due: Option<Moment>,
}

/// How a target stands, as a colour, a sign and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Attention,
    Waiting,
    Fresh,
}

impl State {
    fn class(self) -> &'static str {
        match self {
            Self::Attention => "bad",
            Self::Waiting => "wait",
            Self::Fresh => "good",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Attention => "!",
            Self::Waiting => "\u{2026}",
            Self::Fresh => "\u{2713}",
        }
    }
}

/// An instant for people and, in the `datetime` attribute, for machines.
#[derive(Debug)]
struct Moment {
    relative: String,
    absolute: String,
    machine: String,
}

/// One attempt.
#[derive(Debug)]
struct Attempt {
    at: Moment,
    tenant: String,
    report: String,
    period: String,
    class: &'static str,
    outcome: &'static str,
    reason: String,
    refresh_date: String,
    rows: String,
    seconds: String,
}

/// Days without figures.
#[derive(Debug)]
struct Hole {
    tenant: String,
    report: String,
    from: String,
    to: String,
    days: i32,
}

impl Page {
    /// The page for what the ledger says at `now`.
    pub fn new(targets: &[TargetStatus], details: Option<&Details>, next: &NextDue, now: DateTime<Utc>) -> Self {
        let mut rows: Vec<Row> = targets.iter().map(|target| Row::new(target, next, now)).collect();
        let (mood, headline) = headline(&rows);
        let counts = [("Need attention", State::Attention), ("Waiting", State::Waiting), ("Up to date", State::Fresh)]
            .map(|(words, state)| (words, rows.iter().filter(|row| row.state == state).count()));
        rows.sort_by_key(|row| row.state);
        rows.truncate(MOST_ROWS);

        let empty = Details::default();
        let known = details.unwrap_or(&empty);
        Self {
            css: CSS,
            version: env!("CARGO_PKG_VERSION"),
            as_of: Moment::new(now, now),
            mood,
            headline,
            remark: details.is_none().then_some("The database took too long for the details; reload in a moment."),
            readable: true,
            counts: counts.into_iter().filter(|(_, count)| *count > 0).collect(),
            rows,
            total: targets.len(),
            chart: targets.first().map(|target| target.tenant_name.clone()).zip(chart(&known.days)),
            attempts: known.attempts.iter().map(|attempt| Attempt::new(attempt, now)).collect(),
            gaps: known.gaps.iter().take(MOST_GAPS).map(Hole::new).collect(),
            more_gaps: known.gaps.len().saturating_sub(MOST_GAPS),
        }
    }

    /// The page for a ledger that cannot be read.
    pub fn unreadable(now: DateTime<Utc>) -> Self {
        Self {
            mood: "bad",
            headline: "The database does not answer".to_owned(),
            remark: Some(
                "Nothing is lost: what Microsoft holds is fetched as soon as Postgres is back. Check that it runs and that \
                 database.url is right.",
            ),
            readable: false,
            ..Self::new(&[], Some(&Details::default()), &NextDue::default(), now)
        }
    }
}

impl Row {
    fn new(target: &TargetStatus, next: &NextDue, now: DateTime<Utc>) -> Self {
        let class = target.last_error_class.as_deref().and_then(error_class);
        let next_due = target.next_try_at.or_else(|| next.get(target.tenant_id, &target.report, target.report_period));
        Self {
            tenant: target.tenant_name.clone(),
            report: spaced(&target.report),
            period: period(target.report_period),
            state: state(target, class),
            refresh_date: target.newest_refresh_date.map_or_else(none, |date| date.to_string()),
            behind: target.days_behind.map(|days| count(i64::from(days), "day")),
            success: target.last_success_at.map(|at| Moment::new(at, now)),
            outcome: target.last_outcome.as_deref().map(outcome),
            error_class: target.last_error_class.clone(),
            advice: class.map(ErrorClass::advice),
            next_due: next_due.map(|at| Moment::new(at, now)),
        }
    }

    /// The state in words; two targets of one colour may be there for different reasons.
    fn words(&self) -> &'static str {
        match (self.state, self.success.is_some(), self.outcome.is_some()) {
            (State::Fresh, ..) => "Up to date",
            (State::Waiting, true, _) => "Waiting for Microsoft",
            (State::Waiting, false, true) => "No data yet",
            (State::Waiting, false, false) => "Not fetched yet",
            (State::Attention, ..) => "Needs attention",
        }
    }
}

/// What a person is to think of a target: `stale` and `late` are the ledger's words, and an error that only a person can
/// end needs attention before the data are old.
fn state(target: &TargetStatus, class: Option<ErrorClass>) -> State {
    let needs_human = class.is_some_and(|class| class.retry() == Retry::NeedsHuman);
    match target.state.as_str() {
        _ if needs_human => State::Attention,
        "ok" => State::Fresh,
        "late" | "never" => State::Waiting,
        _ => State::Attention,
    }
}

fn headline(rows: &[Row]) -> (&'static str, String) {
    let number = |state| rows.iter().filter(|row| row.state == state).count();
    let (total, attention, waiting) = (rows.len(), number(State::Attention), number(State::Waiting));
    match (total, attention, waiting) {
        (0, ..) => ("wait", "Nothing is to be fetched yet".to_owned()),
        (1, 1, _) => ("bad", "The one target needs attention".to_owned()),
        (_, 1, _) => ("bad", format!("1 of {} targets needs attention", thousands(total))),
        (_, 2.., _) => ("bad", format!("{} of {} targets need attention", thousands(attention), thousands(total))),
        (1, 0, 0) => ("good", "The one target is up to date".to_owned()),
        (_, 0, 0) => ("good", format!("All {} targets are up to date", thousands(total))),
        (1, 0, _) => ("wait", "The one target waits for data from Microsoft".to_owned()),
        (_, 0, 1) => ("wait", format!("1 of {} targets waits for data from Microsoft", thousands(total))),
        _ => ("wait", format!("{} of {} targets wait for data from Microsoft", thousands(waiting), thousands(total))),
    }
}

impl Attempt {
    fn new(line: &AttemptLine, now: DateTime<Utc>) -> Self {
        let good = matches!(line.outcome.as_str(), "stored" | "unchanged");
        let written = i64::from(line.rows_inserted) + i64::from(line.rows_updated);
        Self {
            at: Moment::new(line.finished_at, now),
            tenant: line.tenant_name.clone(),
            report: spaced(&line.report),
            period: period(line.report_period),
            class: if good { "good" } else { "bad" },
            outcome: outcome(&line.outcome),
            reason: match (&line.error_class, &line.error_message) {
                (Some(class), Some(message)) => format!("{class}: {}", scrub(message)),
                (Some(class), None) => class.clone(),
                (None, _) => String::new(),
            },
            refresh_date: line.report_refresh_date.map_or_else(none, |date| date.to_string()),
            rows: if line.outcome == "stored" { chart::thousands(written) } else { none() },
            seconds: format!("{:.1} s", line.seconds),
        }
    }
}

impl Hole {
    fn new(gap: &Gap) -> Self {
        Self {
            tenant: gap.tenant_name.clone(),
            report: spaced(&gap.report),
            from: gap.gap_start.to_string(),
            to: gap.gap_end.to_string(),
            days: gap.days,
        }
    }
}

impl Moment {
    fn new(at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            relative: relative(at - now),
            absolute: at.format("%Y-%m-%d %H:%M").to_string(),
            machine: at.to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }
}

/// `3 hours ago`, `in 5 minutes`, `just now`.
fn relative(distance: TimeDelta) -> String {
    let seconds = distance.num_seconds();
    let amount = match seconds.abs() {
        0..60 => return if seconds > 0 { "in a moment" } else { "just now" }.to_owned(),
        size @ 60..3_600 => count(size / 60, "minute"),
        size @ 3_600..172_800 => count(size / 3_600, "hour"),
        size => count(size / 86_400, "day"),
    };
    if seconds < 0 { format!("{amount} ago") } else { format!("in {amount}") }
}

fn count(number: i64, unit: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {unit}{ending}", chart::thousands(number))
}

fn thousands(number: usize) -> String {
    chart::thousands(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What stands where there is nothing to say.
fn none() -> String {
    "\u{2013}".to_owned()
}

fn period(days: i16) -> String {
    Period::from_days(days).map_or_else(|| format!("{days} days"), |period| period.to_string())
}

/// Names of reports as people write words.
fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

fn error_class(name: &str) -> Option<ErrorClass> {
    ErrorClass::ALL.into_iter().find(|class| class.as_str() == name)
}

fn outcome(name: &str) -> &'static str {
    match name {
        "stored" => "stored",
        "unchanged" => "nothing new",
        "empty" => "no rows",
        "rejected" => "refused",
        "failed" => "failed",
        "skipped" => "skipped",
        "abandoned" => "abandoned",
        _ => "unknown",
    }
}

/// Standard base64 with padding, as a `Content-Security-Policy` wants hashes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sign = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(sign) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
