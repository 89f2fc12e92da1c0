//! Tenants and targets as the configuration last said, and the processes that work on them.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, postgres::types::PgInterval};
use uuid::Uuid;

use super::StoreError;
use crate::{
    config::Tenant,
    report::{Period, Target, catalogue},
};

/// A target and the longest time between two of its due instants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What is to be fetched.
    pub target: Target,
    /// In seconds.
    pub interval_seconds: i32,
}

/// Writes down which version of this program last ran.
pub async fn register_program(pool: &PgPool, now: DateTime<Utc>) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO m365_store.program (version, started_at) VALUES ($1, $2)
         ON CONFLICT (only_row) DO UPDATE SET version = excluded.version, started_at = excluded.started_at
         WHERE program.version <> excluded.version",
        env!("CARGO_PKG_VERSION"),
        now
    )
    .execute(pool)
    .await
    .map_err(StoreError::during("registering the program"))?;
    Ok(())
}

/// Writes the tenants down; one that is known already is only touched when its name or cloud changed.
pub async fn register_tenants(
    pool: &PgPool,
    tenants: &[Tenant],
    cloud: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.id).collect();
    let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.clone()).collect();
    sqlx::query!(
        "INSERT INTO m365_store.tenant (tenant_id, name, cloud, first_seen_at)
         SELECT given.tenant_id, given.name, $3, $4
         FROM unnest($1::uuid[], $2::text[]) AS given (tenant_id, name)
         LEFT JOIN m365_store.tenant AS known
           ON (known.tenant_id, known.name, known.cloud) = (given.tenant_id, given.name, $3)
         WHERE known.tenant_id IS NULL
         ON CONFLICT (tenant_id) DO UPDATE SET name = excluded.name, cloud = excluded.cloud",
        &ids,
        &names,
        cloud,
        now
    )
    .execute(pool)
    .await
    .map_err(StoreError::during("registering tenants"))?;
    Ok(())
}

/// Writes the targets down. Targets of these tenants that are no longer wanted stay, but are no longer expected.
pub async fn register_targets(pool: &PgPool, wanted: &[Wanted]) -> Result<(), StoreError> {
    let keys = Keys::of(wanted.iter().map(|wanted| wanted.target));
    let intervals: Vec<i32> = wanted.iter().map(|wanted| wanted.interval_seconds).collect();
    sqlx::query!(
        "WITH given AS (
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::integer[])
                 AS given (tenant_id, report, report_period, interval_seconds)
         ), unwanted AS (
             UPDATE m365_store.target AS known SET enabled = false
             WHERE known.enabled AND known.tenant_id = ANY ($1)
               AND NOT EXISTS (SELECT FROM given
                               WHERE (given.tenant_id, given.report, given.report_period)
                                   = (known.tenant_id, known.report, known.report_period))
         )
         INSERT INTO m365_store.target (tenant_id, report, report_period, enabled, interval_seconds)
         SELECT given.tenant_id, given.report, given.report_period, true, given.interval_seconds
         FROM given
         LEFT JOIN m365_store.target AS known
           ON (known.tenant_id, known.report, known.report_period, known.interval_seconds)
            = (given.tenant_id, given.report, given.report_period, given.interval_seconds) AND known.enabled
         WHERE known.tenant_id IS NULL
         ON CONFLICT (tenant_id, report, report_period)
             DO UPDATE SET enabled = true, interval_seconds = excluded.interval_seconds",
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &intervals
    )
    .execute(pool)
    .await
    .map_err(StoreError::during("registering targets"))?;
    Ok(())
}

/// How many tenants besides these are still expected to be fresh.
pub async fn others_expected(pool: &PgPool, tenants: &[Tenant]) -> Result<i64, StoreError> {
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.id).collect();
    sqlx::query_scalar!(
        r#"SELECT count(DISTINCT tenant_id) AS "count!" FROM m365_store.target
           WHERE enabled AND NOT EXISTS (SELECT FROM unnest($1::uuid[]) AS own (id) WHERE own.id = target.tenant_id)"#,
        &ids
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::during("looking for other tenants"))
}

/// The due instant of each target's newest scheduled slot.
pub async fn newest_slots(pool: &PgPool, tenants: &[Uuid]) -> Result<HashMap<Target, DateTime<Utc>>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT target.tenant_id, target.report, target.report_period, newest.due_at AS "due_at!"
           FROM m365_store.target
           CROSS JOIN LATERAL (
               SELECT max(slot.due_at) AS due_at FROM m365_store.slot
               WHERE (slot.tenant_id, slot.report, slot.report_period)
                   = (target.tenant_id, target.report, target.report_period) AND slot.origin = 'schedule'
           ) AS newest
           WHERE target.tenant_id = ANY ($1) AND newest.due_at IS NOT NULL"#,
        tenants
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::during("reading the newest slots"))?;
    let known = |tenant_id, report: &str, days| target(tenant_id, report, days);
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((known(row.tenant_id, &row.report, row.report_period)?, row.due_at)))
        .collect())
}

/// Says that this process lives, and for how long its claims hold if it is not heard of again. Returns the database's
/// time, by which leases are judged.
pub async fn renew_lease(
    pool: &PgPool,
    worker_id: Uuid,
    host: &str,
    lease: Duration,
) -> Result<DateTime<Utc>, StoreError> {
    let lease = PgInterval::try_from(lease).unwrap_or(PgInterval { months: 0, days: 0, microseconds: 60_000_000 });
    sqlx::query_scalar!(
        r#"INSERT INTO m365_store.worker (worker_id, host, version, started_at, lease_until)
           VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp() + $4::interval)
           ON CONFLICT (worker_id) DO UPDATE SET lease_until = excluded.lease_until
           RETURNING clock_timestamp() AS "now!""#,
        worker_id,
        host,
        env!("CARGO_PKG_VERSION"),
        lease
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::during("renewing the lease"))
}

/// Signs this process off, and forgets those that died long ago.
pub async fn sign_off(pool: &PgPool, worker_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM m365_store.worker WHERE worker_id = $1 OR lease_until < clock_timestamp() - interval '7 days'",
        worker_id
    )
    .execute(pool)
    .await
    .map_err(StoreError::during("signing off"))?;
    Ok(())
}

/// Targets as columns, for `unnest`.
pub(super) struct Keys {
    pub(super) tenants: Vec<Uuid>,
    pub(super) reports: Vec<&'static str>,
    pub(super) periods: Vec<i16>,
}

impl Keys {
    pub(super) fn of(targets: impl Iterator<Item = Target> + Clone) -> Self {
        Self {
            tenants: targets.clone().map(|target| target.tenant_id).collect(),
            reports: targets.clone().map(|target| target.report.name).collect(),
            periods: targets.map(|target| target.period.days()).collect(),
        }
    }
}

/// The target of a stored key; `None` for a report or period this program does not know.
pub(super) fn target(tenant_id: Uuid, report: &str, days: i16) -> Option<Target> {
    Some(Target { tenant_id, report: catalogue::find(report)?, period: Period::from_days(days)? })
}
