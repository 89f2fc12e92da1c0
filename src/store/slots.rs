//! Slots: what is due, who works on it, and until when.
//!
//! A claim holds while its worker's lease does and no longer; each claim has a higher term than the one before and an
//! attempt of its own, and a write under another one is refused ([`super::snapshots`]). Leases are judged by the database's
//! clock, so that replicas need not agree on the time.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    targets::{Keys, target},
};
use crate::{plan::Due, report::Target};

/// Microsoft counts calls over this window (<https://learn.microsoft.com/graph/throttling-limits>).
pub const QUOTA_WINDOW: TimeDelta = TimeDelta::minutes(10);

/// The newest snapshot the ledger holds of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its refresh date.
    pub refresh_date: NaiveDate,
    /// How many rows it has.
    pub rows: i32,
    /// The fingerprint of the body it was read from.
    pub body_hash: [u8; 32],
}

/// The right to work on a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// What is to be fetched.
    pub target: Target,
    /// When it was due; with the target, the slot's key.
    pub due_at: DateTime<Utc>,
    /// Proof against whoever claims it later.
    pub term: i64,
    /// This attempt.
    pub attempt_id: Uuid,
    /// Which try at the slot this is, from 1.
    pub attempt: i16,
    /// What the ledger holds: the same bytes again need not be read.
    pub known: Option<Known>,
}

/// Whose work is to be claimed.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Scheduled slots of these tenants, within the quota, one process a tenant.
    Scheduled {
        /// The tenants.
        tenants: &'a [Uuid],
        /// Calls that may be made for each tenant and report in [`QUOTA_WINDOW`].
        calls: i32,
        /// Calls one attempt may need at most.
        calls_per_attempt: i32,
    },
    /// The slots a person asked for at that instant.
    Asked {
        /// The tenants.
        tenants: &'a [Uuid],
        /// The slots' due instant.
        at: DateTime<Utc>,
    },
}

/// Writes down what is due. A slot that exists already is left alone, so that no clock and no replica can repeat it.
/// Older open slots of these targets that nobody works on are closed as skipped: the new one answers for them. Returns how
/// many of these there were.
pub async fn insert_due(pool: &PgPool, due: &[Due], now: DateTime<Utc>) -> Result<u64, StoreError> {
    let failed = StoreError::during("writing down due slots");
    let keys = Keys::of(due.iter().map(|due| due.target));
    let instants: Vec<_> = due.iter().map(|due| due.at).collect();
    let missed: Vec<_> = due.iter().map(|due| i32::from(due.missed)).collect();
    let mut transaction = pool.begin().await.map_err(&failed)?;
    sqlx::query!(
        "INSERT INTO m365_store.slot (tenant_id, report, report_period, due_at, missed, origin, not_before)
         SELECT given.tenant_id, given.report, given.report_period, given.due_at, given.missed, 'schedule',
                greatest($6, (SELECT max(attempt.retry_at) FROM m365_store.attempt
                              WHERE attempt.tenant_id = given.tenant_id AND attempt.report = given.report
                                AND attempt.retry_at > $6))
         FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::timestamptz[], $5::integer[])
             AS given (tenant_id, report, report_period, due_at, missed)
         ON CONFLICT DO NOTHING",
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &instants,
        &missed,
        now
    )
    .execute(&mut *transaction)
    .await
    .map_err(&failed)?;
    let skipped = skip_older(&mut transaction, &keys, &instants, now).await?;
    transaction.commit().await.map_err(&failed)?;
    Ok(skipped)
}

