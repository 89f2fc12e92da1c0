//! The reports this program keeps, as data, and the pure way from bytes to a validated [`Snapshot`].
//!
//! Nothing here does I/O or asks for the time. To add a report, add an entry to [`catalogue`] and a migration with its
//! tables.

pub mod catalogue;
mod parse;
mod snapshot;

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use uuid::Uuid;

pub use parse::{Body, Rejection, parse};
pub use snapshot::{Row, Snapshot, content_hash};

/// How many days a report looks back. Graph knows exactly these four
/// (<https://learn.microsoft.com/graph/api/reportroot-getoffice365activeusercounts>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Period {
    /// 7 days.
    D7,
    /// 30 days.
    D30,
    /// 90 days.
    D90,
    /// 180 days, as far as Microsoft remembers.
    D180,
}

impl Period {
    /// All periods, longest first: the order in which a tenant's slots are worked, so that after an outage the answer
    /// that closes the gap comes first.
    pub const LONGEST_FIRST: [Self; 4] = [Self::D180, Self::D90, Self::D30, Self::D7];

    /// The length in days; the value of the column `Report Period`.
    pub const fn days(self) -> i16 {
        match self {
            Self::D7 => 7,
            Self::D30 => 30,
            Self::D90 => 90,
            Self::D180 => 180,
        }
    }

    /// The period of that many days.
    pub fn from_days(days: i16) -> Option<Self> {
        Self::LONGEST_FIRST.into_iter().find(|period| period.days() == days)
    }

    /// The name Graph uses, such as `D7`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::D7 => "D7",
            Self::D30 => "D30",
            Self::D90 => "D90",
            Self::D180 => "D180",
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::LONGEST_FIRST
            .into_iter()
            .find(|period| period.as_str().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| format!("`{text}` is no report period: D7, D30, D90 and D180 are"))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What is fetched: a tenant x a report x a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The report.
    pub report: &'static Report,
    /// The period.
    pub period: Period,
}

/// One usage report of Microsoft Graph, as data.
#[derive(Debug)]
pub struct Report {
    /// Our name: the configuration section, the ledger's `report`, and the stem of its tables.
    pub name: &'static str,
    /// The Graph function called unless the configuration names another.
    pub function: &'static str,
    /// The facts table in `m365_store`; `_current` and `_superseded` are built from it.
    pub table: &'static str,
    /// The headers of the key columns.
    pub key: Key,
    /// The measures, in the order of the table's columns.
    pub columns: &'static [Column],
    /// The periods Graph offers.
    pub periods: &'static [Period],
    /// More rows than this in one body cannot be this report.
    pub max_rows: usize,
}

/// A report is known by its name.
impl PartialEq for Report {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Report {}

impl Hash for Report {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// Headers of the three columns that tell rows apart. Every body must have each of them exactly once.
#[derive(Debug)]
pub struct Key {
    /// The day Microsoft computed the body.
    pub refresh_date: &'static str,
    /// The day the figures are about.
    pub report_date: &'static str,
    /// The number of days asked for.
    pub report_period: &'static str,
}

/// One measure of a report.
#[derive(Debug)]
pub struct Column {
    /// The column in the facts table.
    pub name: &'static str,
    /// The headers under which Microsoft serves it, today's first. Compared trimmed, with spaces collapsed and without
    /// regard to case.
    pub headers: &'static [&'static str],
    /// What its cells hold.
    pub kind: ColumnKind,
}

/// What the cells of a measure hold, and so the column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// A whole number of at least 0, or blank for "no value": `bigint`, nullable.
    Count,
}
