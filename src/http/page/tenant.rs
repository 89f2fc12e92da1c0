//! The page of one tenant.

use askama::Template;
use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Badge, Frame, Moment, Summary, changes::Changes, count, date, figure, mood, none, number, period, spaced,
    summary::Told, weekday,
};
use crate::{
    http::{
        NextDue,
        chart::{self, Chart, is_weekend, thousands},
        data::TenantData,
    },
    outcome::ErrorClass,
    store::status::{AttemptLine, Day, Grade, PRODUCTS, TargetStatus},
    telemetry::scrub,
};

/// Rows of the table under the chart; the download has all.
const TABLE_ROWS: usize = 180;

/// Longest list of gaps.
const MOST_GAPS: usize = 20;

/// How far back the chart looks, counted from the newest day held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Range {
    /// A quarter.
    #[serde(rename = "90")]
    Days90,
    /// As far as Microsoft remembers.
    #[default]
    #[serde(rename = "180")]
    Days180,
    /// A year.
    #[serde(rename = "365")]
    Year,
    /// Everything held.
    #[serde(rename = "all")]
    All,
}

impl Range {
    const ALL: [Self; 4] = [Self::Days90, Self::Days180, Self::Year, Self::All];

    /// In days; everything is a century.
    pub const fn days(self) -> i32 {
        match self {
            Self::Days90 => 90,
            Self::Days180 => 180,
            Self::Year => 365,
            Self::All => 36_525,
        }
    }

    /// As it stands in addresses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Days90 => "90",
            Self::Days180 => "180",
            Self::Year => "365",
            Self::All => "all",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Days90 => "90 days",
            Self::Days180 => "180 days",
            Self::Year => "1 year",
            Self::All => "All",
        }
    }
}

/// The page.
#[derive(Debug, Template)]
#[template(path = "tenant.html")]
pub struct TenantPage {
    frame: Frame,
    id: Uuid,
    name: String,
    /// Whether there are others to go back to.
    alone: bool,
    mood: &'static str,
    heading: String,
    remark: String,
    reasons: Vec<Told>,
    range: Range,
    chart: Option<Chart>,
    table: Vec<TableRow>,
    /// How many days are not in it.
    table_more: Option<String>,
    targets: Vec<Target>,
    /// `None`: it took too long to find out.
    changes: Option<Changes>,
    attempts: Vec<Attempt>,
    gaps: Vec<Hole>,
    more_gaps: usize,
    missing: String,
}

/// One day of the table.
#[derive(Debug)]
struct TableRow {
    day: String,
    weekend: bool,
    /// `None`: nothing is held.
    figures: Option<Vec<String>>,
    open: bool,
}

/// One target.
#[derive(Debug)]
struct Target {
    report: String,
    period: String,
    badge: Badge,
    refresh_date: String,
    behind: Option<String>,
    success: Option<Moment>,
    outcome: Option<&'static str>,
    error_class: Option<String>,
    /// What to do, unless it stands at the top already.
    advice: Option<&'static str>,
    next_due: Option<Moment>,
    snapshots: String,
}

/// One attempt.
#[derive(Debug)]
struct Attempt {
    at: Moment,
    period: String,
    class: &'static str,
    outcome: &'static str,
    error_class: Option<String>,
    message: Option<String>,
    advice: Option<&'static str>,
    refresh_date: String,
    rows: String,
    seconds: String,
}

/// Days without figures.
#[derive(Debug)]
struct Hole {
    from: NaiveDate,
    to: NaiveDate,
    days: i32,
}

impl TenantPage {
    /// The page of tenant `id` for what the ledger says at `now`. `alone`: there is no other tenant.
    pub fn new(id: Uuid, data: &TenantData, range: Range, alone: bool, next: &NextDue, now: DateTime<Utc>) -> Self {
        let summary = Summary::of(&data.targets);
        let (mood, headline) = summary.map_or(("wait", "No longer fetched"), |summary| {
            (mood(summary.standing.grade()), summary.standing.words())
        });
        let reasons = summary.map(Summary::reasons).unwrap_or_default();
        let (table, table_more) = table(&data.days);
        let missing: i64 = data.gaps.iter().map(|gap| i64::from(gap.days)).sum();
        Self {
            frame: Frame::new(format!("{}: {headline}", data.name), now, now),
            id,
            name: data.name.clone(),
            alone,
            mood,
            heading: format!("{}: {}", data.name, continued(headline)),
            remark: remark(summary, now),
            range,
            chart: Chart::new(&data.days, &data.gaps),
            table,
            table_more: (table_more > 0).then(|| number(table_more)),
            targets: data.targets.iter().map(|target| Target::new(target, &reasons, next, now)).collect(),
            reasons,
            changes: data.changes.as_deref().map(Changes::new),
            attempts: attempts(&data.attempts, now),
            gaps: data
                .gaps
                .iter()
                .take(MOST_GAPS)
                .map(|gap| Hole { from: gap.gap_start, to: gap.gap_end, days: gap.days })
                .collect(),
            more_gaps: data.gaps.len().saturating_sub(MOST_GAPS),
            missing: count(missing, "day"),
        }
    }
}