/// Writes down what a person asks for at the instant `at`, and claims it in the same step. What Microsoft asked not to be
/// called for yet is written down only.
pub async fn ask(
    pool: &PgPool,
    worker_id: Uuid,
    targets: &[Target],
    at: DateTime<Utc>,
) -> Result<Vec<Claim>, StoreError> {
    let failed = StoreError::during("writing down what is asked for");
    let keys = Keys::of(targets.iter().copied());
    let instants = vec![at; targets.len()];
    let mut transaction = pool.begin().await.map_err(&failed)?;
    let rows = sqlx::query_as!(
        ClaimRow,
        r#"WITH asked AS (
               INSERT INTO m365_store.slot (tenant_id, report, report_period, due_at, origin, not_before, worker_id,
                                            attempt_id, claimed_at, term, attempts)
               SELECT given.tenant_id, given.report, given.report_period, $4, 'asked', greatest($4, pause.until),
                      CASE WHEN pause.until IS NULL THEN $5::uuid END,
                      CASE WHEN pause.until IS NULL THEN gen_random_uuid() END,
                      CASE WHEN pause.until IS NULL THEN clock_timestamp() END,
                      (pause.until IS NULL)::integer, (pause.until IS NULL)::integer
               FROM unnest($1::uuid[], $2::text[], $3::smallint[]) AS given (tenant_id, report, report_period)
               CROSS JOIN LATERAL (SELECT max(attempt.retry_at) AS until FROM m365_store.attempt
                                   WHERE attempt.tenant_id = given.tenant_id AND attempt.report = given.report
                                     AND attempt.retry_at > $4) AS pause
               ON CONFLICT DO NOTHING
               RETURNING tenant_id, report, report_period, due_at, term, attempt_id, attempts
           )
           SELECT asked.tenant_id, asked.report, asked.report_period, asked.due_at, asked.term,
                  asked.attempt_id AS "attempt_id!", asked.attempts,
                  known.report_refresh_date AS "refresh_date?", known.row_count AS "row_count?", known.body_hash
           FROM asked
           LEFT JOIN LATERAL (SELECT * FROM m365_store.snapshot
                              WHERE (snapshot.tenant_id, snapshot.report, snapshot.report_period)
                                  = (asked.tenant_id, asked.report, asked.report_period)
                              ORDER BY snapshot.report_refresh_date DESC LIMIT 1) AS known ON true
           WHERE asked.attempt_id IS NOT NULL
           ORDER BY asked.tenant_id, asked.report, asked.report_period DESC"#,
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        at,
        worker_id
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(&failed)?;
    skip_older(&mut transaction, &keys, &instants, at).await?;
    transaction.commit().await.map_err(&failed)?;
    Ok(rows.into_iter().filter_map(ClaimRow::claim).collect())
}

/// Closes older open slots of these targets that nobody works on: newer ones answer for them.
async fn skip_older(
    connection: &mut PgConnection,
    keys: &Keys,
    instants: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let skipped = sqlx::query!(
        "UPDATE m365_store.slot AS older
         SET outcome = 'skipped', closed_at = $5, worker_id = NULL
         FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::timestamptz[])
             AS given (tenant_id, report, report_period, due_at)
         WHERE (older.tenant_id, older.report, older.report_period)
             = (given.tenant_id, given.report, given.report_period)
           AND older.due_at < given.due_at AND older.outcome IS NULL
           AND NOT EXISTS (SELECT FROM m365_store.worker
                           WHERE worker.worker_id = older.worker_id AND worker.lease_until > clock_timestamp())",
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        instants,
        now
    )
    .execute(connection)
    .await
    .map_err(StoreError::during("closing older slots"))?;
    Ok(skipped.rows_affected())
}

/// A claim as the database gives it.
struct ClaimRow {
    tenant_id: Uuid,
    report: String,
    report_period: i16,
    due_at: DateTime<Utc>,
    term: i64,
    attempt_id: Uuid,
    attempts: i16,
    refresh_date: Option<NaiveDate>,
    row_count: Option<i32>,
    body_hash: Option<Vec<u8>>,
}

impl ClaimRow {
    /// `None` for a report or period this program does not know.
    fn claim(self) -> Option<Claim> {
        let known = self.body_hash.and_then(|hash| {
            Some(Known { refresh_date: self.refresh_date?, rows: self.row_count?, body_hash: hash.try_into().ok()? })
        });
        Some(Claim {
            target: target(self.tenant_id, &self.report, self.report_period)?,
            due_at: self.due_at,
            term: self.term,
            attempt_id: self.attempt_id,
            attempt: self.attempts,
            known,
        })
    }
}

