//! The heart of the store: snapshots are written whole, in one transaction with the ledger, `current`, what was superseded,
//! and the attempts that brought them.
//!
//! A group of attempts shares a transaction. Nobody else can write the same rows meanwhile: each slot is claimed by one
//! worker (its term proves it), and an advisory lock for each tenant and report covers the rest. So what is new can be
//! decided by reading first, and goes in by `INSERT` or `COPY`; what is held already is not touched at all.

mod contested;
mod current;
mod reissue;
mod revised;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use self::{
    contested::enter_contested,
    current::{advance_current, current},
    reissue::reissue,
    revised::enter_revised,
};

use super::{
    StoreError,
    attempts::{self, Finished, Receipt, Served},
    rows::{NewRow, insert_rows},
    slots::{Claim, Known},
    targets::Keys,
};
use crate::{
    outcome::{ErrorClass, Outcome},
    report::{Report, Snapshot, Target},
};

/// A snapshot that may have to be written, with its place in the group.
struct Incoming<'a> {
    place: usize,
    attempt: &'a Finished,
    snapshot: &'a Snapshot,
    hash: [u8; 32],
}

impl Incoming<'_> {
    const fn tenant_id(&self) -> Uuid {
        self.attempt.claim.target.tenant_id
    }
}

/// What the ledger holds under a snapshot's key.
struct Held {
    hash: Vec<u8>,
    revision: i32,
    first: NaiveDate,
    last: NaiveDate,
}

/// Writes a group of finished attempts in one transaction: all of it or nothing.
///
/// An attempt whose claim was taken over in the meantime writes nothing and gets a receipt with [`ErrorClass::Fenced`].
pub(super) async fn write(pool: &PgPool, group: &[Finished], now: DateTime<Utc>) -> Result<Vec<Receipt>, StoreError> {
    let mut transaction = pool.begin().await.map_err(StoreError::during("beginning a transaction"))?;
    let connection = &mut *transaction;

    let valid = fence(connection, group).await?;
    lock(connection, group).await?;
    let mut receipts: Vec<Receipt> = group.iter().map(provisional).collect();
    let incoming: Vec<Incoming<'_>> = group
        .iter()
        .enumerate()
        .filter(|(place, _)| valid.contains(place))
        .filter_map(|(place, attempt)| {
            let Ok(Served::Snapshot(snapshot)) = &attempt.result else { return None };
            Some(Incoming { place, attempt, snapshot, hash: snapshot.content_hash() })
        })
        .collect();
    let held = held(connection, &incoming).await?;
    refuse_outdated(connection, group, &mut receipts, now).await?;

    let mut fresh = Vec::new();
    for arrival in &incoming {
        let receipt = &mut receipts[arrival.place];
        let rows = u32::try_from(arrival.snapshot.rows.len()).unwrap_or(u32::MAX);
        match held.get(&arrival.place) {
            Some(held) if held.hash == arrival.hash => {
                receipt.outcome = Outcome::Unchanged;
                receipt.unchanged = rows;
            }
            Some(held) => {
                let change = reissue(connection, arrival, held, now).await?;
                (receipt.inserted, receipt.updated, receipt.unchanged) = change;
                receipt.reissued = true;
                fresh.push(arrival);
            }
            None => {
                receipt.inserted = rows;
                fresh.push(arrival);
            }
        }
    }
    let new: Vec<_> = fresh.iter().copied().filter(|arrival| !held.contains_key(&arrival.place)).collect();
    enter_in_ledger(connection, &new).await?;
    for report in reports(&fresh) {
        let of_report = |arrival: &&Incoming<'_>| arrival.snapshot.report == report;
        let rows: Vec<_> = new.iter().copied().filter(of_report).flat_map(rows_of).collect();
        insert_rows(connection, report.table, report, &rows).await?;
        let fresh: Vec<_> = fresh.iter().copied().filter(of_report).collect();
        let current = current(connection, report, &fresh).await?;
        enter_contested(connection, report, &fresh, &current).await?;
        advance_current(connection, report, &fresh, &current).await?;
        enter_revised(connection, report, &fresh, &held).await?;
    }

    let (finished, recorded): (Vec<_>, Vec<_>) = group
        .iter()
        .zip(&receipts)
        .enumerate()
        .filter(|(place, _)| valid.contains(place))
        .map(|(_, pair)| pair)
        .unzip();
    let recorded: Vec<Receipt> = recorded.into_iter().cloned().collect();
    attempts::record(connection, &finished, &recorded, now).await?;
    transaction.commit().await.map_err(StoreError::during("committing"))?;

    if valid.len() < group.len() {
        let landed = attempts::landed(pool, group).await?;
        for (place, receipt) in receipts.iter_mut().enumerate().filter(|(place, _)| !valid.contains(place)) {
            *receipt = landed.get(&group[place].claim.attempt_id).cloned().unwrap_or_else(|| fenced(receipt.claim));
        }
    }
    Ok(receipts)
}

