//! From bytes to a whole [`Snapshot`], or a [`Rejection`] that says why not.
//!
//! Strict in, nothing half-parsed: one bad cell refuses the body, because a body of which a part is wrong gives no reason
//! to trust the rest, and it can be fetched again or replayed from quarantine. Columns are found by name, never by
//! position: Microsoft has moved and added some before.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chrono::{Days, NaiveDate};
use csv::StringRecord;
use sha2::{Digest, Sha256};

use super::{Column, ColumnKind, Period, Report, Row, Snapshot};
use crate::outcome::ErrorClass;

/// No usage report has nearly as many columns; a page of garbage could.
const MAX_COLUMNS: usize = 256;

/// How far in the future a refresh date may lie. A machine whose clock is wrong by days must not refuse good data; a date
/// in 2099 must not become the newest refresh for ever.
const FUTURE_SLACK: Days = Days::new(31);

/// How far the newest report date may lie behind the refresh date in a body whose end nothing proves.
const UNPROVEN_LAG: Days = Days::new(3);

/// What Microsoft sent.
#[derive(Debug, Clone)]
pub struct Body {
    /// The bytes, decompressed.
    pub bytes: Bytes,
    /// Whether the end of the body was proven: by its length, or by the last chunk. Otherwise the connection was simply
    /// closed, and the body may be cut.
    pub framed: bool,
}

/// Grows when the same bytes may be read into other rows than before, so that they are read again.
const READER: u8 = 1;

impl Body {
    /// Tells bodies apart without reading them. The same fingerprint means the same rows.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::new().chain_update([READER]).chain_update(&self.bytes).finalize().into()
    }
}

/// Why a body was refused whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    /// The closed reason.
    pub class: ErrorClass,
    /// The same for people, with the row where there is one.
    pub reason: String,
}

fn refuse<T>(class: ErrorClass, reason: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection { class, reason: reason.into() })
}

/// Reads the body of `report` for `period`. `Ok(None)` is a body without rows: no bytes, or the header alone.
///
/// `today` (UTC) bounds the refresh date; nothing else depends on the time.
pub fn parse(
    report: &'static Report,
    period: Period,
    body: &Body,
    today: NaiveDate,
) -> Result<Option<Snapshot>, Rejection> {
    let text = text(&body.bytes)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut records = reader.records();
    let header = match records.next() {
        Some(Ok(header)) => header,
        Some(Err(error)) => return refuse(ErrorClass::NotCsv, format!("the body is no CSV: {error}")),
        None => return Ok(None),
    };
    let layout = Layout::of(report, &header)?;
    let ends_with_line = text.ends_with(['\n', '\r']);
    if !body.framed && !ends_with_line {
        // Before a row is looked at: of a period of 30 days a cut can leave one of 3.
        return refuse(ErrorClass::Truncated, "the connection closed within a line");
    }

    let mut rows = BTreeMap::new();
    let mut refresh_date = None;
    let mut records = records.peekable();
    let mut number = 0;
    while let Some(record) = records.next() {
        number += 1;
        let record = match record {
            Ok(record) => record,
            Err(error) => return refuse(ErrorClass::BadRow, format!("a row cannot be read: {error}")),
        };
        if record.len() == 1 && record[0].trim().is_empty() {
            continue;
        }
        if record.len() != header.len() {
            let cut = records.peek().is_none() && !ends_with_line && record.len() < header.len();
            let class = if cut { ErrorClass::Truncated } else { ErrorClass::BadRow };
            return refuse(class, format!("row {number} has {} cells, the header has {}", record.len(), header.len()));
        }
        let (refreshed, row) = layout
            .row(period, &record, today)
            .or_else(|(class, reason)| refuse(class, format!("row {number}: {reason}")))?;
        match refresh_date {
            None => refresh_date = Some(refreshed),
            Some(first) if first != refreshed => {
                return refuse(
                    ErrorClass::MixedRefresh,
                    format!("row {number} is of refresh date {refreshed}, the rows before of {first}"),
                );
            }
            Some(_) => {}
        }
        let date = row.report_date;
        if let Some(before) = rows.insert(date, row)
            && rows.get(&date) != Some(&before)
        {
            return refuse(
                ErrorClass::ConflictingRows,
                format!("row {number}: report date {date} stood before with other values"),
            );
        }
        if rows.len() > report.max_rows {
            return refuse(ErrorClass::TooLarge, format!("more than {} rows", report.max_rows));
        }
    }

    let Some(refresh_date) = refresh_date else { return Ok(None) };
    let snapshot = Snapshot {
        report,
        period,
        refresh_date,
        rows: rows.into_values().collect(),
        source_columns: header.iter().map(str::to_owned).collect(),
        body_hash: body.fingerprint(),
    };
    if !body.framed {
        prove_complete(&snapshot)?;
    }
    Ok(Some(snapshot))
}

