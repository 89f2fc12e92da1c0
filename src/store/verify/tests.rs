//! That the oracle is silent on a sound store, and speaks on each kind of damage.

use sqlx::PgPool;

use super::{Finding, Verdict, verify};

async fn after(pool: &PgPool, damage: &'static str) -> Verdict {
    sqlx::query(damage).execute(pool).await.unwrap();
    verify(pool).await.unwrap()
}

/// The one violation there must be.
fn only(verdict: &Verdict) -> &Finding {
    assert_eq!(verdict.violations.len(), 1, "{:#?}", verdict.violations);
    &verdict.violations[0]
}

fn date(day: u32) -> Option<chrono::NaiveDate> {
    chrono::NaiveDate::from_ymd_opt(2026, 1, day)
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_sound_store_has_no_findings_but_its_gap(pool: PgPool) {
    let verdict = verify(&pool).await.unwrap();
    assert!(verdict.is_sound(), "{:#?}", verdict.violations);
    assert_eq!((verdict.snapshots, verdict.facts, verdict.current), (4, 28, 14));
    assert_eq!(verdict.notes.len(), 1, "{:#?}", verdict.notes);
    let gap = &verdict.notes[0];
    assert_eq!((gap.invariant, gap.report_date, gap.count), ("I8", date(5), 2));
}

#[sqlx::test]
async fn an_empty_store_is_sound(pool: PgPool) {
    let verdict = verify(&pool).await.unwrap();
    assert!(verdict.is_sound() && verdict.notes.is_empty());
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_deleted_fact_is_found(pool: PgPool) {
    let sql = "DELETE FROM m365_store.office365_active_user_counts
               WHERE report_period = 7 AND report_refresh_date = '2026-01-11' AND report_date = '2026-01-05'";
    let verdict = after(&pool, sql).await;
    let finding = only(&verdict);
    assert_eq!((finding.invariant, finding.period, finding.refresh_date, finding.count), ("I1", Some(7), date(11), 1));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_fact_moved_to_another_day_is_found(pool: PgPool) {
    let sql = "UPDATE m365_store.office365_active_user_counts SET report_date = '2025-12-31'
               WHERE report_period = 7 AND report_refresh_date = '2026-01-10' AND report_date = '2026-01-04'
                 AND tenant_id::text LIKE '%a'";
    let verdict = after(&pool, sql).await;
    let found: Vec<_> = verdict.violations.iter().map(|finding| finding.invariant).collect();
    assert_eq!(found, ["I1", "I4"]);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_changed_number_is_found(pool: PgPool) {
    for sql in [
        "UPDATE m365_store.office365_active_user_counts SET teams = teams + 1
         WHERE report_period = 7 AND report_refresh_date = '2026-01-11' AND report_date = '2026-01-05'",
        "UPDATE m365_store.office365_active_user_counts SET teams = teams - 1, yammer = 0
         WHERE report_period = 7 AND report_refresh_date = '2026-01-11' AND report_date = '2026-01-05'",
        "UPDATE m365_store.office365_active_user_counts SET yammer = NULL, extra = extra || '{\"Loop\": 13}'
         WHERE report_period = 7 AND report_refresh_date = '2026-01-11' AND report_date = '2026-01-05'",
    ] {
        let verdict = after(&pool, sql).await;
        let finding = only(&verdict);
        assert_eq!((finding.invariant, finding.period, finding.refresh_date), ("I1", Some(7), date(11)));
        assert!(finding.what.contains("hash"), "{}", finding.what);
    }
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_missing_ledger_row_is_found(pool: PgPool) {
    let sql = "DELETE FROM m365_store.snapshot WHERE tenant_id::text LIKE '%b'";
    let verdict = after(&pool, sql).await;
    let finding = only(&verdict);
    assert_eq!((finding.invariant, finding.count), ("I2", 4));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_ledger_row_without_facts_is_found(pool: PgPool) {
    let sql = "DELETE FROM m365_store.office365_active_user_counts WHERE report_period = 7
               AND report_refresh_date = '2026-01-11'";
    let verdict = after(&pool, sql).await;
    let finding = only(&verdict);
    assert_eq!((finding.invariant, finding.refresh_date, finding.count), ("I2", date(11), 7));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_tenant_without_its_row_is_found(pool: PgPool) {
    let verdict = after(&pool, "DELETE FROM m365_store.tenant WHERE tenant_id::text LIKE '%a'").await;
    assert_eq!((only(&verdict).invariant, only(&verdict).count), ("I2", 3));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_stale_current_row_is_found(pool: PgPool) {
    let sql = "UPDATE m365_store.office365_active_user_counts_current c
               SET report_refresh_date = f.report_refresh_date, report_period = f.report_period, teams = f.teams,
                   extra = f.extra, fetched_at = f.fetched_at
               FROM m365_store.office365_active_user_counts f
               WHERE (f.tenant_id, f.report_date) = (c.tenant_id, c.report_date)
                 AND f.report_refresh_date = '2026-01-10' AND c.report_date = '2026-01-08'
                 AND c.tenant_id::text LIKE '%a'";
    let verdict = after(&pool, sql).await;
    let finding = only(&verdict);
    assert_eq!((finding.invariant, finding.report_date, finding.count), ("I4", date(8), 1));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn extra_and_missing_current_rows_are_found(pool: PgPool) {
    let sql = "UPDATE m365_store.office365_active_user_counts_current SET report_date = '2026-01-20'
               WHERE report_date = '2026-01-10'";
    let verdict = after(&pool, sql).await;
    let mut found: Vec<_> = verdict.violations.iter().map(|f| (f.invariant, f.report_date, f.count)).collect();
    found.sort_unstable();
    assert_eq!(found, [("I4", date(10), 1), ("I4", date(20), 1)]);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn current_rows_of_a_tenant_without_facts_are_found(pool: PgPool) {
    let sql = "INSERT INTO m365_store.office365_active_user_counts_current
                   (tenant_id, report_date, report_refresh_date, report_period, fetched_at)
               VALUES (gen_random_uuid(), '2026-01-01', '2026-01-02', 7, now())";
    let verdict = after(&pool, sql).await;
    assert_eq!((only(&verdict).invariant, only(&verdict).count), ("I4", 1));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_wrong_revision_is_found(pool: PgPool) {
    let verdict = after(&pool, "UPDATE m365_store.snapshot SET revision = 3 WHERE revision = 2").await;
    assert_eq!((only(&verdict).invariant, only(&verdict).refresh_date), ("P3", date(10)));

    let verdict = after(&pool, "UPDATE m365_store.snapshot SET revision = 1").await;
    assert_eq!(only(&verdict).invariant, "P3");

    let sql = "UPDATE m365_store.office365_active_user_counts_superseded SET report_refresh_date = '2026-01-09'";
    assert!(only(&after(&pool, sql).await).what.contains("does not know"));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn work_left_lying_is_noted_and_breaks_nothing(pool: PgPool) {
    let sql = "INSERT INTO m365_store.slot
                   (tenant_id, report, report_period, due_at, origin, not_before, worker_id, claimed_at)
               SELECT tenant_id, 'office365_active_user_counts', 7, now() - interval '3 hours', 'schedule', now(),
                      CASE WHEN name = 'Contoso' THEN gen_random_uuid() END, now() - interval '11 minutes'
               FROM m365_store.tenant";
    sqlx::query(sql).execute(&pool).await.unwrap();
    let sql = "INSERT INTO m365_store.target SELECT tenant_id, 'office365_active_user_counts', 7, true, 3600
               FROM m365_store.tenant";
    sqlx::query(sql).execute(&pool).await.unwrap();
    let sql = "INSERT INTO m365_store.attempt (attempt_id, tenant_id, report, report_period, due_at, worker_id,
                   started_at, finished_at, outcome, graph_calls, report_refresh_date)
               SELECT gen_random_uuid(), tenant_id, 'office365_active_user_counts', 30, now(), gen_random_uuid(),
                      now(), now(), 'stored', 1, '2026-01-12' FROM m365_store.tenant WHERE name = 'Contoso'";
    let verdict = after(&pool, sql).await;
    assert!(verdict.is_sound(), "{:#?}", verdict.violations);
    let found: Vec<_> = verdict.notes.iter().map(|note| note.invariant).collect();
    assert_eq!(found, ["I6", "I7", "I8", "I11"]);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_revision_that_is_missing_wrong_or_invented_is_found(pool: PgPool) {
    for (damage, day) in [
        (
            "DELETE FROM m365_store.office365_active_user_counts_revised WHERE reissue = 1 AND report_date = '2026-01-09'",
            9,
        ),
        (
            "UPDATE m365_store.office365_active_user_counts_revised SET old_teams = 0 WHERE reissue = 0 AND report_date = '2026-01-08'",
            8,
        ),
        (
            "INSERT INTO m365_store.office365_active_user_counts_revised
          SELECT tenant_id, '2026-01-01', report_refresh_date, report_period, reissue, old_refresh_date, changed_at
          FROM m365_store.office365_active_user_counts_revised WHERE reissue = 0 AND report_date = '2026-01-08'",
            1,
        ),
    ] {
        let verdict = after(&pool, damage).await;
        assert_eq!((only(&verdict).invariant, only(&verdict).report_date), ("I12", date(day)), "{damage}");
    }
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_disagreement_that_is_not_noted_is_found_and_a_note_too_many_is_not(pool: PgPool) {
    let sql = "INSERT INTO m365_store.office365_active_user_counts_contested
               SELECT tenant_id, report_date, report_refresh_date FROM m365_store.office365_active_user_counts
               ON CONFLICT DO NOTHING";
    assert!(after(&pool, sql).await.is_sound());
    let seen: Vec<chrono::NaiveDate> =
        sqlx::query_scalar("SELECT report_date FROM m365_v1.period_disagreements").fetch_all(&pool).await.unwrap();
    assert_eq!(seen.first().copied(), date(6));
    assert_eq!(seen.len(), 1);
    let sql = "DELETE FROM m365_store.office365_active_user_counts_contested WHERE report_date = '2026-01-06'";
    let verdict = after(&pool, sql).await;
    assert_eq!((only(&verdict).invariant, only(&verdict).report_date, only(&verdict).count), ("I13", date(6), 1));
}