/// Claims the slots of up to `tenants` tenants whose time has come and that were tried less than `tries` times, longest
/// period first.
///
/// Work is claimed by tenant, so that one tenant's calls come from one process, one after the other. A claim whose worker
/// died before it was closed is taken over, and leaves an attempt with the outcome `abandoned`.
pub async fn claim(
    pool: &PgPool,
    worker_id: Uuid,
    scope: Scope<'_>,
    tenants: i64,
    tries: i16,
    now: DateTime<Utc>,
) -> Result<Vec<Claim>, StoreError> {
    let (permitted, asked_at, calls, calls_per_attempt) = match scope {
        Scope::Scheduled { tenants, calls, calls_per_attempt } => (tenants, None, calls, calls_per_attempt),
        Scope::Asked { tenants, at } => (tenants, Some(at), 0, 0),
    };
    let rows = sqlx::query_as!(
        ClaimRow,
        r#"WITH free AS (
               SELECT tenant.tenant_id FROM m365_store.tenant
               WHERE tenant.tenant_id = ANY ($2)
                 AND EXISTS (SELECT FROM m365_store.slot
                             WHERE slot.tenant_id = tenant.tenant_id AND slot.outcome IS NULL AND slot.not_before <= $3
                               AND slot.attempts < $9
                               AND CASE WHEN $4::timestamptz IS NULL THEN slot.origin = 'schedule'
                                        ELSE slot.origin = 'asked' AND slot.due_at = $4 AND slot.worker_id IS NULL END)
                 AND ($4 IS NOT NULL
                      OR NOT EXISTS (SELECT FROM m365_store.slot JOIN m365_store.worker USING (worker_id)
                                     WHERE slot.tenant_id = tenant.tenant_id AND slot.outcome IS NULL
                                       AND worker.lease_until > clock_timestamp()))
               LIMIT $5
               FOR UPDATE OF tenant SKIP LOCKED
           ), open AS (
               SELECT slot.tenant_id, slot.report, slot.report_period, slot.due_at, slot.term,
                      slot.worker_id AS dead_worker_id, slot.attempt_id AS dead_attempt_id, slot.claimed_at AS dead_at,
                      row_number() OVER (PARTITION BY slot.tenant_id, slot.report ORDER BY slot.report_period DESC) AS place,
                      coalesce((SELECT sum(attempt.graph_calls) FROM m365_store.attempt
                                WHERE attempt.tenant_id = slot.tenant_id AND attempt.report = slot.report
                                  AND attempt.finished_at > $6), 0) AS calls
               FROM free
               JOIN m365_store.slot USING (tenant_id)
               LEFT JOIN m365_store.worker
                 ON worker.worker_id = slot.worker_id AND worker.lease_until > clock_timestamp()
               WHERE slot.outcome IS NULL AND slot.not_before <= $3 AND worker.worker_id IS NULL AND slot.attempts < $9
                 AND CASE WHEN $4::timestamptz IS NULL THEN slot.origin = 'schedule'
                          ELSE slot.origin = 'asked' AND slot.due_at = $4 END
           ), claimed AS (
               UPDATE m365_store.slot
               SET worker_id = $1, attempt_id = gen_random_uuid(), claimed_at = clock_timestamp(),
                   term = slot.term + 1, attempts = slot.attempts + 1
               FROM open
               WHERE (slot.tenant_id, slot.report, slot.report_period, slot.due_at, slot.term)
                   = (open.tenant_id, open.report, open.report_period, open.due_at, open.term)
                 AND slot.outcome IS NULL
                 AND ($4 IS NOT NULL OR open.calls + open.place * $8 <= $7)
               RETURNING slot.tenant_id, slot.report, slot.report_period, slot.due_at, slot.term, slot.attempt_id,
                         slot.attempts, open.dead_worker_id, open.dead_attempt_id, open.dead_at
           ), abandoned AS (
               INSERT INTO m365_store.attempt (attempt_id, tenant_id, report, report_period, due_at, worker_id,
                                               started_at, finished_at, outcome, graph_calls)
               SELECT dead_attempt_id, tenant_id, report, report_period, due_at, dead_worker_id,
                      least(dead_at, $3), $3, 'abandoned', 1
               FROM claimed WHERE dead_worker_id IS NOT NULL
               ON CONFLICT DO NOTHING
           )
           SELECT claimed.tenant_id, claimed.report, claimed.report_period, claimed.due_at, claimed.term,
                  claimed.attempt_id AS "attempt_id!", claimed.attempts,
                  known.report_refresh_date AS "refresh_date?", known.row_count AS "row_count?", known.body_hash
           FROM claimed
           LEFT JOIN LATERAL (SELECT * FROM m365_store.snapshot
                              WHERE (snapshot.tenant_id, snapshot.report, snapshot.report_period)
                                  = (claimed.tenant_id, claimed.report, claimed.report_period)
                              ORDER BY snapshot.report_refresh_date DESC LIMIT 1) AS known ON true
           ORDER BY claimed.tenant_id, claimed.report, claimed.report_period DESC"#,
        worker_id,
        permitted,
        now,
        asked_at,
        tenants,
        now - QUOTA_WINDOW,
        i64::from(calls),
        i64::from(calls_per_attempt),
        tries
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::during("claiming slots"))?;
    Ok(rows.into_iter().filter_map(ClaimRow::claim).collect())
}

