//! Forgetting what is not a fact.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use super::StoreError;
use crate::config::Retention;

/// Deletes attempts, closed slots and refused bodies that are older than their time. The newest slot of a target stays:
/// the plan goes on from it. Facts and the ledger are never touched.
pub async fn purge(pool: &PgPool, retention: &Retention, now: DateTime<Utc>) -> Result<u64, StoreError> {
    let before = |age| now - TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
    let failed = StoreError::during("forgetting old attempts");
    let attempts = sqlx::query!("DELETE FROM m365_store.attempt WHERE finished_at < $1", before(retention.attempts))
        .execute(pool)
        .await
        .map_err(&failed)?;
    sqlx::query!(
        "DELETE FROM m365_store.slot AS old
         WHERE old.due_at < $1 AND old.outcome IS NOT NULL
           AND EXISTS (SELECT FROM m365_store.slot AS newer
                       WHERE (newer.tenant_id, newer.report, newer.report_period, newer.origin)
                           = (old.tenant_id, old.report, old.report_period, 'schedule')
                         AND newer.due_at > old.due_at)",
        before(retention.attempts)
    )
    .execute(pool)
    .await
    .map_err(&failed)?;
    sqlx::query!("DELETE FROM m365_store.quarantine WHERE received_at < $1", before(retention.quarantine))
        .execute(pool)
        .await
        .map_err(&failed)?;
    Ok(attempts.rows_affected())
}
