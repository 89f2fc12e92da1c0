//! The oracle: does what is stored still say what was fetched? Reads everything, changes nothing.
//!
//! All of it happens in one read-only transaction with one view of the data, so that a daemon at work causes no false
//! findings; and tenant by tenant, so that memory holds one tenant's ledger and one snapshot's rows, however much there
//! is.
//!
//! Not checked here: I3 (keys are unique: primary keys see to it), and those invariants that only a test can see (I5, I9,
//! I10).

use std::collections::BTreeMap;

use chrono::NaiveDate;
use futures_util::TryStreamExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::report::{Report, Row, catalogue::REPORTS, content_hash};

/// More findings than this are only counted: nobody reads them one by one.
const MOST_FINDINGS: usize = 1_000;

/// What [`verify`] found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Broken promises: each one is damage, or a fault of this program.
    pub violations: Vec<Finding>,
    /// What a person may want to know, and what can be normal: gaps after an outage, work left lying.
    pub notes: Vec<Finding>,
    /// Violations and notes beyond the first thousand of each.
    pub omitted: u64,
    /// Ledger rows looked at.
    pub snapshots: u64,
    /// Facts looked at.
    pub facts: u64,
    /// Current rows looked at.
    pub current: u64,
}

impl Verdict {
    /// Whether nothing is broken. Notes do not count.
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    fn violation(&mut self, finding: Finding) {
        keep(&mut self.violations, &mut self.omitted, finding);
    }

    fn note(&mut self, finding: Finding) {
        keep(&mut self.notes, &mut self.omitted, finding);
    }
}

fn keep(findings: &mut Vec<Finding>, omitted: &mut u64, finding: Finding) {
    if findings.len() < MOST_FINDINGS { findings.push(finding) } else { *omitted += 1 }
}

/// One thing that [`verify`] found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Finding {
    /// The invariant, such as `I1`; `docs/data-model.md` lists them.
    pub invariant: &'static str,
    /// A sentence for people.
    pub what: String,
    /// The tenant.
    pub tenant_id: Option<Uuid>,
    /// The report.
    pub report: Option<String>,
    /// The period in days.
    pub period: Option<i16>,
    /// The refresh date.
    pub refresh_date: Option<NaiveDate>,
    /// The report date; the first one when there are several.
    pub report_date: Option<NaiveDate>,
    /// How many rows, days or slots it is about.
    pub count: i64,
}

