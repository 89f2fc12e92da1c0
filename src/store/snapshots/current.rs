//! The newest known row for each tenant and report date.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{Incoming, rows_of};
use crate::{
    report::{Report, Row},
    store::{
        StoreError,
        rows::{self, NewRow, insert_rows, statement},
    },
};

/// A row as it is known now.
pub(super) struct Held {
    pub(super) refresh_date: NaiveDate,
    period: i16,
    pub(super) row: Row,
}

/// The current rows of the days that a group is about.
pub(super) type Current = HashMap<(Uuid, NaiveDate), Held>;

/// Reads the current rows of the days that fresh snapshots hold.
pub(super) async fn current(
    connection: &mut PgConnection,
    report: &'static Report,
    fresh: &[&Incoming<'_>],
) -> Result<Current, StoreError> {
    let failed = StoreError::during("reading current rows");
    let mut ranges: HashMap<Uuid, (NaiveDate, NaiveDate)> = HashMap::new();
    for arrival in fresh {
        let (first, last) = arrival.snapshot.dates();
        let range = ranges.entry(arrival.tenant_id()).or_insert((first, last));
        *range = (range.0.min(first), range.1.max(last));
    }
    let (tenants, dates): (Vec<_>, Vec<_>) = ranges.into_iter().unzip();
    let (firsts, lasts): (Vec<_>, Vec<_>) = dates.into_iter().unzip();
    let known = sqlx::query(statement(
        report,
        "SELECT current.tenant_id, current.report_date, {values}, extra::text AS extra_text
         FROM unnest($1::uuid[], $2::date[], $3::date[]) AS span (tenant_id, first, last)
         JOIN {current} AS current
           ON current.tenant_id = span.tenant_id AND current.report_date BETWEEN span.first AND span.last",
    ))
    .bind(tenants)
    .bind(firsts)
    .bind(lasts)
    .fetch_all(connection)
    .await
    .map_err(&failed)?;
    let held = |line: &PgRow| {
        let row = rows::row(report, line)?;
        let held =
            Held { refresh_date: line.try_get("report_refresh_date")?, period: line.try_get("report_period")?, row };
        Ok(((line.try_get("tenant_id")?, held.row.report_date), held))
    };
    known.iter().map(held).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

/// Moves the current rows forward: for each tenant and report date the newest refresh, then the longest period. They never
/// go back to an older refresh, whatever arrives when.
pub(super) async fn advance_current(
    connection: &mut PgConnection,
    report: &'static Report,
    fresh: &[&Incoming<'_>],
    current: &Current,
) -> Result<(), StoreError> {
    let mut candidates: BTreeMap<(Uuid, NaiveDate), NewRow<'_>> = BTreeMap::new();
    for row in fresh.iter().copied().flat_map(rows_of) {
        let best = candidates.entry((row.tenant_id, row.row.report_date)).or_insert(row);
        if best.vintage() < row.vintage() {
            *best = row;
        }
    }
    let (mut first_seen, mut newer) = (Vec::new(), Vec::new());
    for (day, candidate) in candidates {
        match current.get(&day) {
            None => first_seen.push(candidate),
            Some(held) if candidate.vintage() >= (held.refresh_date, held.period) => newer.push(candidate),
            Some(_) => {}
        }
    }
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
