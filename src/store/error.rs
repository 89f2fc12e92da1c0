//! What can go wrong between us and Postgres.

use crate::outcome::ErrorClass;

/// A statement or a connection failed. The text names the operation; it never holds the connection string.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres or the way to it.
    #[error("{operation}: {}", described(cause))]
    Database {
        /// What was being done.
        operation: &'static str,
        /// What the driver said.
        cause: sqlx::Error,
    },
    /// The tables are not those this program was built for.
    #[error("{0}")]
    Schema(String),
    /// The connection string cannot be used. The text does not hold it.
    #[error("database.url: {0}")]
    Url(String),
}

impl StoreError {
    /// For `map_err`: names the operation.
    pub fn during(operation: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |cause| Self::Database { operation, cause }
    }

    /// The closed class, from the SQLSTATE where there is one.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Database { cause, .. } => class_of(cause),
            Self::Schema(_) => ErrorClass::SchemaMismatch,
            Self::Url(_) => ErrorClass::DbUnavailable,
        }
    }
}

fn class_of(error: &sqlx::Error) -> ErrorClass {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                ErrorClass::DbUnavailable
            }
            _ => ErrorClass::Internal,
        };
    };
    let code = database.code().unwrap_or_default();
    match &*code {
        "25006" => ErrorClass::DbReadonly,
        "53100" | "53200" => ErrorClass::DbFull,
        // Serialization failure, deadlock, lock not available, statement cancelled: somebody was in the way.
        "40001" | "40P01" | "55P03" | "57014" => ErrorClass::Timeout,
        // Not our doing, but of a pooler between us and Postgres.
        _ if pooler(database.as_ref()).is_some() => ErrorClass::DbUnavailable,
        "3F000" | "42P01" | "42703" | "42883" | "42501" => ErrorClass::SchemaMismatch,
        // Connections, limits, shutdown, and who we are.
        code if ["08", "53", "57", "28", "3D"].iter().any(|class| code.starts_with(class)) => ErrorClass::DbUnavailable,
        _ => ErrorClass::Internal,
    }
}

/// What the driver said, without what it could give away: messages of Postgres name no password.
fn described(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default();
            let cure = pooler(database.as_ref()).map(|cure| format!("; {cure}")).unwrap_or_default();
            format!("{}{code}{cure}", database.message())
        }
        sqlx::Error::Io(error) => format!("no connection to Postgres: {error}"),
        sqlx::Error::PoolTimedOut => "Postgres gave no connection in time".to_owned(),
        other => other.to_string(),
    }
}

/// What to do where a connection pooler, and not Postgres, is what answers or gets in the way.
fn pooler(error: &dyn sqlx::error::DatabaseError) -> Option<&'static str> {
    match error.code().as_deref() {
        Some("08P01") if error.message().contains("startup parameter") => Some(
            "a connection pooler refuses it: connect to Postgres itself, or give PgBouncer the line \
             ignore_startup_parameters = extra_float_digits, options",
        ),
        // A prepared statement that is there already, or that is not there: this program names each only once.
        Some("42P05" | "26000") => Some(
            "a connection pooler shares sessions between clients: connect to Postgres itself, or set PgBouncer's \
             pool_mode = session",
        ),
        _ => None,
    }
}
