//! What can be recomputed from one tenant's facts: the ledger, the current rows, the revisions.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Finding, Verdict};
use crate::{
    report::{Report, Row, content_hash},
    store::rows::{self, statement},
};

/// A tenant's share of one report.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    pub(super) tenant_id: Uuid,
    pub(super) report: &'static Report,
}

impl Scope {
    fn finding(self, invariant: &'static str, what: String, count: i64) -> Finding {
        let report = Some(self.report.name.to_owned());
        Finding { invariant, what, tenant_id: Some(self.tenant_id), report, count, ..Finding::default() }
    }

    fn of_snapshot(self, invariant: &'static str, key: SnapshotKey, what: String, count: i64) -> Finding {
        let (period, refresh_date) = (Some(key.0), Some(key.1));
        Finding { period, refresh_date, ..self.finding(invariant, what, count) }
    }
}

/// Period in days and refresh date.
type SnapshotKey = (i16, NaiveDate);

/// Every tenant of whom any table of the report holds a row. Finds them by jumps through the keys, not by a scan.
pub(super) async fn tenants(connection: &mut PgConnection, report: &'static Report) -> Result<Vec<Uuid>, sqlx::Error> {
    let sql = statement(
        report,
        "WITH RECURSIVE
            f(id) AS (SELECT (SELECT tenant_id FROM {facts} ORDER BY 1 LIMIT 1) UNION ALL
                      SELECT (SELECT tenant_id FROM {facts} WHERE tenant_id > f.id ORDER BY 1 LIMIT 1)
                      FROM f WHERE f.id IS NOT NULL),
            c(id) AS (SELECT (SELECT tenant_id FROM {current} ORDER BY 1 LIMIT 1) UNION ALL
                      SELECT (SELECT tenant_id FROM {current} WHERE tenant_id > c.id ORDER BY 1 LIMIT 1)
                      FROM c WHERE c.id IS NOT NULL)
         SELECT id FROM f WHERE id IS NOT NULL
         UNION SELECT id FROM c WHERE id IS NOT NULL
         UNION SELECT tenant_id FROM {superseded}
         UNION SELECT tenant_id FROM m365_store.snapshot WHERE report = $1
         ORDER BY 1",
    );
    sqlx::query_scalar(sql).bind(report.name).fetch_all(connection).await
}

/// A ledger row, as far as the facts must bear it out.
struct Ledger {
    row_count: i32,
    first_report_date: NaiveDate,
    last_report_date: NaiveDate,
    content_hash: Vec<u8>,
}

/// I1 and I2: the ledger against the facts, both ways.
pub(super) async fn check_ledger(
    connection: &mut PgConnection,
    scope: Scope,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
    let mut ledger: BTreeMap<SnapshotKey, Ledger> = sqlx::query!(
        "SELECT report_period, report_refresh_date, row_count, first_report_date, last_report_date, content_hash
         FROM m365_store.snapshot WHERE tenant_id = $1 AND report = $2",
        scope.tenant_id,
        scope.report.name
    )
    .map(|row| {
        let (first_report_date, last_report_date) = (row.first_report_date, row.last_report_date);
        let (row_count, content_hash) = (row.row_count, row.content_hash);
        let ledger = Ledger { row_count, first_report_date, last_report_date, content_hash };
        ((row.report_period, row.report_refresh_date), ledger)
    })
    .fetch_all(&mut *connection)
    .await?
    .into_iter()
    .collect();
    verdict.snapshots += ledger.len() as u64;

    let sql = statement(
        scope.report,
        "SELECT report_date, {values}, extra::text AS extra_text
         FROM {facts} WHERE tenant_id = $1 ORDER BY report_period, report_refresh_date, report_date",
    );
    let mut stream = sqlx::query(sql).bind(scope.tenant_id).fetch(connection);
    let mut held: Option<(SnapshotKey, Vec<Row>)> = None;
    while let Some(row) = stream.try_next().await? {
        verdict.facts += 1;
        let key = (row.try_get("report_period")?, row.try_get("report_refresh_date")?);
        let fact = rows::row(scope.report, &row)?;
        match &mut held {
            Some((of, rows)) if *of == key => rows.push(fact),
            _ => {
                if let Some((of, rows)) = held.replace((key, vec![fact])) {
                    compare(scope, of, ledger.remove(&of), &rows, verdict);
                }
            }
        }
    }
    if let Some((of, rows)) = held {
        compare(scope, of, ledger.remove(&of), &rows, verdict);
    }
    for (key, row) in ledger {
        let what = format!("the ledger holds this snapshot with {} rows, but there are no facts", row.row_count);
        verdict.violation(scope.of_snapshot("I2", key, what, row.row_count.into()));
    }
    Ok(())
}

/// One snapshot's rows, in date order and at least one, against its ledger row.
fn compare(scope: Scope, key: SnapshotKey, ledger: Option<Ledger>, rows: &[Row], verdict: &mut Verdict) {
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let Some(ledger) = ledger else {
        let what = format!("there are {count} facts of a snapshot that the ledger does not know");
        return verdict.violation(scope.of_snapshot("I2", key, what, count));
    };
    if count != i64::from(ledger.row_count) {
        let what = format!("the ledger says {} rows, the facts are {count}", ledger.row_count);
        let difference = (count - i64::from(ledger.row_count)).abs();
        return verdict.violation(scope.of_snapshot("I1", key, what, difference));
    }
    let dates = rows.first().zip(rows.last()).map(|(first, last)| (first.report_date, last.report_date));
    if dates != Some((ledger.first_report_date, ledger.last_report_date)) {
        let what = format!(
            "the ledger says {} to {}, the facts have other first and last days",
            ledger.first_report_date, ledger.last_report_date
        );
        return verdict.violation(scope.of_snapshot("I1", key, what, count));
    }
    if content_hash(rows.iter()).as_slice() != ledger.content_hash {
        let what = "the facts are not those that were fetched: their hash differs from the ledger's".to_owned();
        verdict.violation(scope.of_snapshot("I1", key, what, count));
    }
}

