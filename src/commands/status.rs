//! `status`: what is held, and how fresh it is.

use std::process::ExitCode;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::service::Database;
use crate::{
    config::Settings,
    report::Period,
    store::{
        self, StoreError,
        status::{self, Gap, TargetStatus},
    },
};

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Document {
    targets: Vec<TargetStatus>,
    gaps: Vec<Gap>,
}

/// Prints how every target stands, and which days are missing.
pub async fn status(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let database = Database::open(settings).await?;
    store::ensure_current(&database.url, database.may_migrate(settings)).await?;
    let failed = StoreError::during("reading the status");
    let targets = status::targets(&database.pool).await.map_err(&failed)?;
    let gaps = status::gaps(&database.pool).await.map_err(&failed)?;
    let document = Document { targets, gaps };
    if json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print(&document);
        if let Some(server) = &database.local {
            println!("\nto look into the database: {}", server.psql_hint());
        }
    }
    database.close().await;
    Ok(ExitCode::SUCCESS)
}

fn print(document: &Document) {
    if document.targets.is_empty() {
        println!(
            "nothing is held in this database: run `m365-ledger once`, or check database.url and database.data_dir"
        );
        return;
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "Tenant",
        "Report",
        "Period",
        "State",
        "Newest refresh",
        "Days behind",
        "Last success (UTC)",
        "Last attempt",
    ]);
    let dash = || "-".to_owned();
    for target in &document.targets {
        let period = Period::from_days(target.report_period).map_or_else(dash, |period| period.to_string());
        let last = match (&target.last_outcome, &target.last_error_class) {
            (Some(outcome), Some(class)) => format!("{outcome} ({class})"),
            (Some(outcome), None) => outcome.clone(),
            (None, _) => dash(),
        };
        table.add_row([
            target.tenant_name.clone(),
            target.report.clone(),
            period,
            target.state.clone(),
            target.newest_refresh_date.map_or_else(dash, |date| date.to_string()),
            target.days_behind.map_or_else(dash, |days| days.to_string()),
            target.last_success_at.map_or_else(dash, |at| at.format("%F %R").to_string()),
            last,
        ]);
    }
    println!("{table}");
    for gap in &document.gaps {
        println!(
            "missing: {} {}: {} to {} ({} days); Microsoft gave no figures for them",
            gap.tenant_name, gap.report, gap.gap_start, gap.gap_end, gap.days
        );
    }
}