/// Gives back what this worker holds and does not work on: everything but the attempts in `in_hand`.
pub async fn release_all_but(pool: &PgPool, worker_id: Uuid, in_hand: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE m365_store.slot SET worker_id = NULL
         WHERE worker_id = $1 AND outcome IS NULL AND attempt_id <> ALL ($2)",
        worker_id,
        in_hand
    )
    .execute(pool)
    .await
    .map_err(StoreError::during("releasing slots"))?;
    Ok(())
}

/// Gives back, as if never tried, claims that were not begun.
pub async fn release_untried(pool: &PgPool, worker_id: Uuid, attempts: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE m365_store.slot SET worker_id = NULL, attempts = attempts - 1
         WHERE worker_id = $1 AND outcome IS NULL AND attempt_id = ANY ($2)",
        worker_id,
        attempts
    )
    .execute(pool)
    .await
    .map_err(StoreError::during("releasing slots"))?;
    Ok(())
}

/// How many of the slots asked for at that instant are open, and when the next of them may be tried.
pub async fn open_asked(
    pool: &PgPool,
    tenants: &[Uuid],
    at: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    sqlx::query_scalar!(
        "SELECT min(not_before) FROM m365_store.slot
         WHERE tenant_id = ANY ($1) AND origin = 'asked' AND due_at = $2 AND outcome IS NULL",
        tenants,
        at
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::during("looking for open slots"))
}

/// Closes the slots asked for at that instant that are still open, as failed. Returns their claims, such as they were.
pub async fn give_up_asked(
    pool: &PgPool,
    tenants: &[Uuid],
    at: DateTime<Utc>,
    error_class: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Claim>, StoreError> {
    let rows = sqlx::query_as!(
        ClaimRow,
        r#"UPDATE m365_store.slot SET outcome = 'failed', error_class = $3, closed_at = $4, worker_id = NULL
         WHERE tenant_id = ANY ($1) AND origin = 'asked' AND due_at = $2 AND outcome IS NULL
         RETURNING tenant_id, report, report_period, due_at, term, coalesce(attempt_id, gen_random_uuid()) AS "attempt_id!",
                   attempts, NULL::date AS refresh_date, NULL::integer AS row_count, NULL::bytea AS body_hash"#,
        tenants,
        at,
        error_class,
        now
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::during("giving up slots"))?;
    Ok(rows.into_iter().filter_map(ClaimRow::claim).collect())
}

/// When, after `now`, the earliest open scheduled slot of these tenants may be tried.
pub async fn next_try(
    pool: &PgPool,
    tenants: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    sqlx::query_scalar!(
        "SELECT min(not_before) FROM m365_store.slot
         WHERE tenant_id = ANY ($1) AND origin = 'schedule' AND outcome IS NULL AND not_before > $2",
        tenants,
        now
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::during("looking for the next try"))
}
