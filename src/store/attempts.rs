//! What an attempt came to, on its way into the ledger, and what became of it there.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    slots::{Claim, Known},
    targets::Keys,
};
use crate::{
    outcome::{ErrorClass, Outcome},
    report::Snapshot,
};

/// The most of a refused body that is kept.
pub const QUARANTINE_BYTES: usize = 262_144;

/// An attempt that has ended everywhere but in the database.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the column has that name")]
pub struct Finished {
    /// The right to write.
    pub claim: Claim,
    /// The process that held it.
    pub worker_id: Uuid,
    /// When the attempt began.
    pub started_at: DateTime<Utc>,
    /// When its last byte was read.
    pub finished_at: DateTime<Utc>,
    /// Calls to Graph's report functions, for the quota.
    pub graph_calls: i16,
    /// The status of Microsoft's last answer.
    pub http_status: Option<i16>,
    /// Microsoft's name of that answer, for its support.
    pub request_id: Option<String>,
    /// Our name of the attempt, which Microsoft logs.
    pub client_request_id: Uuid,
    /// What came, or why nothing did.
    pub result: Result<Served, Unstored>,
}

/// What Microsoft served.
#[derive(Debug)]
pub enum Served {
    /// A snapshot, read and validated.
    Snapshot(Snapshot),
    /// The very bytes from which the ledger's newest snapshot was read.
    Known(Known),
}

/// Why an attempt has no snapshot.
#[derive(Debug, Clone)]
pub struct Unstored {
    /// `empty`, `rejected` or `failed`.
    pub outcome: Outcome,
    /// The closed class.
    pub class: ErrorClass,
    /// For the person who reads it. Never holds a secret or a link.
    pub message: String,
    /// A refused body, for quarantine: what is kept of it, and how long it was.
    pub body: Option<(Vec<u8>, u64)>,
    /// Until when Microsoft asked not to be called for this tenant and report.
    pub throttled_until: Option<DateTime<Utc>>,
    /// When the slot is to be tried again; `None` closes it.
    pub next_try: Option<DateTime<Utc>>,
}

/// What became of an attempt.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The attempt.
    pub claim: Claim,
    /// What it came to.
    pub outcome: Outcome,
    /// Why it is no success.
    pub class: Option<ErrorClass>,
    /// The same for people.
    pub message: Option<String>,
    /// The refresh date served.
    pub refresh_date: Option<NaiveDate>,
    /// Rows that are new.
    pub inserted: u32,
    /// Rows whose figures changed under a known refresh date.
    pub updated: u32,
    /// Rows held already.
    pub unchanged: u32,
    /// The same refresh date came with other content than before.
    pub reissued: bool,
    /// When the slot is tried again; `None` if it is closed.
    pub next_try: Option<DateTime<Utc>>,
}

impl Receipt {
    /// A receipt for an attempt that left nothing in the database.
    pub fn unwritten(claim: Claim, class: ErrorClass, message: String) -> Self {
        Self {
            claim,
            outcome: Outcome::Failed,
            class: Some(class),
            message: Some(message),
            refresh_date: None,
            inserted: 0,
            updated: 0,
            unchanged: 0,
            reissued: false,
            next_try: None,
        }
    }
}

/// Appends the attempts, closes or defers their slots, and keeps refused bodies: the last part of the data's transaction.
pub(super) async fn record(
    connection: &mut PgConnection,
    finished: &[&Finished],
    receipts: &[Receipt],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    append(connection, finished, receipts).await?;
    close_slots(connection, receipts, now).await?;
    for attempt in finished {
        let Err(unstored) = &attempt.result else { continue };
        if let Some((body, length)) = &unstored.body {
            keep_body(connection, attempt, unstored, body, *length).await?;
        }
        if let Some(until) = unstored.throttled_until {
            defer(connection, attempt, until).await?;
        }
    }
    Ok(())
}

