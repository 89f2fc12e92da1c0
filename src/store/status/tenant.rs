//! What the ledger says of one tenant, or of the few that a page shows. Read in one [`look`].

use chrono::NaiveDate;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::{AttemptLine, Gap, TargetStatus};

/// A figure that Microsoft changed later.
#[derive(Debug, Clone)]
pub struct Change {
    /// The day it is about.
    pub report_date: NaiveDate,
    /// The product, as in the contract.
    pub product: String,
    /// The refresh that gave the old figure.
    pub old_refresh_date: NaiveDate,
    /// The refresh that gave the new one; the same in a re-issue.
    pub new_refresh_date: NaiveDate,
    /// The figure before; `None` is blank.
    pub old_value: Option<i64>,
    /// The figure after.
    pub new_value: Option<i64>,
    /// `refresh` or `reissue`.
    pub kind: String,
}

/// The average day of one week of one tenant, over all products.
#[derive(Debug)]
pub struct Week {
    /// The tenant.
    pub tenant_id: Uuid,
    /// 0 is the week that ends on the day asked for.
    pub weeks_ago: i32,
    /// `None`: not every day of it has a figure.
    pub average: Option<i64>,
}

/// The holes in what is held of a tenant, in days.
#[derive(Debug)]
pub struct Missing {
    /// The tenant.
    pub tenant_id: Uuid,
    /// Days without figures between the first and the last that is held.
    pub days: i64,
}

/// One state of the ledger to read from. No statement takes longer than four seconds, on the server too: a page that
/// somebody gave up waiting for must not hold one of the few connections.
pub async fn look(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    // In a box, because what a new connection takes is large and would be part of whoever looks.
    let mut tx = Box::pin(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")).await?;
    sqlx::query!("SET LOCAL statement_timeout = '4s'").execute(&mut *tx).await?;
    Ok(tx)
}

/// The tenant's name; `None`: nothing is known of such a tenant.
pub async fn name(db: &mut PgConnection, tenant_id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT tenant_name AS "name!" FROM m365_v1.tenants WHERE tenant_id = $1::uuid::text"#,
        tenant_id
    )
    .fetch_optional(db)
    .await
}

/// How its enabled targets stand, by report and period, longest period first.
pub async fn targets(db: &mut PgConnection, tenant_id: Uuid) -> Result<Vec<TargetStatus>, sqlx::Error> {
    sqlx::query_as!(
        TargetStatus,
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", tenant_name AS "tenant_name!", report AS "report!",
               report_period AS "report_period!", state AS "state!", newest_refresh_date, days_behind, last_success_at,
               last_attempt_at, last_outcome, last_error_class, last_error_message, last_due_at, next_try_at,
               snapshots AS "snapshots!", interval_seconds AS "interval_seconds!"
        FROM m365_v1.freshness
        WHERE tenant_id = $1::uuid::text
        ORDER BY report, report_period DESC
        "#,
        tenant_id
    )
    .fetch_all(db)
    .await
}

/// Its newest attempts, newest first.
pub async fn attempts(db: &mut PgConnection, tenant_id: Uuid, limit: i64) -> Result<Vec<AttemptLine>, sqlx::Error> {
    sqlx::query_as!(
        AttemptLine,
        r#"
        SELECT finished_at AS "finished_at!", tenant_name AS "tenant_name!", report AS "report!",
               report_period AS "report_period!", outcome AS "outcome!", error_class, error_message,
               report_refresh_date, rows_inserted AS "rows_inserted!", rows_updated AS "rows_updated!",
               extract(epoch FROM finished_at - started_at)::float8 AS "seconds!"
        FROM m365_v1.ingest_attempts
        WHERE tenant_id = $1::uuid::text
        ORDER BY finished_at DESC
        LIMIT $2
        "#,
        tenant_id,
        limit
    )
    .fetch_all(db)
    .await
}

/// Every hole in what is held of it, newest first.
pub async fn gaps(db: &mut PgConnection, tenant_id: Uuid) -> Result<Vec<Gap>, sqlx::Error> {
    sqlx::query_as!(
        Gap,
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", tenant_name AS "tenant_name!", report AS "report!",
               gap_start AS "gap_start!", gap_end AS "gap_end!", days AS "days!"
        FROM m365_v1.coverage_gaps
        WHERE tenant_id = $1::uuid::text
        ORDER BY report, gap_start DESC
        "#,
        tenant_id
    )
    .fetch_all(db)
    .await
}

/// The figures of the days since `since` that Microsoft changed later: the newest refresh first, then the newest day;
/// what several periods say stands here several times, the longest period first.
pub async fn changes(
    db: &mut PgConnection,
    tenant_id: Uuid,
    since: NaiveDate,
    limit: i64,
) -> Result<Vec<Change>, sqlx::Error> {
    sqlx::query_as!(
        Change,
        r#"
        SELECT report_date AS "report_date!", product AS "product!", old_refresh_date AS "old_refresh_date!",
               new_refresh_date AS "new_refresh_date!", old_value, new_value, kind AS "kind!"
        FROM m365_v1.active_users_revisions
        WHERE tenant_id = $1::uuid::text AND report_date >= $2
        ORDER BY new_refresh_date DESC, report_date DESC, report_period DESC, changed_at DESC
        LIMIT $3
        "#,
        tenant_id,
        since,
        limit
    )
    .fetch_all(db)
    .await
}

/// The average day of each of the 26 weeks up to `last_day`, of the tenants named.
pub async fn weeks(db: &mut PgConnection, tenants: &[String], last_day: NaiveDate) -> Result<Vec<Week>, sqlx::Error> {
    sqlx::query_as!(
        Week,
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", ($2::date - report_date) / 7 AS "weeks_ago!",
               CASE WHEN count(office_365) = 7 THEN avg(office_365)::bigint END AS average
        FROM m365_v1.active_users_daily
        WHERE tenant_id = ANY ($1) AND report_date > $2::date - 182 AND report_date <= $2::date
        GROUP BY 1, 2
        "#,
        tenants,
        last_day
    )
    .fetch_all(db)
    .await
}

/// How many days are missing, of those of the tenants named of which any is.
pub async fn missing(db: &mut PgConnection, tenants: &[String]) -> Result<Vec<Missing>, sqlx::Error> {
    sqlx::query_as!(
        Missing,
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", sum(days)::bigint AS "days!"
        FROM m365_v1.coverage_gaps
        WHERE tenant_id = ANY ($1)
        GROUP BY 1
        "#,
        tenants
    )
    .fetch_all(db)
    .await
}
