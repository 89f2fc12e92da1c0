//! Rows on their way into the tables of a report, and the statements that are put together for them.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{StoreError, copy::CopyRows};
use crate::report::{ColumnKind, Report, Row};

/// From here on rows are many.
const MANY_ROWS: usize = 2_000;

/// One row on its way into a table.
#[derive(Clone, Copy)]
pub(super) struct NewRow<'a> {
    pub(super) tenant_id: Uuid,
    pub(super) refresh_date: NaiveDate,
    pub(super) period: i16,
    pub(super) fetched_at: DateTime<Utc>,
    pub(super) row: &'a Row,
}

impl NewRow<'_> {
    /// What decides between two rows of one date.
    pub(super) const fn vintage(&self) -> (NaiveDate, i16) {
        (self.refresh_date, self.period)
    }
}

/// Writes new rows: a few in one round trip, many by `COPY`, which is faster by the row but takes several trips and, over
/// TCP, stalls for one delayed acknowledgement.
pub(super) async fn insert_rows(
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

/// One row of facts or current rows, in the form in which it came; the query names its columns, and `extra::text` as
/// `extra_text`.
pub(super) fn row(report: &Report, row: &PgRow) -> Result<Row, sqlx::Error> {
    let values = report.columns.iter().map(|column| row.try_get(column.name)).collect::<Result<_, _>>()?;
    let extra = row.try_get::<Option<String>, _>("extra_text")?.map(canonical);
    Ok(Row { report_date: row.try_get("report_date")?, values, extra })
}

/// Postgres gives jsonb back with its own spaces and order of keys: bring it into the form in which it was hashed,
/// compact and sorted. Text that resists stays as it is, and the hash will differ.
fn canonical(extra: String) -> String {
    serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&extra)
        .and_then(|cells| serde_json::to_string(&cells))
        .unwrap_or(extra)
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
            .replace("{revised}", &format!("{facts}_revised"))
            .replace("{contested}", &format!("{facts}_contested"))
            .replace(
                "{columns}",
                &format!("tenant_id, report_date, report_refresh_date, report_period, {own}, fetched_at"),
            )
            .replace("{measures}", &names.join(", "))
            .replace(
                "{revision}",
                &format!("tenant_id, report_date, report_refresh_date, report_period, reissue, old_refresh_date, changed_at, {}, {own}", measures("old_")),
            )
            .replace("{new_measures}", &measures("new."))
            .replace("{old_measures}", &measures("old."))
            .replace("{values}", &format!("report_refresh_date, report_period, {own}, fetched_at"))
            .replace(
                "{fact_values}",
                &format!("fact.report_refresh_date, fact.report_period, {}, fact.fetched_at", measures("fact.")),
            ),
    )
}
