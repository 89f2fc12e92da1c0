//! What the ledger says of itself: read for `status`, the status page and the metrics. Reads the contract's views.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use uuid::Uuid;

/// How one target stands.
#[derive(Debug, Clone, Serialize)]
pub struct TargetStatus {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Its name.
    pub tenant_name: String,
    /// The report.
    pub report: String,
    /// The period in days.
    pub report_period: i16,
    /// `ok`, `late` (Microsoft's data stand still), `stale` (we did not succeed) or `never`.
    pub state: String,
    /// Newest refresh date held.
    pub newest_refresh_date: Option<NaiveDate>,
    /// Days between that and today (UTC).
    pub days_behind: Option<i32>,
    /// End of the last attempt that left the data as fresh as Microsoft's.
    pub last_success_at: Option<DateTime<Utc>>,
    /// End of the last attempt of any kind.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// Outcome of the last attempt.
    pub last_outcome: Option<String>,
    /// Error class of the last attempt, if it was no success.
    pub last_error_class: Option<String>,
    /// Its message.
    pub last_error_message: Option<String>,
    /// The due instant of the newest slot.
    pub last_due_at: Option<DateTime<Utc>>,
    /// When the newest slot is tried next, if it is still open.
    pub next_try_at: Option<DateTime<Utc>>,
    /// Snapshots held.
    pub snapshots: i64,
    /// Longest time between two due instants, in seconds.
    pub interval_seconds: i32,
}

/// One day's current figures of one tenant.
#[derive(Debug, Clone, Serialize)]
pub struct Day {
    /// The day.
    pub report_date: NaiveDate,
    /// Microsoft 365 as a whole: a union, not a sum.
    pub office_365: Option<i64>,
    /// Exchange.
    pub exchange: Option<i64>,
    /// OneDrive.
    pub onedrive: Option<i64>,
    /// SharePoint.
    pub sharepoint: Option<i64>,
    /// Skype for Business.
    pub skype_for_business: Option<i64>,
    /// Yammer (Viva Engage).
    pub yammer: Option<i64>,
    /// Teams.
    pub teams: Option<i64>,
    /// Whether later refreshes are unlikely to change it.
    pub is_final: bool,
}

/// One attempt, as a person wants to see it.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptLine {
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// The tenant's name.
    pub tenant_name: String,
    /// The report.
    pub report: String,
    /// The period in days.
    pub report_period: i16,
    /// What it came to.
    pub outcome: String,
    /// Why not, in one word.
    pub error_class: Option<String>,
    /// Why not, in a sentence.
    pub error_message: Option<String>,
    /// The refresh date it saw.
    pub report_refresh_date: Option<NaiveDate>,
    /// Rows inserted.
    pub rows_inserted: i32,
    /// Rows updated.
    pub rows_updated: i32,
    /// Seconds it took.
    pub seconds: f64,
}
