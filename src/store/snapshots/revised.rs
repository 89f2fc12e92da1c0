//! What was revised: days whose figures are others than those of the refresh before, or of the same refresh before it was
//! served again. It follows from the facts and the superseded rows alone; kept, because asking them takes seconds.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{Held, Incoming};
use crate::{
    report::Report,
    store::{StoreError, rows::statement, targets::Keys},
};

/// Enters what fresh snapshots changed. They and the ledger are already written.
pub(super) async fn enter_revised(
    connection: &mut PgConnection,
    report: &'static Report,
    fresh: &[&Incoming<'_>],
    held: &HashMap<usize, Held>,
) -> Result<(), StoreError> {
    let mut newest = Vec::new();
    for (arrival, place) in fresh.iter().zip(positions(connection, fresh).await?) {
        match place {
            Position::First => {}
            Position::Newest => newest.push(*arrival),
            Position::Amid => recompute(connection, report, arrival, held.get(&arrival.place)).await?,
        }
    }
    compare_with_before(connection, report, &newest).await
}

/// Where a snapshot stands among those of its target.
enum Position {
    /// There are no others: nothing to compare with.
    First,
    /// The newest one, served for the first time.
    Newest,
    /// Served again, or older than others.
    Amid,
}

async fn positions(connection: &mut PgConnection, fresh: &[&Incoming<'_>]) -> Result<Vec<Position>, StoreError> {
    let keys = Keys::of(fresh.iter().map(|arrival| arrival.attempt.claim.target));
    let refreshes: Vec<_> = fresh.iter().map(|arrival| arrival.snapshot.refresh_date).collect();
    let rows = sqlx::query!(
        r#"SELECT own.revision > 1 OR EXISTS (
                      SELECT FROM m365_store.snapshot AS later
                      WHERE (later.tenant_id, later.report, later.report_period)
                          = (own.tenant_id, own.report, own.report_period)
                        AND later.report_refresh_date > own.report_refresh_date) AS "amid!",
                  EXISTS (
                      SELECT FROM m365_store.snapshot AS earlier
                      WHERE (earlier.tenant_id, earlier.report, earlier.report_period)
                          = (own.tenant_id, own.report, own.report_period)
                        AND earlier.report_refresh_date < own.report_refresh_date) AS "follows!"
           FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::date[])
               WITH ORDINALITY AS key (tenant_id, report, report_period, report_refresh_date, place)
           JOIN m365_store.snapshot AS own USING (tenant_id, report, report_period, report_refresh_date)
           ORDER BY key.place"#,
        &keys.tenants,
        &keys.reports as &[&str],
        &keys.periods,
        &refreshes
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::during("reading the ledger"))?;
    let positions = rows.into_iter().map(|row| match (row.amid, row.follows) {
        (true, _) => Position::Amid,
        (false, true) => Position::Newest,
        (false, false) => Position::First,
    });
    Ok(positions.collect())
}

/// Each day of these snapshots beside the newest earlier row of the same period, looked up one by one.
async fn compare_with_before(
    connection: &mut PgConnection,
    report: &'static Report,
    newest: &[&Incoming<'_>],
) -> Result<(), StoreError> {
    if newest.is_empty() {
        return Ok(());
    }
    let (firsts, lasts): (Vec<_>, Vec<_>) = newest.iter().map(|arrival| arrival.snapshot.dates()).unzip();
    sqlx::query(statement(
        report,
        "INSERT INTO {revised} ({revision})
         SELECT new.tenant_id, new.report_date, new.report_refresh_date, new.report_period, 0, old.report_refresh_date,
                new.fetched_at, {old_measures}, {new_measures}
         FROM unnest($1::uuid[], $2::smallint[], $3::date[], $4::date[], $5::date[])
             AS snapshot (tenant_id, report_period, report_refresh_date, first, last)
         CROSS JOIN LATERAL generate_series(0, snapshot.last - snapshot.first) AS day (n)
         CROSS JOIN LATERAL (
             SELECT * FROM {facts} AS fact
             WHERE (fact.tenant_id, fact.report_date, fact.report_refresh_date, fact.report_period)
                 = (snapshot.tenant_id, snapshot.first + day.n, snapshot.report_refresh_date, snapshot.report_period)
             LIMIT 1
         ) AS new
         CROSS JOIN LATERAL (
             SELECT * FROM {facts} AS fact
             WHERE (fact.tenant_id, fact.report_date, fact.report_period)
                 = (new.tenant_id, new.report_date, new.report_period)
               AND fact.report_refresh_date < new.report_refresh_date
             ORDER BY fact.report_refresh_date DESC
             LIMIT 1
         ) AS old
         WHERE ({old_measures}) IS DISTINCT FROM ({new_measures})",
    ))
    .bind(newest.iter().map(|arrival| arrival.tenant_id()).collect::<Vec<_>>())
    .bind(newest.iter().map(|arrival| arrival.snapshot.period.days()).collect::<Vec<_>>())
    .bind(newest.iter().map(|arrival| arrival.snapshot.refresh_date).collect::<Vec<_>>())
    .bind(firsts)
    .bind(lasts)
    .execute(connection)
    .await
    .map_err(StoreError::during("entering revisions"))?;
    Ok(())
}

/// All revisions of this tenant and period on the days that the snapshot holds, or held before it was served again. Rare,
/// so it may take its time.
async fn recompute(
    connection: &mut PgConnection,
    report: &'static Report,
    arrival: &Incoming<'_>,
    held: Option<&Held>,
) -> Result<(), StoreError> {
    let failed = StoreError::during("entering revisions anew");
    let (tenant_id, period) = (arrival.tenant_id(), arrival.snapshot.period.days());
    let (mut first, mut last) = arrival.snapshot.dates();
    if let Some(held) = held {
        (first, last) = (first.min(held.first), last.max(held.last));
    }
    let days = "tenant_id = $1 AND report_period = $2 AND report_date BETWEEN $3 AND $4";
    for template in [
        "DELETE FROM {revised} WHERE {days}",
        "INSERT INTO {revised} ({revision}) SELECT {revision} FROM {revised}_anew WHERE {days}",
    ] {
        sqlx::query(statement(report, &template.replace("{days}", days)))
            .bind(tenant_id)
            .bind(period)
            .bind(first)
            .bind(last)
            .execute(&mut *connection)
            .await
            .map_err(&failed)?;
    }
    Ok(())
}
