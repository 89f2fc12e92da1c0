//! The newest known row for each tenant and report date.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Incoming, rows_of};
use crate::{
    report::Report,
    store::{
        StoreError,
        rows::{NewRow, insert_rows, statement},
    },
};

/// Moves `current` forward: for each tenant and report date the newest refresh, then the longest period. It never goes
/// back to an older refresh, whatever arrives when.
pub(super) async fn advance_current(
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
