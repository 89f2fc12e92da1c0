//! What attempts, slots and the contract's views say: signs of loss and of work left lying.

use sqlx::PgConnection;

use super::{Finding, Verdict};

/// I6: a refresh date that an attempt saw stored is not newer than the newest in the ledger. A note, because a person
/// may have thinned old refreshes or taken a tenant's data out.
pub(super) async fn check_newest_refreshes(
    connection: &mut PgConnection,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
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
pub(super) async fn check_unnamed_tenants(
    connection: &mut PgConnection,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
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
pub(super) async fn note_abandoned_slots(
    connection: &mut PgConnection,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
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
pub(super) async fn note_gaps(connection: &mut PgConnection, verdict: &mut Verdict) -> Result<(), sqlx::Error> {
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
pub(super) async fn note_forgotten_slots(
    connection: &mut PgConnection,
    verdict: &mut Verdict,
) -> Result<(), sqlx::Error> {
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