/// The body as text, without its byte order mark. A page, a JSON message or a link is told apart here, because each of
/// them has been seen in the place of a report, with status 200.
fn text(bytes: &[u8]) -> Result<&str, Rejection> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return refuse(ErrorClass::NotCsv, "the body is no UTF-8 text");
    };
    let text = text.trim_start_matches('\u{feff}');
    if text.contains('\0') {
        return refuse(ErrorClass::NotCsv, "the body holds NUL characters");
    }
    let start = text.trim_start();
    let what = match start.as_bytes() {
        [b'<', ..] => "an HTML or XML page",
        [b'{' | b'[', ..] => "JSON",
        _ if ["https://", "http://"].iter().any(|scheme| starts_with_ignore_case(start, scheme)) => "a link",
        _ => return Ok(text),
    };
    refuse(ErrorClass::NotCsv, format!("the body is {what} instead of CSV"))
}

fn starts_with_ignore_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Where the columns stand in one body.
struct Layout<'a> {
    refresh_date: usize,
    report_date: usize,
    report_period: usize,
    /// For each column of the report, its place, if the body has it.
    measures: Vec<(&'static Column, Option<usize>)>,
    /// Columns the report does not know, with their headers.
    extra: Vec<(usize, &'a str)>,
}

impl<'a> Layout<'a> {
    fn of(report: &'static Report, header: &'a StringRecord) -> Result<Self, Rejection> {
        if header.len() > MAX_COLUMNS {
            return refuse(ErrorClass::BadHeader, format!("{} columns: no report has as many", header.len()));
        }
        let mut places = HashMap::new();
        for (place, name) in header.iter().enumerate() {
            if places.insert(normal(name), place).is_some() {
                return refuse(ErrorClass::BadHeader, format!("the column `{}` stands twice", shown(name)));
            }
        }
        let key = [report.key.refresh_date, report.key.report_date, report.key.report_period];
        if key.iter().all(|name| !places.contains_key(&normal(name))) {
            return refuse(
                ErrorClass::NotCsv,
                format!("the first line holds none of the columns {}: this is no usage report", key.join(", ")),
            );
        }
        let mut take = |name: &str| places.remove(&normal(name));
        let [refresh_date, report_date, report_period] = key.map(|name| take(name).ok_or(name));
        let missing =
            |name: &str| Rejection { class: ErrorClass::BadHeader, reason: format!("the column `{name}` is missing") };
        let mut measures = Vec::with_capacity(report.columns.len());
        for column in report.columns {
            let mut found = column.headers.iter().filter_map(|name| take(name));
            let place = found.next();
            if found.next().is_some() {
                return refuse(
                    ErrorClass::BadHeader,
                    format!("`{}` stands under two of its names", column.headers.join("` and `")),
                );
            }
            measures.push((column, place));
        }
        if measures.iter().all(|(_, place)| place.is_none()) {
            return refuse(ErrorClass::BadHeader, "none of this report's measures is there: this is another report");
        }
        let mut extra: Vec<_> = places.into_values().map(|place| (place, header[place].trim())).collect();
        extra.sort_unstable();
        if extra.iter().any(|(_, name)| name.is_empty()) {
            return refuse(ErrorClass::BadHeader, "a column has no name");
        }
        Ok(Self {
            refresh_date: refresh_date.map_err(missing)?,
            report_date: report_date.map_err(missing)?,
            report_period: report_period.map_err(missing)?,
            measures,
            extra,
        })
    }

    /// One row with its refresh date, or the reason why it cannot be.
    fn row(
        &self,
        period: Period,
        record: &StringRecord,
        today: NaiveDate,
    ) -> Result<(NaiveDate, Row), (ErrorClass, String)> {
        let bad = |reason: String| (ErrorClass::BadRow, reason);
        let refresh_date = date(&record[self.refresh_date]).map_err(bad)?;
        let report_date = date(&record[self.report_date]).map_err(bad)?;
        if today.checked_add_days(FUTURE_SLACK).is_some_and(|limit| refresh_date > limit) {
            return Err(bad(format!("the refresh date {refresh_date} lies in the future")));
        }
        if report_date > refresh_date {
            return Err(bad(format!("the report date {report_date} lies after the refresh date {refresh_date}")));
        }
        let days = record[self.report_period].trim();
        if days.parse() != Ok(period.days()) {
            let class = if days.parse::<u32>().is_ok() { ErrorClass::PeriodMismatch } else { ErrorClass::BadRow };
            return Err((class, format!("the report period is `{}`, asked for was {}", shown(days), period.days())));
        }
        let mut values = Vec::with_capacity(self.measures.len());
        for &(column, place) in &self.measures {
            let cell = place.map_or("", |place| record[place].trim());
            let ColumnKind::Count = column.kind;
            values.push(count(cell).map_err(|()| {
                bad(format!("`{}` is `{}`, which is no whole number of at least 0", column.headers[0], shown(cell)))
            })?);
        }
        Ok((refresh_date, Row { report_date, values, extra: self.extra(record) }))
    }

    fn extra(&self, record: &StringRecord) -> Option<String> {
        let cells: BTreeMap<&str, serde_json::Value> = self
            .extra
            .iter()
            .map(|&(place, name)| {
                let cell = record[place].trim();
                let value = match cell.parse::<i64>() {
                    Ok(number) if number.to_string() == cell => number.into(),
                    _ if cell.is_empty() => serde_json::Value::Null,
                    _ => cell.into(),
                };
                (name, value)
            })
            .collect();
        if cells.is_empty() { None } else { serde_json::to_string(&cells).ok() }
    }
}

/// A header as it is compared: trimmed, spaces collapsed, without regard to case.
fn normal(header: &str) -> String {
    header.trim_matches('\u{feff}').split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Foreign text for a message: short, without control characters, and without what a link leads to.
fn shown(text: &str) -> String {
    let text = text.split_once("://").map_or(text, |(scheme, _)| scheme);
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// `YYYY-MM-DD`; a time of day behind it (seen in beta answers) is passed over.
fn date(cell: &str) -> Result<NaiveDate, String> {
    let cell = cell.trim();
    let day = cell.split_once('T').map_or(cell, |(day, _)| day);
    let shape = day.len() == 10 && day.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    shape
        .then(|| NaiveDate::parse_from_str(day, "%Y-%m-%d").ok())
        .flatten()
        .ok_or_else(|| format!("`{}` is no date (YYYY-MM-DD)", shown(cell)))
}

/// A count; blank is no value.
fn count(cell: &str) -> Result<Option<i64>, ()> {
    if cell.is_empty() {
        return Ok(None);
    }
    let digits = cell.bytes().all(|b| b.is_ascii_digit());
    if digits { cell.parse().map(Some).map_err(|_| ()) } else { Err(()) }
}

/// A body whose end nothing proves is taken only if its rows show no sign of a cut.
fn prove_complete(snapshot: &Snapshot) -> Result<(), Rejection> {
    let (first, last) = snapshot.dates();
    let contiguous = usize::try_from((last - first).num_days() + 1) == Ok(snapshot.rows.len());
    let plausible = last.checked_add_days(UNPROVEN_LAG).is_some_and(|latest| latest >= snapshot.refresh_date);
    if contiguous && plausible {
        return Ok(());
    }
    refuse(
        ErrorClass::Truncated,
        format!(
            "the connection closed without saying that the body was complete, and its {} rows ({first} to {last}, \
             refresh date {}) do not show it either",
            snapshot.rows.len(),
            snapshot.refresh_date
        ),
    )
}

#[cfg(test)]
mod tests;
