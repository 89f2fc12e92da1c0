//! What the contract's views say, read as a person or a BI tool would.

use chrono::NaiveDate;
use sqlx::PgPool;
use uuid::Uuid;

use super::{days, gaps, recent_attempts, targets, tenant};

const CONTOSO: &str = "00000000-0000-0000-0000-00000000000a";

fn date(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, day).unwrap()
}

type Revision = (NaiveDate, String, i16, NaiveDate, NaiveDate, Option<i64>, Option<i64>, Option<i64>);

async fn revisions(pool: &PgPool, kind: &str) -> Vec<Revision> {
    let sql =
        "SELECT report_date, product, report_period, old_refresh_date, new_refresh_date, old_value, new_value, delta
               FROM m365_v1.active_users_revisions WHERE tenant_id = $1 AND kind = $2 ORDER BY 1, 2";
    sqlx::query_as(sql).bind(CONTOSO).bind(kind).fetch_all(pool).await.unwrap()
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_refresh_that_says_otherwise_is_a_revision(pool: PgPool) {
    let (known, added): (Vec<_>, Vec<_>) =
        revisions(&pool, "refresh").await.into_iter().partition(|row| row.1 == "teams");
    assert_eq!(known, [(date(8), "teams".into(), 7, date(10), date(11), Some(157), Some(161), Some(4))]);
    // Days 4 to 9 are in both refreshes; the later one brought a column. Text is no count, blank against blank no change.
    assert_eq!(added.len(), 6, "{added:?}");
    assert!(added.iter().all(|row| row.1 == "Loop" && (row.5, row.6, row.7) == (None, Some(12), None)));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn a_reissue_is_a_revision_and_so_are_days_that_came_and_went(pool: PgPool) {
    let rows = revisions(&pool, "reissue").await;
    assert!(rows.iter().all(|row| (row.3, row.4) == (date(10), date(10))));
    let of = |day| rows.iter().filter(move |row| row.0 == date(day)).map(|row| (row.1.as_str(), row.5, row.6));
    assert_eq!(of(5).collect::<Vec<_>>(), [("exchange", Some(103), Some(104))]);
    assert_eq!(of(2).count(), 6, "six figures went with the 2nd; Yammer was blank");
    assert!(of(2).all(|(_, old, new)| old.is_some() && new.is_none()));
    assert!(of(9).all(|(_, old, new)| old.is_none() && new.is_some()));
    assert_eq!(rows.len(), 13);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn every_revision_of_several_is_compared_with_the_next(pool: PgPool) {
    for sql in [
        "INSERT INTO m365_store.office365_active_user_counts_superseded
         SELECT tenant_id, report_date, report_refresh_date, report_period, office_365, exchange + 7, onedrive, sharepoint,
                skype_for_business, yammer, teams, extra, fetched_at, 2, superseded_at
         FROM m365_store.office365_active_user_counts_superseded WHERE report_date = '2026-01-06'",
        "UPDATE m365_store.snapshot SET revision = 3 WHERE revision = 2",
        "DELETE FROM m365_store.office365_active_user_counts_revised",
        "INSERT INTO m365_store.office365_active_user_counts_revised
         TABLE m365_store.office365_active_user_counts_revised_anew",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    let rows = revisions(&pool, "reissue").await;
    let mut sixth: Vec<_> = rows.iter().filter(|row| row.0 == date(6)).map(|row| (row.5, row.6)).collect();
    sixth.sort_unstable();
    assert_eq!(sixth, [(Some(105), Some(112)), (Some(112), Some(105))]);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn an_unknown_product_stands_in_the_long_view_and_among_the_products(pool: PgPool) {
    let sql = "SELECT product, active_users FROM m365_v1.active_users_daily_long
               WHERE tenant_id = $1 AND report_date = $2 ORDER BY product COLLATE \"C\"";
    let rows: Vec<(String, Option<i64>)> =
        sqlx::query_as(sql).bind(CONTOSO).bind(date(8)).fetch_all(&pool).await.unwrap();
    let expected = [
        ("Alpha Beta", None),
        ("Loop", Some(12)),
        ("exchange", Some(107)),
        ("office_365", Some(207)),
        ("onedrive", Some(87)),
        ("sharepoint", Some(77)),
        ("skype_for_business", Some(0)),
        ("teams", Some(161)),
        ("yammer", None),
    ];
    assert_eq!(rows.iter().map(|(name, users)| (name.as_str(), *users)).collect::<Vec<_>>(), expected);

    let sql = "SELECT count(*), count(*) FILTER (WHERE sort_order = 1000) FROM m365_v1.products";
    let counts: (i64, i64) = sqlx::query_as(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(counts, (9, 2));
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn as_of_a_date_shows_what_was_known_then(pool: PgPool) {
    let sql = "SELECT count(*), sum(teams) FILTER (WHERE report_date = '2026-01-08')::bigint
               FROM m365_v1.active_users_as_of($1) WHERE tenant_id = $2";
    for (day, expected) in [(9, (0, None)), (10, (7, Some(157))), (11, (10, Some(161)))] {
        let seen: (i64, Option<i64>) =
            sqlx::query_as(sql).bind(date(day)).bind(CONTOSO).fetch_one(&pool).await.unwrap();
        assert_eq!(seen, expected, "as of {day} January");
    }
    let sql = "SELECT count(*) FROM (
                   (TABLE m365_v1.active_users_daily EXCEPT SELECT * FROM m365_v1.active_users_as_of('infinity'))
                   UNION ALL
                   (SELECT * FROM m365_v1.active_users_as_of('infinity') EXCEPT TABLE m365_v1.active_users_daily)) x";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.unwrap(), 0);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn disagreeing_periods_are_listed(pool: PgPool) {
    let sql = "SELECT report_date, report_refresh_date, periods, products, largest_difference
               FROM m365_v1.period_disagreements";
    let rows: Vec<(NaiveDate, NaiveDate, i64, String, i64)> = sqlx::query_as(sql).fetch_all(&pool).await.unwrap();
    assert_eq!(rows, [(date(6), date(11), 2, "teams".into(), 1)]);
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn gaps_and_days_are_those_of_the_tenant(pool: PgPool) {
    let found = gaps(&pool).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].tenant_name.as_str(), found[0].days), ("Fabrikam", 2));
    assert_eq!((found[0].gap_start, found[0].gap_end), (date(5), date(6)));

    let newest = days(&pool, CONTOSO.parse().unwrap(), 3).await.unwrap();
    assert_eq!(newest.iter().map(|day| day.report_date).collect::<Vec<_>>(), [date(8), date(9), date(10)]);
    assert_eq!(newest.iter().map(|day| day.is_final).collect::<Vec<_>>(), [true, false, false]);
    assert!(days(&pool, Uuid::nil(), 3).await.unwrap().is_empty());
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn one_tenant_is_read_by_itself(pool: PgPool) {
    let (contoso, fabrikam) = (CONTOSO.parse().unwrap(), "00000000-0000-0000-0000-00000000000b".parse().unwrap());
    let mut look = tenant::look(&pool).await.unwrap();
    assert_eq!(tenant::name(&mut look, contoso).await.unwrap().as_deref(), Some("Contoso"));
    assert_eq!(tenant::name(&mut look, Uuid::nil()).await.unwrap(), None);
    assert!(tenant::gaps(&mut look, contoso).await.unwrap().is_empty());
    assert_eq!(tenant::gaps(&mut look, fabrikam).await.unwrap()[0].days, 2);

    let changes = tenant::changes(&mut look, contoso, date(6), 1_000).await.unwrap();
    assert!(changes.is_sorted_by_key(|change| std::cmp::Reverse((change.new_refresh_date, change.report_date))));
    assert!(changes.iter().all(|change| change.report_date >= date(6)));
    let teams: Vec<_> = changes.iter().filter(|change| change.kind == "refresh" && change.product == "teams").collect();
    assert_eq!(teams.len(), 1);
    assert_eq!((teams[0].report_date, teams[0].old_value, teams[0].new_value), (date(8), Some(157), Some(161)));
    assert_eq!(tenant::changes(&mut look, contoso, date(6), 3).await.unwrap().len(), 3);
    assert!(tenant::changes(&mut look, fabrikam, date(1), 1_000).await.unwrap().is_empty());

    let both = [CONTOSO.to_owned(), fabrikam.to_string()];
    let mut weeks: Vec<_> = tenant::weeks(&mut look, &both, date(10)).await.unwrap();
    weeks.sort_by_key(|week| (week.tenant_id, week.weeks_ago));
    let seen: Vec<_> = weeks.iter().map(|week| (week.tenant_id, week.weeks_ago, week.average)).collect();
    let expected = [(contoso, 0, Some(206)), (contoso, 1, None), (fabrikam, 0, None), (fabrikam, 1, None)];
    assert_eq!(seen, expected, "a week that lacks a day has no average");
    let missing = tenant::missing(&mut look, &both).await.unwrap();
    assert_eq!(missing.iter().map(|missing| (missing.tenant_id, missing.days)).collect::<Vec<_>>(), [(fabrikam, 2)]);
    let slow = sqlx::query("SELECT pg_sleep(10)").execute(&mut *look).await.unwrap_err();
    assert_eq!(slow.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref(), Some("57014"));
}

/// Contoso's D7 was refreshed `age` days ago, is due every hour, and was last looked at `minutes` ago.
async fn state_of(pool: &PgPool, age: i32, minutes: i32, outcome: &str) -> super::TargetStatus {
    let mut tx = pool.begin().await.unwrap();
    for sql in [
        "DELETE FROM m365_store.target",
        "DELETE FROM m365_store.attempt",
        "DELETE FROM m365_store.snapshot WHERE report_refresh_date = '2026-01-11'",
        "INSERT INTO m365_store.target
         SELECT tenant_id, 'office365_active_user_counts', 7, name = 'Contoso', 3600 FROM m365_store.tenant",
    ] {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    sqlx::query("UPDATE m365_store.snapshot SET report_refresh_date = (now() AT TIME ZONE 'UTC')::date - $1, fetched_at = '2026-01-10Z'")
        .bind(age)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO m365_store.attempt (attempt_id, tenant_id, report, report_period, due_at, worker_id,
             started_at, finished_at, outcome, graph_calls, error_class)
         SELECT gen_random_uuid(), tenant_id, 'office365_active_user_counts', 7, now(), gen_random_uuid(), at.t, at.t,
                $2, 1, CASE $2 WHEN 'failed' THEN 'throttled' END
         FROM m365_store.tenant, LATERAL (SELECT now() - make_interval(mins => $1)) at (t) WHERE name = 'Contoso'",
    )
    .bind(minutes)
    .bind(outcome)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let mut found = targets(pool).await.unwrap();
    assert_eq!(found.len(), 1, "only what is enabled");
    found.remove(0)
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn the_four_states_of_freshness(pool: PgPool) {
    let ok = state_of(&pool, 5, 149, "unchanged").await;
    assert_eq!((ok.state.as_str(), ok.days_behind, ok.snapshots), ("ok", Some(5), 1));
    let late = state_of(&pool, 6, 149, "stored").await;
    assert_eq!((late.state.as_str(), late.days_behind), ("late", Some(6)));
    assert_eq!(state_of(&pool, 2, 151, "stored").await.state, "stale");
    let failing = state_of(&pool, 2, 1, "failed").await;
    assert_eq!((failing.state.as_str(), failing.last_error_class.as_deref()), ("stale", Some("throttled")));
    assert_eq!(failing.last_success_at.map(|at| at.date_naive()), Some(date(10)), "known from the ledger alone");

    sqlx::query("DELETE FROM m365_store.snapshot").execute(&pool).await.unwrap();
    let never = targets(&pool).await.unwrap().remove(0);
    assert_eq!((never.state.as_str(), never.newest_refresh_date, never.snapshots), ("never", None, 0));

    let lines = recent_attempts(&pool, 5).await.unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].outcome.as_str(), lines[0].tenant_name.as_str()), ("failed", "Contoso"));
    let mut look = tenant::look(&pool).await.unwrap();
    let own = tenant::targets(&mut look, never.tenant_id).await.unwrap();
    assert_eq!((own.len(), own[0].state.as_str()), (1, "never"));
    assert_eq!(tenant::attempts(&mut look, never.tenant_id, 5).await.unwrap().len(), 1);
    assert!(tenant::attempts(&mut look, Uuid::nil(), 5).await.unwrap().is_empty());
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn the_reader_reads_the_contract_and_nothing_else(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    let sql = "SELECT string_agg(format('SELECT count(*) FROM m365_v1.%I', viewname), ' UNION ALL ')
               FROM pg_views WHERE schemaname = 'm365_v1'";
    let all: String = sqlx::query_scalar(sql).fetch_one(&mut *connection).await.unwrap();
    sqlx::query("SET ROLE m365_reader").execute(&mut *connection).await.unwrap();
    let counts: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(all)).fetch_all(&mut *connection).await.unwrap();
    assert_eq!(counts.len(), 15);
    let sql = "SELECT count(*) FROM m365_v1.active_users_as_of('2026-01-11')";
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *connection).await.unwrap(), 14);
    for refused in [
        "SELECT count(*) FROM m365_store.snapshot",
        "SELECT count(*) FROM m365_store.quarantine",
        "DELETE FROM m365_v1.tenants",
        "CREATE TABLE m365_v1.mine (id int)",
    ] {
        let error = sqlx::query(refused).execute(&mut *connection).await.unwrap_err();
        assert_eq!(
            error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref(),
            Some("42501"),
            "{refused}"
        );
    }
}

#[sqlx::test]
async fn every_view_and_column_has_a_comment_and_a_plain_type(pool: PgPool) {
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class c
         JOIN LATERAL (SELECT 0 AS attnum, NULL::name AS attname UNION ALL
                       SELECT attnum, attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) a ON true
         LEFT JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = a.attnum
         WHERE c.relnamespace = 'm365_v1'::regnamespace AND d.description IS NULL
         UNION ALL
         SELECT proname::text FROM pg_proc p
         WHERE pronamespace = 'm365_v1'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(bare.is_empty(), "without a comment: {bare:?}");

    let odd: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || '.' || column_name || ' ' || data_type FROM information_schema.columns
         WHERE table_schema = 'm365_v1' AND data_type NOT IN
             ('text', 'date', 'timestamp with time zone', 'bigint', 'integer', 'smallint', 'numeric', 'boolean')",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(odd.is_empty(), "{odd:?}");

    let unwarned: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0
         WHERE c.relnamespace = 'm365_v1'::regnamespace
           AND (a.attname IN ('active_users', 'teams', 'office_365', 'old_value', 'new_value', 'delta')
                OR a.attname ~ 'avg|peak_daily')
           AND col_description(c.oid, a.attnum) !~ 'Do not sum over (days|time) or products'
         UNION ALL
         SELECT table_name || '.' || column_name || ' promises what daily counts cannot give'
         FROM information_schema.columns WHERE table_schema = 'm365_v1' AND column_name ~ '(^|_)(wau|mau)(_|$)'
         UNION ALL
         SELECT table_name || '.' || column_name || ' is not numeric(12,2)'
         FROM information_schema.columns
         WHERE table_schema = 'm365_v1' AND data_type = 'numeric' AND (numeric_precision, numeric_scale) <> (12, 2)",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(unwarned.is_empty(), "{unwarned:?}");
}

#[sqlx::test(fixtures(path = "../fixtures", scripts("good")))]
async fn report_time_is_midnight_utc_in_every_session(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("SET TIME ZONE 'Pacific/Auckland'").execute(&mut *connection).await.unwrap();
    let sql = "SELECT bool_and(report_time = (report_date::text || ' 00:00:00+00')::timestamptz)
               FROM m365_v1.active_users_daily";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await.unwrap());
}

#[sqlx::test]
async fn the_contract_says_which_it_is(pool: PgPool) {
    let sql = "SELECT contract_version, program_version, schema_version >= 3 FROM m365_v1.contract_info";
    let before: (String, Option<String>, bool) = sqlx::query_as(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(before, ("1.1".into(), None, true));
    sqlx::query("INSERT INTO m365_store.program (version, started_at) VALUES ('0.1.0', now())")
        .execute(&pool)
        .await
        .unwrap();
    let after: (String, Option<String>, bool) = sqlx::query_as(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(after.1.as_deref(), Some("0.1.0"));
}