fn fenced(claim: Claim) -> Receipt {
    let message = "another process took this slot over in the meantime; nothing was written".to_owned();
    Receipt::unwritten(claim, ErrorClass::Fenced, message)
}

/// The receipt of an attempt if everything is new, or if there is nothing to write.
fn provisional(attempt: &Finished) -> Receipt {
    let mut receipt = Receipt {
        claim: attempt.claim,
        outcome: Outcome::Stored,
        class: None,
        message: None,
        refresh_date: None,
        inserted: 0,
        updated: 0,
        unchanged: 0,
        reissued: false,
        next_try: None,
    };
    match &attempt.result {
        Ok(Served::Snapshot(snapshot)) => receipt.refresh_date = Some(snapshot.refresh_date),
        Ok(Served::Known(known)) => {
            receipt.outcome = Outcome::Unchanged;
            receipt.refresh_date = Some(known.refresh_date);
            receipt.unchanged = u32::try_from(known.rows).unwrap_or(0);
        }
        Err(unstored) => {
            receipt.outcome = unstored.outcome;
            receipt.class = Some(unstored.class);
            receipt.message = Some(unstored.message.clone());
            receipt.next_try = unstored.next_try;
        }
    }
    receipt
}

/// The places of those attempts whose claim still holds. Their slots stay locked until the transaction ends.
///
/// Looked up one by one: the planner knows nothing of slots that were written a moment ago, and joined them badly.
async fn fence(connection: &mut PgConnection, group: &[Finished]) -> Result<HashSet<usize>, StoreError> {
    let keys = Keys::of(group.iter().map(|attempt| attempt.claim.target));
    let instants: Vec<_> = group.iter().map(|attempt| attempt.claim.due_at).collect();
    let terms: Vec<_> = group.iter().map(|attempt| attempt.claim.term).collect();
    // A term alone could come again after a failover that lost the last commits.
    let attempts: Vec<_> = group.iter().map(|attempt| attempt.claim.attempt_id).collect();
    let places = sqlx::query_scalar!(
        r#"SELECT claim.place AS "place!"
           FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::timestamptz[], $5::bigint[], $6::uuid[])
               WITH ORDINALITY AS claim (tenant_id, report, report_period, due_at, term, attempt_id, place)
           CROSS JOIN LATERAL (
               SELECT FROM m365_store.slot
               WHERE (slot.tenant_id, slot.report, slot.report_period, slot.due_at)
                   = (claim.tenant_id, claim.report, claim.report_period, claim.due_at)
                 AND (slot.term, slot.attempt_id) = (claim.term, claim.attempt_id) AND slot.outcome IS NULL
               FOR UPDATE
           ) AS held
           ORDER BY claim.place"#,
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &instants,
        &terms,
        &attempts
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("checking claims"))?;
    Ok(places.into_iter().filter_map(|place| usize::try_from(place - 1).ok()).collect())
}

/// One lock for each tenant and report that rows have come for, in one order, until the transaction ends.
async fn lock(connection: &mut PgConnection, group: &[Finished]) -> Result<(), StoreError> {
    let with_rows = group.iter().filter(|attempt| matches!(attempt.result, Ok(Served::Snapshot(_))));
    let keys = Keys::of(with_rows.map(|attempt| attempt.claim.target));
    if keys.tenants.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(name.key)
         FROM (SELECT DISTINCT hashtextextended(tenant_id::text || '/' || report, 0) AS key
               FROM unnest($1::uuid[], $2::text[]) AS target (tenant_id, report)
               ORDER BY key) AS name",
        &keys.tenants,
        &keys.reports as &[&str]
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("locking tenants"))?;
    Ok(())
}

/// What the ledger holds under the keys of the incoming snapshots, by place.
async fn held(connection: &mut PgConnection, incoming: &[Incoming<'_>]) -> Result<HashMap<usize, Held>, StoreError> {
    if incoming.is_empty() {
        return Ok(HashMap::new());
    }
    let keys = Keys::of(incoming.iter().map(|arrival| arrival.attempt.claim.target));
    let refreshes: Vec<_> = incoming.iter().map(|arrival| arrival.snapshot.refresh_date).collect();
    let rows = sqlx::query!(
        r#"SELECT key.place AS "place!", snapshot.content_hash, snapshot.revision,
                  snapshot.first_report_date, snapshot.last_report_date
           FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::date[])
               WITH ORDINALITY AS key (tenant_id, report, report_period, report_refresh_date, place)
           JOIN m365_store.snapshot USING (tenant_id, report, report_period, report_refresh_date)"#,
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &refreshes
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("reading the ledger"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let place = usize::try_from(row.place - 1).ok()?;
            let held = Held {
                hash: row.content_hash,
                revision: row.revision,
                first: row.first_report_date,
                last: row.last_report_date,
            };
            Some((incoming.get(place)?.place, held))
        })
        .collect())
}

