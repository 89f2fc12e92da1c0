//! Connections, each with its deadlines.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::StoreError;
use crate::config::Database;

/// How long to wait for a lock somebody else holds: a BI tool's long transaction, a `LOCK TABLE`.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The user name the driver assumes when it is told none.
const NOBODY: &str = "anonymous";

/// A pool of connections; none is opened yet.
///
/// Every connection carries its own limits, so that no statement and no forgotten transaction can hang for ever.
pub fn connect(url: &SecretString, settings: &Database) -> Result<PgPool, StoreError> {
    let options = options(url, settings.statement_timeout)?;
    Ok(PgPoolOptions::new()
        .max_connections(settings.max_connections.get())
        .acquire_timeout(settings.connect_timeout)
        .idle_timeout(Duration::from_mins(5))
        // Instead of a ping, and for the same price: a session that was opened while the server was read-only, or on a
        // primary that is one no longer, stays read-only for good. A new one may lead to where writing goes again.
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async move {
                let read_only = sqlx::raw_sql("SHOW transaction_read_only").fetch_one(connection).await?;
                Ok(read_only.try_get::<String, _>(0)? == "off")
            })
        })
        .connect_lazy_with(options))
}

pub(super) fn options(url: &SecretString, statement_timeout: Duration) -> Result<PgConnectOptions, StoreError> {
    let exposed = url.expose_secret();
    if !exposed.starts_with("postgres://") && !exposed.starts_with("postgresql://") {
        return Err(StoreError::Url("a connection string begins with postgres://".to_owned()));
    }
    let options = PgConnectOptions::from_str(exposed).map_err(|_| {
        StoreError::Url("not readable as postgres://user:password@host:5432/name; is a special character in the password percent-encoded?".to_owned())
    })?;
    // As libpq does: without a name it is the one of the account this runs under.
    let options = match nix::unistd::User::from_uid(nix::unistd::geteuid()) {
        Ok(Some(account)) if options.get_username() == NOBODY => options.username(&account.name),
        _ => options,
    };
    let millis = |limit: Duration| limit.as_millis().to_string();
    Ok(options.application_name("m365-ledger").options([
        ("statement_timeout", millis(statement_timeout)),
        ("lock_timeout", millis(LOCK_TIMEOUT)),
        ("idle_in_transaction_session_timeout", millis(statement_timeout)),
        ("timezone", "UTC".to_owned()),
    ]))
}