async fn append(connection: &mut PgConnection, finished: &[&Finished], receipts: &[Receipt]) -> Result<(), StoreError> {
    let keys = Keys::of(receipts.iter().map(|receipt| receipt.claim.target));
    let count = |rows: u32| i32::try_from(rows).unwrap_or(i32::MAX);
    sqlx::query!(
        r#"INSERT INTO m365_store.attempt (
               attempt_id, tenant_id, report, report_period, due_at, worker_id, started_at, finished_at, outcome,
               error_class, error_message, http_status, request_id, client_request_id, graph_calls, retry_at,
               report_refresh_date, rows_inserted, rows_updated, rows_unchanged)
           SELECT * FROM unnest(
               $1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::timestamptz[], $6::uuid[], $7::timestamptz[],
               $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::smallint[], $13::text[], $14::uuid[],
               $15::smallint[], $16::timestamptz[], $17::date[], $18::integer[], $19::integer[], $20::integer[])"#,
        &receipts.iter().map(|receipt| receipt.claim.attempt_id).collect::<Vec<_>>(),
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &receipts.iter().map(|receipt| receipt.claim.due_at).collect::<Vec<_>>(),
        &finished.iter().map(|attempt| attempt.worker_id).collect::<Vec<_>>(),
        &finished.iter().map(|attempt| attempt.started_at).collect::<Vec<_>>(),
        &finished.iter().map(|attempt| attempt.finished_at).collect::<Vec<_>>(),
        &receipts.iter().map(|receipt| receipt.outcome.as_str()).collect::<Vec<_>>() as &[&str],
        &receipts.iter().map(|receipt| receipt.class.map(ErrorClass::as_str)).collect::<Vec<_>>() as &[Option<&str>],
        &receipts.iter().map(|receipt| receipt.message.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &finished.iter().map(|attempt| attempt.http_status).collect::<Vec<_>>() as &[Option<i16>],
        &finished.iter().map(|attempt| attempt.request_id.as_deref()).collect::<Vec<_>>() as &[Option<&str>],
        &finished.iter().map(|attempt| attempt.client_request_id).collect::<Vec<_>>(),
        &finished.iter().map(|attempt| attempt.graph_calls).collect::<Vec<_>>(),
        &finished.iter().map(|attempt| attempt.throttled_until()).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &receipts.iter().map(|receipt| receipt.refresh_date).collect::<Vec<_>>() as &[Option<NaiveDate>],
        &receipts.iter().map(|receipt| count(receipt.inserted)).collect::<Vec<_>>(),
        &receipts.iter().map(|receipt| count(receipt.updated)).collect::<Vec<_>>(),
        &receipts.iter().map(|receipt| count(receipt.unchanged)).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await
    .map_err(StoreError::during("recording attempts"))?;
    Ok(())
}

/// The receipts of those attempts of a group that are in the database already: their commit landed, and only its answer
/// was lost.
pub(super) async fn landed(pool: &PgPool, group: &[Finished]) -> Result<HashMap<Uuid, Receipt>, StoreError> {
    let rows = sqlx::query!(
        "SELECT attempt_id, outcome, error_message, report_refresh_date, rows_inserted, rows_updated, rows_unchanged
         FROM m365_store.attempt WHERE tenant_id = ANY ($1) AND attempt_id = ANY ($2) AND outcome <> 'abandoned'",
        &group.iter().map(|attempt| attempt.claim.target.tenant_id).collect::<Vec<_>>(),
        &group.iter().map(|attempt| attempt.claim.attempt_id).collect::<Vec<_>>()
    )
    .fetch_all(pool)
    .await
    .map_err(StoreError::during("looking for landed attempts"))?;
    let count = |rows: i32| u32::try_from(rows).unwrap_or(0);
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let attempt = group.iter().find(|attempt| attempt.claim.attempt_id == row.attempt_id)?;
            let unstored = attempt.result.as_ref().err();
            let stored = if row.outcome == Outcome::Unchanged.as_str() { Outcome::Unchanged } else { Outcome::Stored };
            let receipt = Receipt {
                claim: attempt.claim,
                outcome: unstored.map_or(stored, |unstored| unstored.outcome),
                class: unstored.map(|unstored| unstored.class),
                message: row.error_message,
                refresh_date: row.report_refresh_date,
                inserted: count(row.rows_inserted),
                updated: count(row.rows_updated),
                unchanged: count(row.rows_unchanged),
                reissued: row.rows_updated > 0,
                next_try: unstored.and_then(|unstored| unstored.next_try),
            };
            Some((row.attempt_id, receipt))
        })
        .collect())
}

