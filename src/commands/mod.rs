//! What a person or a container calls: one file a command.

mod config;
mod demo;
mod doctor;
mod export;
mod healthcheck;
mod migrate;
mod once;
mod run;
mod service;
mod sparkline;
mod status;
mod verify;

use std::process::ExitCode;

use crate::{
    cli::{Cli, Command, ConfigAction, OnceArgs},
    config::{ConfigError, Effective, load},
    graph::SetupError,
    outcome::ErrorClass,
    plan::BadCron,
    store::{StoreError, local::LocalError},
    telemetry::logs::{self, Destination},
};

/// `once`: some targets failed; `verify`, `doctor`: something was found.
const SOME_FAILED: u8 = 1;
/// A dependency is unavailable.
const UNAVAILABLE: u8 = 69;
/// The configuration or the schema does not fit.
const CONFIGURATION: u8 = 78;

/// Runs a command to its end, and says how it came out. Errors are printed for people, with what they follow from.
pub async fn execute(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("m365-ledger: {error:#}");
            if let Some(advice) = advice(&error) {
                eprintln!("  -> {advice}");
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

/// What to do, where the text does not say so itself.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<StoreError>()? {
        error @ StoreError::Database { .. } => Some(error.class().advice()),
        StoreError::Schema(_) | StoreError::Url(_) => None,
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let effective = load(cli.config.as_deref())?;
    let settings = &effective.settings;
    logs::init(&settings.log, destination(&cli.command)).map_err(|error| ConfigError::Invalid(error.to_string()))?;
    match cli.command {
        Command::Run { no_migrate } => run::run(effective.settings, no_migrate).await,
        Command::Once(args) => once::once(settings, &args).await,
        Command::Backfill(args) => once::backfill(settings, &args).await,
        Command::Status { json, watch } => status::status(settings, json, watch).await,
        Command::Export(args) => export::export(settings, &args).await,
        Command::Verify { json } => verify::verify(settings, json).await,
        Command::Doctor { json } => doctor::doctor(settings, json).await,
        Command::Migrate => migrate::migrate(settings).await,
        Command::Healthcheck => healthcheck::healthcheck(settings).await,
        Command::Config { action: ConfigAction::Show } => Ok(config::show(&effective)),
        Command::Config { action: ConfigAction::Check } => config::check(&effective),
        Command::Demo(args) => demo::demo(args).await,
    }
}

/// A command's stdout belongs to its result; the service's to its log.
const fn destination(command: &Command) -> Destination {
    match command {
        Command::Run { .. } => Destination::Stdout,
        Command::Once(OnceArgs { json: true, .. }) | Command::Backfill(OnceArgs { json: true, .. }) => {
            Destination::Stderr
        }
        _ => Destination::StderrQuiet,
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() || error.is::<SetupError>() || error.is::<BadCron>() {
        return CONFIGURATION;
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Url(_)) => CONFIGURATION,
        Some(error) if error.class() == ErrorClass::SchemaMismatch => CONFIGURATION,
        Some(_) => UNAVAILABLE,
        None if error.is::<LocalError>() => UNAVAILABLE,
        None => SOME_FAILED,
    }
}

/// The settings in force are complete.
fn check_complete(effective: &Effective) -> anyhow::Result<(usize, usize)> {
    let settings = &effective.settings;
    let tenants = settings.tenants()?;
    let reports = settings.reports()?;
    settings.database.url()?;
    crate::http::Guard::new(&settings.http)?;
    crate::plan::Timetable::new(&settings.schedule)?;
    crate::graph::Graph::new(&settings.graph, crate::clock::Clock::System)?;
    Ok((tenants.len(), tenants.len() * reports.iter().map(|report| report.periods.len()).sum::<usize>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_each_thing_once_and_what_to_do() {
        let down = StoreError::during("reading the schema version")(sqlx::Error::PoolTimedOut);
        let down = anyhow::Error::from(down).context("signing on");
        assert_eq!(format!("{down:#}"), "signing on: reading the schema version: Postgres gave no connection in time");
        assert!(advice(&down).is_some_and(|advice| advice.contains("database.url")));
        assert_eq!(exit_code(&down), UNAVAILABLE);

        let wrong = anyhow::Error::from(StoreError::Url("a connection string begins with postgres://".to_owned()));
        assert_eq!(exit_code(&wrong), CONFIGURATION);
        assert_eq!(advice(&wrong), None);
    }
}
