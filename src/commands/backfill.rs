//! `backfill`: all that Microsoft still remembers.

use std::process::ExitCode;

use super::once;
use crate::{cli::OnceArgs, config::Settings, report::Period};

/// Fetches the longest period of every report, for all targets, now.
pub async fn backfill(settings: &Settings, mut args: OnceArgs) -> anyhow::Result<ExitCode> {
    if args.period.is_empty() {
        args.period.push(Period::D180);
    }
    once::once(settings, &args).await
}