/// A tenant's share of one report.
#[derive(Clone, Copy)]
struct Scope {
    tenant_id: Uuid,
    report: &'static Report,
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

/// Recomputes from the facts everything that can be, for every tenant and report. May take minutes on a large store.
pub async fn verify(pool: &PgPool) -> Result<Verdict, sqlx::Error> {
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query!("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    let mut verdict = Verdict::default();
    for &report in REPORTS {
        for tenant_id in tenants(&mut tx, report).await? {
            let scope = Scope { tenant_id, report };
            check_ledger(&mut tx, scope, &mut verdict).await?;
            check_current(&mut tx, scope, &mut verdict).await?;
            check_revisions(&mut tx, scope, &mut verdict).await?;
        }
    }
    check_newest_refreshes(&mut tx, &mut verdict).await?;
    check_unnamed_tenants(&mut tx, &mut verdict).await?;
    note_abandoned_slots(&mut tx, &mut verdict).await?;
    note_gaps(&mut tx, &mut verdict).await?;
    note_forgotten_slots(&mut tx, &mut verdict).await?;
    tx.rollback().await?;
    Ok(verdict)
}

/// The one place where SQL is made from a report's definition. The template and everything put into it are constants of
/// this program, the catalogue's table and column names; values only ever travel as bound parameters.
fn sql_of(report: &'static Report, template: &'static str) -> AssertSqlSafe<String> {
    let measures = report.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
    let facts = format!("m365_store.{}", report.table);
    AssertSqlSafe(template.replace("{facts}", &facts).replace("{measures}", &measures))
}

/// Every tenant of whom any table of the report holds a row. Finds them by jumps through the keys, not by a scan.
async fn tenants(connection: &mut PgConnection, report: &'static Report) -> Result<Vec<Uuid>, sqlx::Error> {
    let sql = sql_of(
        report,
        "WITH RECURSIVE
            f(id) AS (SELECT (SELECT tenant_id FROM {facts} ORDER BY 1 LIMIT 1) UNION ALL
                      SELECT (SELECT tenant_id FROM {facts} WHERE tenant_id > f.id ORDER BY 1 LIMIT 1)
                      FROM f WHERE f.id IS NOT NULL),
            c(id) AS (SELECT (SELECT tenant_id FROM {facts}_current ORDER BY 1 LIMIT 1) UNION ALL
                      SELECT (SELECT tenant_id FROM {facts}_current WHERE tenant_id > c.id ORDER BY 1 LIMIT 1)
                      FROM c WHERE c.id IS NOT NULL)
         SELECT id FROM f WHERE id IS NOT NULL
         UNION SELECT id FROM c WHERE id IS NOT NULL
         UNION SELECT tenant_id FROM {facts}_superseded
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
async fn check_ledger(connection: &mut PgConnection, scope: Scope, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
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

    let sql = sql_of(
        scope.report,
        "SELECT report_period, report_refresh_date, report_date, extra::text AS extra, {measures}
         FROM {facts} WHERE tenant_id = $1 ORDER BY report_period, report_refresh_date, report_date",
    );
    let mut stream = sqlx::query(sql).bind(scope.tenant_id).fetch(connection);
    let mut held: Option<(SnapshotKey, Vec<Row>)> = None;
    while let Some(row) = stream.try_next().await? {
        verdict.facts += 1;
        let key = (row.try_get("report_period")?, row.try_get("report_refresh_date")?);
        let fact = fact(scope.report, &row)?;
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

/// One fact, in the form in which it was hashed.
fn fact(report: &'static Report, row: &PgRow) -> Result<Row, sqlx::Error> {
    let values = report.columns.iter().map(|column| row.try_get(column.name)).collect::<Result<_, _>>()?;
    let extra = row.try_get::<Option<String>, _>("extra")?.map(canonical);
    Ok(Row { report_date: row.try_get("report_date")?, values, extra })
}

/// Postgres gives jsonb back with its own spaces and order of keys: bring it into the form in which it was hashed,
/// compact and sorted. Text that resists stays as it is, and the hash will differ.
fn canonical(extra: String) -> String {
    serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&extra)
        .and_then(|cells| serde_json::to_string(&cells))
        .unwrap_or(extra)
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
async fn check_current(connection: &mut PgConnection, scope: Scope, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
    let sql = sql_of(
        scope.report,
        "WITH recomputed AS MATERIALIZED (
            SELECT DISTINCT ON (report_date)
                   report_date, report_refresh_date, report_period, {measures}, extra, fetched_at
            FROM {facts} WHERE tenant_id = $1
            ORDER BY report_date, report_refresh_date DESC, report_period DESC
         ), held AS MATERIALIZED (
            SELECT report_date, report_refresh_date, report_period, {measures}, extra, fetched_at
            FROM {facts}_current WHERE tenant_id = $1
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
async fn check_revisions(
    connection: &mut PgConnection,
    scope: Scope,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
    let sql = sql_of(
        scope.report,
        "SELECT report_period, report_refresh_date, coalesce(s.revision, 0) AS revision, coalesce(o.kept, 0) AS kept
         FROM (
            SELECT report_period, report_refresh_date, revision FROM m365_store.snapshot
            WHERE tenant_id = $1 AND report = $2
         ) s FULL JOIN (
            SELECT report_period, report_refresh_date, count(DISTINCT revision) AS kept,
                   min(revision) AS lowest, max(revision) AS highest
            FROM {facts}_superseded WHERE tenant_id = $1 GROUP BY report_period, report_refresh_date
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

/// I6: a refresh date that an attempt saw stored is not newer than the newest in the ledger. A note, because a person
/// may have thinned old refreshes or taken a tenant's data out.
async fn check_newest_refreshes(connection: &mut PgConnection, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT a.tenant_id, a.report, a.report_period, a.seen AS "seen!"
        FROM (
            SELECT tenant_id, report, report_period, max(report_refresh_date) AS seen FROM m365_store.attempt
            WHERE outcome IN ('stored', 'unchanged') GROUP BY tenant_id, report, report_period
        ) a
        LEFT JOIN (
            SELECT tenant_id, report, report_period, max(report_refresh_date) AS held FROM m365_store.snapshot
            GROUP BY tenant_id, report, report_period
        ) s USING (tenant_id, report, report_period)
        WHERE a.seen > coalesce(s.held, '-infinity')
        ORDER BY 1, 2, 3
        "#
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        verdict.note(Finding {
            invariant: "I6",
            what: "an attempt stored this refresh date, but the ledger's newest is older".to_owned(),
            tenant_id: Some(row.tenant_id),
            report: Some(row.report),
            period: Some(row.report_period),
            refresh_date: Some(row.seen),
            report_date: None,
            count: 1,
        });
    }
    Ok(())
}

/// I2: every tenant in the ledger has its row in `tenant`; without it the contract's views do not show its figures.
async fn check_unnamed_tenants(connection: &mut PgConnection, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT s.tenant_id, s.report, count(*) AS "snapshots!" FROM m365_store.snapshot s
        WHERE NOT EXISTS (SELECT FROM m365_store.tenant t WHERE t.tenant_id = s.tenant_id)
        GROUP BY 1, 2 ORDER BY 1, 2
        "#
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        verdict.violation(Finding {
            invariant: "I2",
            what: "the tenant has snapshots but no row in m365_store.tenant: the views hide them".to_owned(),
            tenant_id: Some(row.tenant_id),
            report: Some(row.report),
            count: row.snapshots,
            ..Finding::default()
        });
    }
    Ok(())
}

/// I7: slots still claimed by a process that is gone, long after another should have taken them over.
async fn note_abandoned_slots(connection: &mut PgConnection, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT s.tenant_id, s.report, s.report_period, count(*) AS "slots!"
        FROM m365_store.slot s LEFT JOIN m365_store.worker w USING (worker_id)
        WHERE s.outcome IS NULL AND s.worker_id IS NOT NULL
          AND coalesce(w.lease_until, s.claimed_at, '-infinity') < now() - interval '10 minutes'
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        "#
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        verdict.note(Finding {
            invariant: "I7",
            what: "open slots are held by a process that has gone; does any run now?".to_owned(),
            tenant_id: Some(row.tenant_id),
            report: Some(row.report),
            period: Some(row.report_period),
            count: row.slots,
            ..Finding::default()
        });
    }
    Ok(())
}

/// I8: holes between the first and the last day.
async fn note_gaps(connection: &mut PgConnection, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT tenant_id::uuid AS "tenant_id!", report AS "report!", gap_start AS "start!", gap_end AS "end!",
               days AS "days!"
        FROM m365_v1.coverage_gaps ORDER BY 1, 2, 3
        "#
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        verdict.note(Finding {
            invariant: "I8",
            what: format!("nothing is held for {} to {}", row.start, row.end),
            tenant_id: Some(row.tenant_id),
            report: Some(row.report),
            report_date: Some(row.start),
            count: row.days.into(),
            ..Finding::default()
        });
    }
    Ok(())
}

/// I11: slots that nobody took up for longer than staleness allows.
async fn note_forgotten_slots(connection: &mut PgConnection, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT s.tenant_id, s.report, s.report_period, count(*) AS "slots!", min(s.due_at) AS "oldest!"
        FROM m365_store.slot s JOIN m365_store.target t USING (tenant_id, report, report_period)
        WHERE s.outcome IS NULL AND s.worker_id IS NULL AND t.enabled
          AND s.due_at < now() - 2.5 * t.interval_seconds * interval '1 second'
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        "#
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        verdict.note(Finding {
            invariant: "I11",
            what: format!("slots are open since {}; does the daemon run?", row.oldest.format("%Y-%m-%d %H:%M UTC")),
            tenant_id: Some(row.tenant_id),
            report: Some(row.report),
            period: Some(row.report_period),
            count: row.slots,
            ..Finding::default()
        });
    }
    Ok(())
}