async fn close_slots(
    connection: &mut PgConnection,
    receipts: &[Receipt],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let keys = Keys::of(receipts.iter().map(|receipt| receipt.claim.target));
    sqlx::query!(
        "UPDATE m365_store.slot
         SET worker_id = NULL, error_class = done.error_class,
             outcome = CASE WHEN done.next_try IS NULL THEN done.outcome END,
             closed_at = CASE WHEN done.next_try IS NULL THEN $8::timestamptz END,
             not_before = coalesce(done.next_try, slot.not_before)
         FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::timestamptz[], $5::text[], $6::text[], $7::timestamptz[])
             AS done (tenant_id, report, report_period, due_at, outcome, error_class, next_try)
         WHERE (slot.tenant_id, slot.report, slot.report_period, slot.due_at)
             = (done.tenant_id, done.report, done.report_period, done.due_at)",
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &receipts.iter().map(|receipt| receipt.claim.due_at).collect::<Vec<_>>(),
        &receipts.iter().map(|receipt| receipt.outcome.as_str()).collect::<Vec<_>>() as &[&str],
        &receipts.iter().map(|receipt| receipt.class.map(ErrorClass::as_str)).collect::<Vec<_>>() as &[Option<&str>],
        &receipts.iter().map(|receipt| receipt.next_try).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        now,
    )
    .execute(connection)
    .await
    .map_err(StoreError::during("closing slots"))?;
    Ok(())
}

async fn keep_body(
    connection: &mut PgConnection,
    attempt: &Finished,
    unstored: &Unstored,
    body: &[u8],
    length: u64,
) -> Result<(), StoreError> {
    let target = attempt.claim.target;
    sqlx::query!(
        "INSERT INTO m365_store.quarantine
             (tenant_id, attempt_id, report, report_period, received_at, error_class, reason, body, body_bytes)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        target.tenant_id,
        attempt.claim.attempt_id,
        target.report.name,
        target.period.days(),
        attempt.finished_at,
        unstored.class.as_str(),
        unstored.message,
        &body[..body.len().min(QUARANTINE_BYTES)],
        i64::try_from(length).unwrap_or(i64::MAX)
    )
    .execute(connection)
    .await
    .map_err(StoreError::during("keeping a refused body"))?;
    Ok(())
}

/// Microsoft's wish not to be called holds for the tenant's other open slots of this report too. Those this worker has
/// claimed but not begun go back untried.
async fn defer(connection: &mut PgConnection, attempt: &Finished, until: DateTime<Utc>) -> Result<(), StoreError> {
    let target = attempt.claim.target;
    sqlx::query!(
        "UPDATE m365_store.slot SET not_before = greatest(not_before, $3)
         WHERE tenant_id = $1 AND report = $2 AND outcome IS NULL",
        target.tenant_id,
        target.report.name,
        until
    )
    .execute(connection)
    .await
    .map_err(StoreError::during("deferring slots"))?;
    Ok(())
}

impl Finished {
    /// Until when Microsoft asked not to be called.
    pub fn throttled_until(&self) -> Option<DateTime<Utc>> {
        self.result.as_ref().err().and_then(|unstored| unstored.throttled_until)
    }
}
