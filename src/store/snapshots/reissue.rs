//! The same refresh date with other content: the old rows are kept, the new ones take their place.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::{Held, Incoming, rows_of};
use crate::store::{
    StoreError,
    rows::{insert_rows, statement},
};

/// Replaces a snapshot that was served again under the same refresh date with other content. The replaced rows are kept,
/// whole, in the superseded table. Returns how many rows are new, changed and as before.
pub(super) async fn reissue(
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
