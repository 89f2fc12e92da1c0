//! What only the demonstration does to a database.

use sqlx::PgPool;
use uuid::Uuid;

use super::StoreError;

/// Empties the demonstration's database. One that holds another tenant than the simulated one is left alone.
pub async fn reset(pool: &PgPool, simulated: Uuid) -> Result<(), StoreError> {
    let failed = StoreError::during("emptying the demonstration's database");
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('m365_store.tenant') IS NOT NULL")
        .fetch_one(pool)
        .await
        .map_err(&failed)?;
    if exists {
        let strangers = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM m365_store.tenant WHERE tenant_id <> $1"#,
            simulated
        )
        .fetch_one(pool)
        .await
        .map_err(&failed)?;
        if strangers > 0 {
            return Err(StoreError::Schema(format!(
                "the demonstration's database holds {strangers} tenants that are not simulated; it is left as it is"
            )));
        }
    }
    sqlx::raw_sql("DROP SCHEMA IF EXISTS m365_v1, m365_store CASCADE").execute(pool).await.map_err(&failed)?;
    Ok(())
}

/// How much is held.
#[derive(Debug)]
pub struct Totals {
    /// Snapshots.
    pub snapshots: i64,
    /// Their rows.
    pub facts: i64,
    /// Figures that a later refresh changed.
    pub revisions: i64,
}

/// Counts what is held.
pub async fn totals(pool: &PgPool) -> Result<Totals, StoreError> {
    sqlx::query_as!(
        Totals,
        r#"SELECT (SELECT count(*) FROM m365_v1.active_users_revisions) AS "revisions!",
                  (SELECT count(*) FROM m365_store.snapshot) AS "snapshots!",
                  (SELECT count(*) FROM m365_v1.active_users_snapshots) AS "facts!""#
    )
    .fetch_one(pool)
    .await
    .map_err(StoreError::during("counting what is held"))
}