/// Words that do not begin a sentence.
fn continued(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// The sentence under the headline.
fn remark(summary: Option<Summary<'_>>, now: DateTime<Utc>) -> String {
    let Some(summary) = summary else {
        return "The settings no longer name it, or none of its reports. What is held stays.".to_owned();
    };
    let refresh = match summary.newest_refresh() {
        Some((date, days)) => {
            format!("Microsoft's newest refresh held: {date}, {} behind today.", count(i64::from(days), "day"))
        }
        None => "Nothing is held yet.".to_owned(),
    };
    let success = match (summary.standing.grade(), summary.last_success) {
        (Grade::Fresh, _) => String::new(),
        (_, Some(at)) => format!(" Last success {}.", Moment::new(at, now).relative),
        (_, None) => " It was never fetched well.".to_owned(),
    };
    let (affected, all) = (summary.affected().count(), summary.targets.len());
    let part = if affected < all { format!(" This is about {affected} of {all} targets.") } else { String::new() };
    refresh + &success + &part
}

/// The newest days, also those that are not held, and how many days more there are.
fn table(days: &[Day]) -> (Vec<TableRow>, usize) {
    let (Some(first), Some(last)) = (days.first(), days.last()) else { return (Vec::new(), 0) };
    let all = usize::try_from((last.report_date - first.report_date).num_days() + 1).unwrap_or(0);
    let mut held = days.iter().rev().peekable();
    let row = |date: NaiveDate| {
        let day = held.next_if(|day| day.report_date == date);
        TableRow {
            day: weekday(date),
            weekend: is_weekend(date),
            figures: day.map(|day| day.figures().map(figure).into()),
            open: day.is_some_and(|day| !day.is_final),
        }
    };
    let dates = std::iter::successors(Some(last.report_date), NaiveDate::pred_opt);
    let rows: Vec<_> = dates.take(all.min(TABLE_ROWS)).map(row).collect();
    let more = all - rows.len();
    (rows, more)
}

impl Target {
    fn new(target: &TargetStatus, told: &[Told], next: &NextDue, now: DateTime<Utc>) -> Self {
        Self {
            report: spaced(&target.report),
            period: period(target.report_period),
            badge: target.standing().into(),
            refresh_date: date(target.newest_refresh_date),
            behind: target.days_behind.map(|days| count(i64::from(days), "day")),
            success: target.last_success_at.map(|at| Moment::new(at, now)),
            outcome: target.last_outcome.as_deref().map(outcome),
            error_class: target.last_error_class.clone(),
            advice: target.advice().filter(|advice| told.iter().all(|reason| reason.advice != Some(advice))),
            next_due: next.of(target).map(|at| Moment::new(at, now)),
            snapshots: thousands(target.snapshots),
        }
    }
}

/// What to do about an error stands at the first attempt that had it.
fn attempts(lines: &[AttemptLine], now: DateTime<Utc>) -> Vec<Attempt> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for line in lines {
        let mut attempt = Attempt::new(line, now);
        attempt.advice = attempt.advice.filter(|advice| attempts.iter().all(|known| known.advice != Some(advice)));
        attempts.push(attempt);
    }
    attempts
}

impl Attempt {
    fn new(line: &AttemptLine, now: DateTime<Utc>) -> Self {
        let good = matches!(line.outcome.as_str(), "stored" | "unchanged");
        let written = i64::from(line.rows_inserted) + i64::from(line.rows_updated);
        Self {
            at: Moment::new(line.finished_at, now),
            period: period(line.report_period),
            class: if good { "good" } else { "bad" },
            outcome: outcome(&line.outcome),
            error_class: line.error_class.clone(),
            message: line.error_message.as_deref().map(|message| scrub(message).into_owned()),
            advice: line.error_class.as_deref().and_then(ErrorClass::named).map(ErrorClass::advice),
            refresh_date: date(line.report_refresh_date),
            rows: if line.outcome == "stored" { thousands(written) } else { none() },
            seconds: format!("{:.2} s", line.seconds),
        }
    }
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
