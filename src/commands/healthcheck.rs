//! `healthcheck`: for containers without a shell.

use std::process::ExitCode;

use super::SOME_FAILED;
use crate::{config::Settings, http::probe};

/// Asks the running service whether it lives.
pub async fn healthcheck(settings: &Settings) -> anyhow::Result<ExitCode> {
    match probe::check(settings.http.listen).await {
        Ok(()) => {
            println!("alive");
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            eprintln!("m365-ledger: the service is not alive: {reason}");
            Ok(ExitCode::from(SOME_FAILED))
        }
    }
}
