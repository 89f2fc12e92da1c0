//! The validated rows of one body.

use std::fmt::Write as _;

use chrono::NaiveDate;
use sha2::{Digest, Sha256};

use super::{Period, Report};

/// The validated rows of one body: one report, period and refresh date, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The report's definition.
    pub report: &'static Report,
    /// The period asked for, which every row confirms.
    pub period: Period,
    /// The day Microsoft computed the body.
    pub refresh_date: NaiveDate,
    /// The rows, oldest report date first; each date once; at least one.
    pub rows: Vec<Row>,
    /// The headers as they came, in order.
    pub source_columns: Vec<String>,
    /// The fingerprint of the body it was read from.
    pub body_hash: [u8; 32],
}

/// The figures of one day.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The day the figures are about.
    pub report_date: NaiveDate,
    /// One value for each of the report's columns; `None` where Microsoft gave none, which is not 0.
    pub values: Vec<Option<i64>>,
    /// Columns the report's definition does not know, as a JSON object by header; `None` if there are none.
    pub extra: Option<String>,
}

impl Snapshot {
    /// The first and the last report date.
    pub fn dates(&self) -> (NaiveDate, NaiveDate) {
        let first = self.rows.first().map_or(self.refresh_date, |row| row.report_date);
        let last = self.rows.last().map_or(self.refresh_date, |row| row.report_date);
        (first, last)
    }

    /// Canonical SHA-256 of the rows.
    pub fn content_hash(&self) -> [u8; 32] {
        content_hash(self.rows.iter())
    }
}

/// Canonical SHA-256 over rows in date order: what `verify` recomputes from the stored facts.
pub fn content_hash<'a>(rows: impl Iterator<Item = &'a Row>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut line = String::new();
    for row in rows {
        line.clear();
        // Writing to a String cannot fail.
        let _ = write!(line, "{}", row.report_date);
        for value in &row.values {
            line.push(',');
            if let Some(value) = value {
                let _ = write!(line, "{value}");
            }
        }
        if let Some(extra) = &row.extra {
            line.push('|');
            line.push_str(extra);
        }
        line.push('\n');
        hash.update(&line);
    }
    hash.finalize().into()
}
