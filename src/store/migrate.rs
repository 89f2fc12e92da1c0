//! The schema: bringing it up to date, and knowing whether this program may use it.

#[cfg(test)]
mod tests;

use std::time::Duration;

use secrecy::SecretString;
use sqlx::{ConnectOptions, Connection, PgConnection, migrate::Migrator};

use super::{StoreError, connect::options};

/// The migrations, compiled in.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// Where sqlx keeps its account of them: in our schema, not in `public`.
const ACCOUNT: &str = "m365_store.applied_migration";

/// A migration may take longer than an ordinary statement.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);

/// For a connection of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Any number will do, as long as every version of this program uses the same.
const MIGRATION_LOCK: i64 = 0x6d33_3635_6c65_6467;

/// How the database's schema stands to this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// Every migration this program knows is applied; newer ones, if any, are not breaking.
    Current {
        /// The newest version applied.
        version: i64,
    },
    /// Some are missing.
    Behind {
        /// How many.
        pending: usize,
    },
    /// A migration this program does not know forbids it to write.
    TooNew {
        /// Its version.
        version: i64,
        /// What it does.
        description: String,
    },
}

/// Applies what is pending. Safe to call from several programs at once: one applies, the others wait, and find nothing
/// left to do. Returns how many migrations were applied.
pub async fn migrate(url: &SecretString) -> Result<usize, StoreError> {
    let failed = StoreError::during("migrating the schema");
    // A connection of its own: the lock belongs to the session, and a pool would hand the session to somebody else.
    let mut connection = open(url).await?;
    sqlx::raw_sql("SET lock_timeout = '60s'").execute(&mut connection).await.map_err(&failed)?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut connection).await.map_err(&failed)?;
    let before = state_on(&mut connection).await?;
    let applied = match before {
        SchemaState::Behind { pending } => pending,
        SchemaState::Current { .. } => 0,
        SchemaState::TooNew { .. } => return Err(refusal(&before)),
    };
    if applied > 0 {
        sqlx::raw_sql("CREATE SCHEMA IF NOT EXISTS m365_store").execute(&mut connection).await.map_err(&failed)?;
        let mut migrator = Migrator { migrations: MIGRATOR.migrations.clone(), ..Migrator::DEFAULT };
        migrator.dangerous_set_table_name(ACCOUNT);
        migrator.set_ignore_missing(true).set_locking(false);
        migrator.run(&mut connection).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(source) => failed(source),
            other => StoreError::Schema(format!("migrating the schema: {other}")),
        })?;
    }
    let _ = connection.close().await;
    Ok(applied)
}

/// How the schema stands.
///
/// Asked on a connection of its own, which says at once why it cannot be had; a pool would go on trying until its time
/// is up, and then only say that.
pub async fn schema_state(url: &SecretString) -> Result<SchemaState, StoreError> {
    let mut connection = open(url).await?;
    let state = state_on(&mut connection).await;
    let _ = connection.close().await;
    state
}

/// Brings the schema up to date if `may_migrate`; otherwise, or when that cannot help, refuses with what to do. Returns
/// the schema's version.
pub async fn ensure_current(url: &SecretString, may_migrate: bool) -> Result<i64, StoreError> {
    let mut state = schema_state(url).await?;
    if may_migrate && matches!(state, SchemaState::Behind { .. }) {
        migrate(url).await?;
        state = schema_state(url).await?;
    }
    match state {
        SchemaState::Current { version } => Ok(version),
        other => Err(refusal(&other)),
    }
}

async fn open(url: &SecretString) -> Result<PgConnection, StoreError> {
    let connecting = options(url, MIGRATION_TIMEOUT)?;
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting.connect())
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
    connection.map_err(StoreError::during("reading the schema version"))
}

fn refusal(state: &SchemaState) -> StoreError {
    StoreError::Schema(match state {
        SchemaState::Current { .. } => "the schema is current".to_owned(),
        SchemaState::Behind { pending } => {
            format!("{pending} migrations are pending: run `m365-ledger migrate` as the owner of the schema")
        }
        SchemaState::TooNew { version, description } => format!(
            "the database was changed by a newer m365-ledger (schema {version}, \"{description}\") in a way this version \
             must not write to: use the newer version"
        ),
    })
}

async fn state_on(connection: &mut PgConnection) -> Result<SchemaState, StoreError> {
    let failed = StoreError::during("reading the schema version");
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('m365_store.schema_change') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
    let known: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
    if !exists {
        return Ok(SchemaState::Behind { pending: known.len() });
    }
    let applied: Vec<(i64, bool, String)> =
        sqlx::query_as("SELECT version, breaking, description FROM m365_store.schema_change ORDER BY version")
            .fetch_all(&mut *connection)
            .await
            .map_err(&failed)?;
    if let Some((version, _, description)) =
        applied.iter().find(|(version, breaking, _)| *breaking && !known.contains(version))
    {
        return Ok(SchemaState::TooNew { version: *version, description: description.clone() });
    }
    let pending = known.iter().filter(|version| !applied.iter().any(|(applied, ..)| applied == *version)).count();
    if pending > 0 {
        return Ok(SchemaState::Behind { pending });
    }
    Ok(SchemaState::Current { version: applied.last().map_or(0, |(version, ..)| *version) })
}
