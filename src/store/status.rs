//! What the ledger says of itself: read for `status`, the status page and the metrics. Reads the contract's views.

mod standing;
pub mod tenant;
#[cfg(test)]
mod tests;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

pub use standing::{Grade, Reason, Standing, reasons};

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

impl Day {
    /// The figures, in the order of [`PRODUCTS`].
    pub const fn figures(&self) -> [Option<i64>; 7] {
        [
            self.office_365,
            self.exchange,
            self.onedrive,
            self.sharepoint,
            self.skype_for_business,
            self.yammer,
            self.teams,
        ]
    }
}

/// The products as the contract names them, and as people do, in Microsoft's order.
pub const PRODUCTS: [(&str, &str); 7] = [
    ("office_365", "Office 365"),
    ("exchange", "Exchange"),
    ("onedrive", "OneDrive"),
    ("sharepoint", "SharePoint"),
    ("skype_for_business", "Skype f. B."),
    ("yammer", "Yammer"),
    ("teams", "Teams"),
];

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

/// Days of one tenant and report for which nothing is held, although days before and after are.
#[derive(Debug, Clone, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the contract's columns")]
pub struct Gap {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Its name.
    pub tenant_name: String,
    /// The report.
    pub report: String,
    /// The first missing day.
    pub gap_start: NaiveDate,
    /// The last missing day.
    pub gap_end: NaiveDate,
    /// How many.
    pub days: i32,
}

/// How every enabled target stands, by tenant name, report and period, longest period first.
pub async fn targets(pool: &PgPool) -> Result<Vec<TargetStatus>, sqlx::Error> {
    sqlx::query_as!(
        TargetStatus,
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", tenant_name AS "tenant_name!", report AS "report!",
               report_period AS "report_period!", state AS "state!", newest_refresh_date, days_behind, last_success_at,
               last_attempt_at, last_outcome, last_error_class, last_error_message, last_due_at, next_try_at,
               snapshots AS "snapshots!", interval_seconds AS "interval_seconds!"
        FROM m365_v1.freshness
        ORDER BY tenant_name, tenant_id, report, report_period DESC
        "#
    )
    .fetch_all(pool)
    .await
}

/// The newest attempts of all tenants, newest first.
pub async fn recent_attempts(pool: &PgPool, limit: i64) -> Result<Vec<AttemptLine>, sqlx::Error> {
    sqlx::query_as!(
        AttemptLine,
        r#"
        SELECT finished_at AS "finished_at!", tenant_name AS "tenant_name!", report AS "report!",
               report_period AS "report_period!", outcome AS "outcome!", error_class, error_message,
               report_refresh_date, rows_inserted AS "rows_inserted!", rows_updated AS "rows_updated!",
               extract(epoch FROM finished_at - started_at)::float8 AS "seconds!"
        FROM m365_v1.ingest_attempts
        ORDER BY finished_at DESC
        LIMIT $1
        "#,
        limit
    )
    .fetch_all(pool)
    .await
}

/// One tenant's current figures of the newest `last_n_days` days, oldest first. Counted back from the newest day held,
/// not from today; days without figures are simply not there.
pub async fn days(db: impl PgExecutor<'_>, tenant_id: Uuid, last_n_days: i32) -> Result<Vec<Day>, sqlx::Error> {
    sqlx::query_as!(
        Day,
        r#"
        SELECT report_date AS "report_date!", office_365, exchange, onedrive, sharepoint, skype_for_business, yammer,
               teams, is_final AS "is_final!"
        FROM m365_v1.active_users_daily
        WHERE tenant_id = $1::uuid::text
          AND report_date > (SELECT max(n.report_date) FROM m365_v1.active_users_daily n
                             WHERE n.tenant_id = $1::uuid::text) - $2::int
        ORDER BY report_date
        "#,
        tenant_id,
        last_n_days
    )
    .fetch_all(db)
    .await
}

/// Every hole in what is held, by tenant name and oldest first.
pub async fn gaps(db: impl PgExecutor<'_>) -> Result<Vec<Gap>, sqlx::Error> {
    sqlx::query_as!(
        Gap,
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", tenant_name AS "tenant_name!", report AS "report!",
               gap_start AS "gap_start!", gap_end AS "gap_end!", days AS "days!"
        FROM m365_v1.coverage_gaps
        ORDER BY tenant_name, tenant_id, report, gap_start
        "#
    )
    .fetch_all(db)
    .await
}