/// I4: the current rows against those recomputed from the facts, both ways.
pub(super) async fn check_current(
    connection: &mut PgConnection,
    scope: Scope,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
    let sql = statement(
        scope.report,
        "WITH recomputed AS MATERIALIZED (
            SELECT DISTINCT ON (report_date)
                   report_date, {values}
            FROM {facts} WHERE tenant_id = $1
            ORDER BY report_date, report_refresh_date DESC, report_period DESC
         ), held AS MATERIALIZED (
            SELECT report_date, {values}
            FROM {current} WHERE tenant_id = $1
         ), wrong AS (
            SELECT report_date FROM (TABLE recomputed EXCEPT TABLE held) missing
            UNION
            SELECT report_date FROM (TABLE held EXCEPT TABLE recomputed) surplus
         )
         SELECT CASE WHEN h.report_date IS NULL THEN 'missing' WHEN r.report_date IS NULL THEN 'surplus'
                     ELSE 'other' END AS kind, count(w.report_date) AS days, min(w.report_date) AS first_day
         FROM wrong w LEFT JOIN held h USING (report_date) LEFT JOIN recomputed r USING (report_date)
         GROUP BY 1
         UNION ALL SELECT 'all', count(*), NULL FROM held",
    );
    for row in sqlx::query(sql).bind(scope.tenant_id).fetch_all(connection).await? {
        let days: i64 = row.try_get("days")?;
        let what = match row.try_get("kind")? {
            "all" => {
                verdict.current += u64::try_from(days).unwrap_or_default();
                continue;
            }
            "missing" => "days that the facts hold are missing in the current rows",
            "surplus" => "there are current rows for days that the facts do not hold",
            _ => "current rows are not those of the newest refresh and longest period",
        };
        let report_date = row.try_get("first_day")?;
        verdict.violation(Finding { report_date, ..scope.finding("I4", what.to_owned(), days) });
    }
    Ok(())
}

/// P3: for each re-issue the ledger counts, the replaced rows are kept, and no others are.
pub(super) async fn check_revisions(
    connection: &mut PgConnection,
    scope: Scope,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
    let sql = statement(
        scope.report,
        "SELECT report_period, report_refresh_date, coalesce(s.revision, 0) AS revision, coalesce(o.kept, 0) AS kept
         FROM (
            SELECT report_period, report_refresh_date, revision FROM m365_store.snapshot
            WHERE tenant_id = $1 AND report = $2
         ) s FULL JOIN (
            SELECT report_period, report_refresh_date, count(DISTINCT revision) AS kept,
                   min(revision) AS lowest, max(revision) AS highest
            FROM {superseded} WHERE tenant_id = $1 GROUP BY report_period, report_refresh_date
         ) o USING (report_period, report_refresh_date)
         WHERE s.revision IS DISTINCT FROM coalesce(o.kept, 0) + 1 OR o.lowest <> 1 OR o.highest <> s.revision - 1
         ORDER BY 1, 2",
    );
    for row in sqlx::query(sql).bind(scope.tenant_id).bind(scope.report.name).fetch_all(connection).await? {
        let key = (row.try_get("report_period")?, row.try_get("report_refresh_date")?);
        let (revision, kept): (i32, i64) = (row.try_get("revision")?, row.try_get("kept")?);
        let what = if revision == 0 {
            "there are superseded rows of a snapshot that the ledger does not know".to_owned()
        } else {
            format!("the ledger says revision {revision}, but the superseded rows hold {kept} earlier revisions")
        };
        verdict.violation(scope.of_snapshot("P3", key, what, kept));
    }
    Ok(())
}

/// I12 and I13: what was revised, and where periods disagree, against the facts. A fact that is damaged, or a tenant without
/// a name, is found by others and said once.
pub(super) async fn check_derived(
    connection: &mut PgConnection,
    scope: Scope,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
    let revised = "SELECT count(*) AS days, min(report_date) AS first_day FROM (
             (SELECT {revision} FROM {revised}_anew WHERE tenant_id = $1
              EXCEPT SELECT {revision} FROM {revised} WHERE tenant_id = $1)
             UNION ALL
             (SELECT {revision} FROM {revised} WHERE tenant_id = $1
              EXCEPT SELECT {revision} FROM {revised}_anew WHERE tenant_id = $1)
         ) AS wrong
         WHERE EXISTS (SELECT FROM m365_store.tenant WHERE tenant_id = $1)";
    let contested = "SELECT count(*) AS days, min(report_date) AS first_day FROM (
             SELECT report_date, report_refresh_date FROM {facts} WHERE tenant_id = $1
             GROUP BY report_date, report_refresh_date HAVING count(DISTINCT ROW ({measures}, extra)) > 1
             EXCEPT SELECT report_date, report_refresh_date FROM {contested} WHERE tenant_id = $1
         ) AS missing";
    for (invariant, template, what) in [
        ("I12", revised, "what is kept as revised is not what the facts say"),
        ("I13", contested, "periods disagree on days that are not noted as contested"),
    ] {
        let row =
            sqlx::query(statement(scope.report, template)).bind(scope.tenant_id).fetch_one(&mut *connection).await?;
        let days: i64 = row.try_get("days")?;
        if days > 0 {
            let report_date = row.try_get("first_day")?;
            verdict.violation(Finding { report_date, ..scope.finding(invariant, what.to_owned(), days) });
        }
    }
    Ok(())
}
