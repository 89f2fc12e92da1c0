//! `config show` and `config check`.

use std::process::ExitCode;

use super::check_complete;
use crate::config::Effective;

/// Prints every setting in force and where it came from.
pub fn show(effective: &Effective) -> ExitCode {
    print!("{}", effective.describe());
    ExitCode::SUCCESS
}

/// Says whether the settings are complete.
pub fn check(effective: &Effective) -> anyhow::Result<ExitCode> {
    let (tenants, targets) = check_complete(effective)?;
    println!("the configuration is valid; tenants: {tenants}, targets: {targets}");
    if tenants == 0 {
        println!("note: no tenant is configured; `run` and `once` need tenant.id or [[tenants]]");
    }
    Ok(ExitCode::SUCCESS)
}
