//! The heart of the store: snapshots are written whole, in one transaction with the ledger, `current`, what was superseded,
//! and the attempts that brought them.
//!
//! A group of attempts shares a transaction. Nobody else can write the same rows meanwhile: each slot is claimed by one
//! worker (its term proves it), and an advisory lock for each tenant and report covers the rest. So what is new can be
//! decided by reading first, and goes in by `INSERT` or `COPY`; what is held already is not touched at all.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    attempts::{self, Finished, Receipt, Served},
    copy::CopyRows,
    slots::{Claim, Known},
    targets::Keys,
};
use crate::{
    outcome::{ErrorClass, Outcome},
    report::{ColumnKind, Report, Row, Snapshot, Target},
};

/// From here on rows are many.
const MANY_ROWS: usize = 2_000;

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
    for report in reports(&fresh) {
        let of_report = |arrivals: &[&Incoming<'_>]| -> Vec<usize> {
            (0..arrivals.len()).filter(|&n| arrivals[n].snapshot.report == report).collect()
        };
        let new: Vec<_> = of_report(&new).into_iter().map(|n| new[n]).collect();
        let rows: Vec<_> = new.iter().flat_map(|arrival| rows_of(arrival)).collect();
        insert_rows(connection, report.table, report, &rows).await?;
        let fresh: Vec<_> = of_report(&fresh).into_iter().map(|n| fresh[n]).collect();
        advance_current(connection, report, &fresh).await?;
    }
    enter_in_ledger(connection, &new).await?;

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
           JOIN m365_store.slot USING (tenant_id, report, report_period, due_at, term, attempt_id)
           WHERE slot.outcome IS NULL
           ORDER BY slot.tenant_id, slot.report, slot.report_period, slot.due_at
           FOR UPDATE OF slot"#,
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