/// Bytes that were known when the slot was claimed say nothing any more if the ledger has got other content under their
/// refresh date since. Such an attempt is made again, and then reads what it gets.
async fn refuse_outdated(
    connection: &mut PgConnection,
    group: &[Finished],
    receipts: &mut [Receipt],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let known: Vec<(usize, Target, Known)> = group
        .iter()
        .enumerate()
        .filter_map(|(place, attempt)| match attempt.result {
            Ok(Served::Known(known)) => Some((place, attempt.claim.target, known)),
            _ => None,
        })
        .collect();
    if known.is_empty() {
        return Ok(());
    }
    let keys = Keys::of(known.iter().map(|(_, target, _)| *target));
    let outdated = sqlx::query_scalar!(
        r#"SELECT key.place AS "place!"
           FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::date[], $5::bytea[])
               WITH ORDINALITY AS key (tenant_id, report, report_period, report_refresh_date, body_hash, place)
           LEFT JOIN m365_store.snapshot
               USING (tenant_id, report, report_period, report_refresh_date, body_hash)
           WHERE snapshot.revision IS NULL"#,
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &known.iter().map(|(_, _, known)| known.refresh_date).collect::<Vec<_>>(),
        &known.iter().map(|(_, _, known)| known.body_hash.to_vec()).collect::<Vec<_>>()
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("checking what is known"))?;
    for place in outdated.into_iter().filter_map(|place| usize::try_from(place - 1).ok()) {
        let receipt = &mut receipts[known[place].0];
        *receipt = Receipt { next_try: Some(now), ..fenced(receipt.claim) };
    }
    Ok(())
}

async fn enter_in_ledger(connection: &mut PgConnection, new: &[&Incoming<'_>]) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let keys = Keys::of(new.iter().map(|arrival| arrival.attempt.claim.target));
    let (firsts, lasts): (Vec<_>, Vec<_>) = new.iter().map(|arrival| arrival.snapshot.dates()).unzip();
    let columns: Vec<_> =
        new.iter().map(|arrival| serde_json::Value::from(arrival.snapshot.source_columns.clone())).collect();
    sqlx::query!(
        "INSERT INTO m365_store.snapshot (
             tenant_id, report, report_period, report_refresh_date, revision, row_count, first_report_date,
             last_report_date, content_hash, body_hash, source_columns, attempt_id, first_fetched_at, fetched_at)
         SELECT tenant_id, report, report_period, report_refresh_date, 1, row_count, first_report_date, last_report_date,
                content_hash, body_hash, ARRAY (SELECT jsonb_array_elements_text(source_columns)), attempt_id, fetched_at,
                fetched_at
         FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::date[], $5::integer[], $6::date[], $7::date[],
                     $8::bytea[], $9::bytea[], $10::jsonb[], $11::uuid[], $12::timestamptz[])
             AS new (tenant_id, report, report_period, report_refresh_date, row_count, first_report_date,
                     last_report_date, content_hash, body_hash, source_columns, attempt_id, fetched_at)",
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &new.iter().map(|arrival| arrival.snapshot.refresh_date).collect::<Vec<_>>(),
        &new.iter().map(|arrival| i32::try_from(arrival.snapshot.rows.len()).unwrap_or(i32::MAX)).collect::<Vec<_>>(),
        &firsts,
        &lasts,
        &new.iter().map(|arrival| arrival.hash.to_vec()).collect::<Vec<_>>(),
        &new.iter().map(|arrival| arrival.snapshot.body_hash.to_vec()).collect::<Vec<_>>(),
        &columns,
        &new.iter().map(|arrival| arrival.attempt.claim.attempt_id).collect::<Vec<_>>(),
        &new.iter().map(|arrival| arrival.attempt.finished_at).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await
    .map_err(StoreError::during("writing the ledger"))?;
    Ok(())
}

fn rows_of<'a>(arrival: &Incoming<'a>) -> impl Iterator<Item = NewRow<'a>> + use<'a> {
    let (tenant_id, snapshot, fetched_at) = (arrival.tenant_id(), arrival.snapshot, arrival.attempt.finished_at);
    snapshot.rows.iter().map(move |row| NewRow {
        tenant_id,
        refresh_date: snapshot.refresh_date,
        period: snapshot.period.days(),
        fetched_at,
        row,
    })
}

fn reports(arrivals: &[&Incoming<'_>]) -> Vec<&'static Report> {
    let mut reports: Vec<&'static Report> = Vec::new();
    for arrival in arrivals {
        if !reports.contains(&arrival.snapshot.report) {
            reports.push(arrival.snapshot.report);
        }
    }
    reports
}
