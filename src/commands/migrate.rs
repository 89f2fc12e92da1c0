//! `migrate`: bring the schema up to date.

use std::process::ExitCode;

use super::service::Database;
use crate::{config::Settings, store};

/// Applies pending migrations.
pub async fn migrate(settings: &Settings) -> anyhow::Result<ExitCode> {
    let database = Database::open(settings).await?;
    let applied = store::migrate(&database.url).await?;
    match applied {
        0 => println!("the schema is up to date"),
        1 => println!("1 migration applied"),
        n => println!("{n} migrations applied"),
    }
    database.close().await;
    Ok(ExitCode::SUCCESS)
}