/// One lock for each tenant and report, in one order, until the transaction ends.
async fn lock(connection: &mut PgConnection, group: &[Finished]) -> Result<(), StoreError> {
    let keys = Keys::of(group.iter().filter(|attempt| attempt.result.is_ok()).map(|attempt| attempt.claim.target));
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

/// Replaces a snapshot that was served again under the same refresh date with other content. The replaced rows are kept,
/// whole, in the superseded table. Returns how many rows are new, changed and as before.
async fn reissue(
    connection: &mut PgConnection,
    arrival: &Incoming<'_>,
    held: &Held,
    now: DateTime<Utc>,
) -> Result<(u32, u32, u32), StoreError> {
    let snapshot = arrival.snapshot;
    let report = snapshot.report;
    let failed = StoreError::during("replacing a snapshot");
    let key = "tenant_id = $1 AND report_refresh_date = $2 AND report_period = $3 AND report_date BETWEEN $4 AND $5";
    let sql = |template: &str| statement(report, &template.replace("{key}", key));

    sqlx::query(sql(
        "INSERT INTO {superseded} ({columns}, revision, superseded_at) SELECT {columns}, $6, $7 FROM {facts} WHERE {key}",
    ))
    .bind(arrival.tenant_id())
    .bind(snapshot.refresh_date)
    .bind(snapshot.period.days())
    .bind(held.first)
    .bind(held.last)
    .bind(held.revision)
    .bind(now)
    .execute(&mut *connection)
    .await
    .map_err(&failed)?;
    sqlx::query(sql("DELETE FROM {facts} WHERE {key}"))
        .bind(arrival.tenant_id())
        .bind(snapshot.refresh_date)
        .bind(snapshot.period.days())
        .bind(held.first)
        .bind(held.last)
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
    insert_rows(connection, report.table, report, &rows_of(arrival).collect::<Vec<_>>()).await?;

    let (first, last) = snapshot.dates();
    let (inserted, updated, unchanged): (i64, i64, i64) = sqlx::query_as(sql(
        "SELECT count(*) FILTER (WHERE old.tenant_id IS NULL),
                count(*) FILTER (WHERE old.tenant_id IS NOT NULL AND ({new_measures}) IS DISTINCT FROM ({old_measures})),
                count(*) FILTER (WHERE old.tenant_id IS NOT NULL AND ({new_measures}) IS NOT DISTINCT FROM ({old_measures}))
         FROM (SELECT * FROM {facts} WHERE {key}) AS new
         LEFT JOIN (SELECT * FROM {superseded} WHERE tenant_id = $1 AND report_refresh_date = $2 AND report_period = $3
                    AND revision = $6) AS old USING (report_date)",
    ))
    .bind(arrival.tenant_id())
    .bind(snapshot.refresh_date)
    .bind(snapshot.period.days())
    .bind(first)
    .bind(last)
    .bind(held.revision)
    .fetch_one(&mut *connection)
    .await
    .map_err(&failed)?;

    forget_current(connection, arrival, held, (first, last)).await?;
    sqlx::query!(
        "UPDATE m365_store.snapshot
         SET revision = revision + 1, row_count = $5, first_report_date = $6, last_report_date = $7, content_hash = $8,
             source_columns = $9, attempt_id = $10, fetched_at = $11, body_hash = $12
         WHERE tenant_id = $1 AND report = $2 AND report_period = $3 AND report_refresh_date = $4",
        arrival.tenant_id(),
        report.name,
        snapshot.period.days(),
        snapshot.refresh_date,
        i32::try_from(snapshot.rows.len()).unwrap_or(i32::MAX),
        first,
        last,
        &arrival.hash[..],
        &snapshot.source_columns,
        arrival.attempt.claim.attempt_id,
        arrival.attempt.finished_at,
        &snapshot.body_hash[..]
    )
    .execute(connection)
    .await
    .map_err(&failed)?;
    let count = |rows| u32::try_from(rows).unwrap_or(u32::MAX);
    Ok((count(inserted), count(updated), count(unchanged)))
}

/// When a re-issue has fewer dates, `current` goes back to the next best row for those that went.
async fn forget_current(
    connection: &mut PgConnection,
    arrival: &Incoming<'_>,
    held: &Held,
    (first, last): (NaiveDate, NaiveDate),
) -> Result<(), StoreError> {
    let snapshot = arrival.snapshot;
    let report = snapshot.report;
    let failed = StoreError::during("taking back current rows");
    let gone: Vec<NaiveDate> = sqlx::query_scalar(statement(
        report,
        "DELETE FROM {current} AS current
         WHERE tenant_id = $1 AND report_refresh_date = $2 AND report_period = $3
           AND report_date BETWEEN least($4::date, $6::date) AND greatest($5::date, $7::date)
           AND NOT EXISTS (SELECT FROM {facts} AS fact
                           WHERE (fact.tenant_id, fact.report_date, fact.report_refresh_date, fact.report_period)
                               = (current.tenant_id, current.report_date, $2, $3))
         RETURNING report_date",
    ))
    .bind(arrival.tenant_id())
    .bind(snapshot.refresh_date)
    .bind(snapshot.period.days())
    .bind(held.first)
    .bind(held.last)
    .bind(first)
    .bind(last)
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;
    sqlx::query(statement(
        report,
        "INSERT INTO {current} ({columns})
         SELECT DISTINCT ON (report_date) {columns} FROM {facts}
         WHERE tenant_id = $1 AND report_date = ANY ($2)
         ORDER BY report_date, report_refresh_date DESC, report_period DESC",
    ))
    .bind(arrival.tenant_id())
    .bind(gone)
    .execute(connection)
    .await
    .map_err(&failed)?;
    Ok(())
}

/// Moves `current` forward: for each tenant and report date the newest refresh, then the longest period. It never goes
/// back to an older refresh, whatever arrives when.
async fn advance_current(
    connection: &mut PgConnection,
    report: &'static Report,
    fresh: &[&Incoming<'_>],
) -> Result<(), StoreError> {
    let failed = StoreError::during("reading current rows");
    let mut candidates: BTreeMap<(Uuid, NaiveDate), NewRow<'_>> = BTreeMap::new();
    let mut ranges: HashMap<Uuid, (NaiveDate, NaiveDate)> = HashMap::new();
    for arrival in fresh {
        let (first, last) = arrival.snapshot.dates();
        let range = ranges.entry(arrival.tenant_id()).or_insert((first, last));
        *range = (range.0.min(first), range.1.max(last));
        for row in rows_of(arrival) {
            let best = candidates.entry((row.tenant_id, row.row.report_date)).or_insert(row);
            if best.vintage() < row.vintage() {
                *best = row;
            }
        }
    }
    let (tenants, dates): (Vec<_>, Vec<_>) = ranges.into_iter().unzip();
    let (firsts, lasts): (Vec<_>, Vec<_>) = dates.into_iter().unzip();
    let known: Vec<(Uuid, NaiveDate, NaiveDate, i16)> = sqlx::query_as(statement(
        report,
        "SELECT current.tenant_id, current.report_date, current.report_refresh_date, current.report_period
         FROM unnest($1::uuid[], $2::date[], $3::date[]) AS span (tenant_id, first, last)
         JOIN {current} AS current
           ON current.tenant_id = span.tenant_id AND current.report_date BETWEEN span.first AND span.last",
    ))
    .bind(tenants)
    .bind(firsts)
    .bind(lasts)
    .fetch_all(&mut *connection)
    .await
    .map_err(&failed)?;

    let mut newer = Vec::new();
    for (tenant_id, report_date, refresh_date, period) in known {
        if let Some(candidate) = candidates.remove(&(tenant_id, report_date))
            && candidate.vintage() >= (refresh_date, period)
        {
            newer.push(candidate);
        }
    }
    let first_seen: Vec<_> = candidates.into_values().collect();
    insert_rows(connection, &format!("{}_current", report.table), report, &first_seen).await?;
    replace_current(connection, report, &newer).await
}

/// Takes these facts, already written in this transaction, over into the `current` rows of their dates.
async fn replace_current(
    connection: &mut PgConnection,
    report: &'static Report,
    newer: &[NewRow<'_>],
) -> Result<(), StoreError> {
    if newer.is_empty() {
        return Ok(());
    }
    sqlx::query(statement(
        report,
        "UPDATE {current} AS current SET ({values}) = ({fact_values})
         FROM unnest($1::uuid[], $2::date[], $3::date[], $4::smallint[])
             AS key (tenant_id, report_date, report_refresh_date, report_period)
         JOIN {facts} AS fact USING (tenant_id, report_date, report_refresh_date, report_period)
         WHERE current.tenant_id = fact.tenant_id AND current.report_date = fact.report_date",
    ))
    .bind(newer.iter().map(|row| row.tenant_id).collect::<Vec<_>>())
    .bind(newer.iter().map(|row| row.row.report_date).collect::<Vec<_>>())
    .bind(newer.iter().map(|row| row.refresh_date).collect::<Vec<_>>())
    .bind(newer.iter().map(|row| row.period).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map_err(StoreError::during("moving current rows"))?;
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

/// One row on its way into a table.
#[derive(Clone, Copy)]
struct NewRow<'a> {
    tenant_id: Uuid,
    refresh_date: NaiveDate,
    period: i16,
    fetched_at: DateTime<Utc>,
    row: &'a Row,
}

impl NewRow<'_> {
    /// What decides between two rows of one date.
    const fn vintage(&self) -> (NaiveDate, i16) {
        (self.refresh_date, self.period)
    }
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

/// Writes new rows: a few in one round trip, many by `COPY`, which is faster by the row but takes several trips and, over
/// TCP, stalls for one delayed acknowledgement.
async fn insert_rows(
    connection: &mut PgConnection,
    table: &str,
    report: &Report,
    rows: &[NewRow<'_>],
) -> Result<(), StoreError> {
    match rows.len() {
        0 => Ok(()),
        1..MANY_ROWS => insert_few(connection, table, report, rows).await,
        MANY_ROWS.. => copy_rows(connection, table, report, rows).await,
    }
}

async fn insert_few(
    connection: &mut PgConnection,
    table: &str,
    report: &Report,
    rows: &[NewRow<'_>],
) -> Result<(), StoreError> {
    let kinds = report.columns.iter().map(|column| match column.kind {
        ColumnKind::Count => "bigint",
    });
    let types = ["uuid", "date", "date", "smallint"].into_iter().chain(kinds).chain(["text", "timestamptz"]);
    let arrays: Vec<String> = types.zip(1..).map(|(kind, place)| format!("${place}::{kind}[]")).collect();
    let template = format!(
        "INSERT INTO m365_store.{table} ({{columns}})
         SELECT tenant_id, report_date, report_refresh_date, report_period, {{measures}}, extra::jsonb, fetched_at
         FROM unnest({}) AS new ({{columns}})",
        arrays.join(", ")
    );
    let mut query = sqlx::query(statement(report, &template))
        .bind(rows.iter().map(|new| new.tenant_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.row.report_date).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.refresh_date).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.period).collect::<Vec<_>>());
    for column in 0..report.columns.len() {
        query = query.bind(rows.iter().map(|new| new.row.values[column]).collect::<Vec<_>>());
    }
    query
        .bind(rows.iter().map(|new| new.row.extra.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.fetched_at).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(StoreError::during("writing rows"))?;
    Ok(())
}

async fn copy_rows(
    connection: &mut PgConnection,
    table: &str,
    report: &Report,
    rows: &[NewRow<'_>],
) -> Result<(), StoreError> {
    let fields = i16::try_from(report.columns.len() + 6).unwrap_or(i16::MAX);
    let mut encoded = CopyRows::new(fields);
    for NewRow { tenant_id, refresh_date, period, fetched_at, row } in rows {
        encoded.row().uuid(*tenant_id).date(row.report_date).date(*refresh_date).smallint(*period);
        for value in &row.values {
            encoded.bigint(*value);
        }
        encoded.jsonb(row.extra.as_deref()).timestamptz(*fetched_at);
    }
    let failed = StoreError::during("copying rows");
    let sql = statement(report, &format!("COPY m365_store.{table} ({{columns}}) FROM STDIN (FORMAT binary)"));
    let mut copy = connection.copy_in_raw(sql.0.as_str()).await.map_err(&failed)?;
    copy.send(encoded.finish()).await.map_err(&failed)?;
    copy.finish().await.map_err(&failed)?;
    Ok(())
}

/// The one place where a statement is put together. All that goes in is text of this program: the template, and the table
/// and column names of a report's definition, which is compiled in. Values are always bound.
pub(super) fn statement(report: &Report, template: &str) -> AssertSqlSafe<String> {
    let names: Vec<&str> = report.columns.iter().map(|column| column.name).collect();
    let measures = |prefix: &str| {
        let all = names.iter().chain(&["extra"]);
        all.map(|name| format!("{prefix}{name}")).collect::<Vec<_>>().join(", ")
    };
    let own = measures("");
    let facts = format!("m365_store.{}", report.table);
    AssertSqlSafe(
        template
            .replace("{facts}", &facts)
            .replace("{current}", &format!("{facts}_current"))
            .replace("{superseded}", &format!("{facts}_superseded"))
            .replace(
                "{columns}",
                &format!("tenant_id, report_date, report_refresh_date, report_period, {own}, fetched_at"),
            )
            .replace("{measures}", &names.join(", "))
            .replace("{new_measures}", &measures("new."))
            .replace("{old_measures}", &measures("old."))
            .replace("{values}", &format!("report_refresh_date, report_period, {own}, fetched_at"))
            .replace(
                "{fact_values}",
                &format!("fact.report_refresh_date, fact.report_period, {}, fact.fetched_at", measures("fact.")),
            ),
    )
}

#[cfg(test)]
mod tests;
