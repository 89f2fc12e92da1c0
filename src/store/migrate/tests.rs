//! That a migration brings along what the version before it stored.

use chrono::NaiveDate;
use sqlx::PgPool;

use super::MIGRATOR;
use crate::store::verify;

const GOOD: &str = include_str!("../fixtures/good.sql");

/// Day, product, period, both refreshes, both values, kind.
type Change = (NaiveDate, String, i16, NaiveDate, NaiveDate, Option<i64>, Option<i64>, String);

async fn apply(pool: &PgPool, versions: std::ops::RangeInclusive<i64>) {
    for migration in MIGRATOR.iter().filter(|migration| versions.contains(&migration.version)) {
        let mut transaction = pool.begin().await.expect("a transaction");
        sqlx::raw_sql(migration.sql.clone()).execute(&mut *transaction).await.expect("applied");
        transaction.commit().await.expect("committed");
    }
}

#[sqlx::test(migrations = false)]
async fn revisions_and_disagreements_of_a_store_of_version_3_are_entered(pool: PgPool) {
    apply(&pool, 1..=3).await;
    let (before, _) = GOOD.split_once("-- Since schema version 4.").expect("the mark");
    sqlx::raw_sql(sqlx::AssertSqlSafe(before)).execute(&pool).await.expect("a store of version 3");
    let changes = "SELECT report_date, product, report_period, old_refresh_date, new_refresh_date, old_value, new_value, kind
                   FROM m365_v1.active_users_revisions ORDER BY report_date, product, report_period, new_refresh_date, kind";
    let disagreements = "SELECT report_date, report_refresh_date, products FROM m365_v1.period_disagreements";
    let asked: Vec<Change> = sqlx::query_as(changes).fetch_all(&pool).await.expect("revisions of the facts");
    let apart: Vec<(NaiveDate, NaiveDate, String)> =
        sqlx::query_as(disagreements).fetch_all(&pool).await.expect("disagreements of the facts");
    assert_eq!((asked.len(), apart.len()), (20, 1), "{asked:#?}");

    apply(&pool, 4..=4).await;
    let kept: Vec<Change> = sqlx::query_as(changes).fetch_all(&pool).await.expect("revisions kept");
    assert_eq!(kept, asked);
    let noted: Vec<(NaiveDate, NaiveDate, String)> =
        sqlx::query_as(disagreements).fetch_all(&pool).await.expect("disagreements noted");
    assert_eq!(noted, apart);
    let verdict = verify::verify(&pool).await.expect("verified");
    assert!(verdict.is_sound(), "{:#?}", verdict.violations);
}
