//! `once` and `backfill`: what is asked for now, once.

use std::{
    collections::HashMap,
    io::{IsTerminal, stderr},
    process::ExitCode,
};

use chrono::NaiveDate;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    SOME_FAILED, UNAVAILABLE,
    service::{Database, Sources, Staffed},
};
use crate::{
    cli::OnceArgs,
    clock::Clock,
    config::Settings,
    daemon::{asked::Asked, lifecycle::Lifecycle},
    graph::Graph,
    ingest::Patience,
    outcome::{ErrorClass, Outcome},
    report::Target,
    store::{self, Receipt},
};

/// A table with more lines than this only shows what went wrong.
const WHOLE_TABLE: usize = 40;

/// Fetches the targets now and says what came of each.
pub async fn once(settings: &Settings, args: &OnceArgs) -> anyhow::Result<ExitCode> {
    let sources = Sources::new(settings)?;
    let targets = sources.narrowed(args)?;
    fetch(settings, args, &sources, targets).await
}

/// Fetches the longest of the periods that are asked for, of every report: all that Microsoft still remembers.
pub async fn backfill(settings: &Settings, args: &OnceArgs) -> anyhow::Result<ExitCode> {
    let sources = Sources::new(settings)?;
    let mut targets = sources.narrowed(args)?;
    // A report's periods stand longest first.
    targets.dedup_by_key(|target| (target.tenant_id, target.report.name));
    fetch(settings, args, &sources, targets).await
}

async fn fetch(
    settings: &Settings,
    args: &OnceArgs,
    sources: &Sources,
    targets: Vec<Target>,
) -> anyhow::Result<ExitCode> {
    let clock = Clock::System;
    let graph = Graph::new(&settings.graph, clock.clone())?;
    let life = Lifecycle::install()?;
    let database = Database::open(settings).await?;
    store::ensure_current(&database.url, settings.database.migrate && !args.no_migrate).await?;
    sources.register(&database.pool, &clock).await?;

    let patience = Patience::new(&settings.schedule, Some(settings.schedule.max_wait));
    let staff = Staffed::sign_on(settings, sources, graph, &database.pool, &clock, patience, life.soft()).await?;
    let (sender, receipts) = mpsc::unbounded_channel();
    let asked = Asked {
        pool: &database.pool,
        clock: &clock,
        targets: &targets,
        at: clock.now(),
        longest_wait: settings.schedule.max_wait,
    };
    let (soft, hard) = (life.soft(), life.hard());
    let work = async {
        let done = hard.run_until_cancelled(asked.work(&staff.worker, &sender, &soft)).await;
        drop(sender);
        done
    };
    let (done, results) = tokio::join!(work, collect(receipts, targets.len()));
    staff.sign_off().await;
    database.close().await;

    let report = Report::new(sources, &targets, results);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    if let Some(Err(error)) = done {
        return Err(error.into());
    }
    Ok(report.exit_code())
}

/// The last receipt of each target, with progress on a terminal.
async fn collect(mut receipts: mpsc::UnboundedReceiver<Receipt>, targets: usize) -> HashMap<Target, Receipt> {
    let bar = if stderr().is_terminal() { ProgressBar::new(targets as u64) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} reports  {wide_msg}") {
        bar.set_style(style);
    }
    let mut last = HashMap::with_capacity(targets);
    while let Some(receipt) = receipts.recv().await {
        if receipt.next_try.is_none() {
            bar.inc(1);
        } else if let Some(class) = receipt.class {
            bar.set_message(format!("{class}: trying again"));
        }
        last.insert(receipt.claim.target, receipt);
    }
    bar.finish_and_clear();
    last
}

/// What is said of the whole; with `--json` it is the document.
#[derive(Debug, Serialize)]
struct Report {
    targets: Vec<Line>,
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct Line {
    tenant: Uuid,
    tenant_name: String,
    report: &'static str,
    period: &'static str,
    outcome: Outcome,
    error_class: Option<ErrorClass>,
    message: Option<String>,
    refresh_date: Option<NaiveDate>,
    rows_inserted: u32,
    rows_updated: u32,
    rows_unchanged: u32,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    targets: usize,
    stored: usize,
    unchanged: usize,
    empty: usize,
    rejected: usize,
    failed: usize,
    rows_inserted: u64,
    rows_updated: u64,
    rows_unchanged: u64,
}

impl Report {
    fn new(sources: &Sources, targets: &[Target], mut results: HashMap<Target, Receipt>) -> Self {
        let names: HashMap<Uuid, &str> =
            sources.tenants.iter().map(|tenant| (tenant.id, tenant.name.as_str())).collect();
        let mut totals = Totals { targets: targets.len(), ..Totals::default() };
        let lines = targets
            .iter()
            .map(|target| {
                let receipt = results.remove(target);
                let outcome = receipt.as_ref().map_or(Outcome::Failed, |receipt| receipt.outcome);
                *match outcome {
                    Outcome::Stored => &mut totals.stored,
                    Outcome::Unchanged => &mut totals.unchanged,
                    Outcome::Empty => &mut totals.empty,
                    Outcome::Rejected => &mut totals.rejected,
                    Outcome::Failed | Outcome::Skipped | Outcome::Abandoned => &mut totals.failed,
                } += 1;
                let (inserted, updated, unchanged) = receipt
                    .as_ref()
                    .map_or((0, 0, 0), |receipt| (receipt.inserted, receipt.updated, receipt.unchanged));
                totals.rows_inserted += u64::from(inserted);
                totals.rows_updated += u64::from(updated);
                totals.rows_unchanged += u64::from(unchanged);
                let interrupted = || "not done: the program was stopped or lost its database".to_owned();
                Line {
                    tenant: target.tenant_id,
                    tenant_name: names.get(&target.tenant_id).copied().unwrap_or_default().to_owned(),
                    report: target.report.name,
                    period: target.period.as_str(),
                    outcome,
                    error_class: receipt.as_ref().map_or(Some(ErrorClass::Shutdown), |receipt| receipt.class),
                    message: receipt.as_ref().map_or_else(|| Some(interrupted()), |receipt| receipt.message.clone()),
                    refresh_date: receipt.as_ref().and_then(|receipt| receipt.refresh_date),
                    rows_inserted: inserted,
                    rows_updated: updated,
                    rows_unchanged: unchanged,
                }
            })
            .collect();
        Self { targets: lines, totals }
    }

    fn exit_code(&self) -> ExitCode {
        if self.totals.rejected + self.totals.failed == 0 {
            return ExitCode::SUCCESS;
        }
        let down = |line: &Line| {
            matches!(
                line.error_class,
                Some(
                    ErrorClass::Connection
                        | ErrorClass::Timeout
                        | ErrorClass::Tls
                        | ErrorClass::Graph5xx
                        | ErrorClass::DbUnavailable
                        | ErrorClass::DbReadonly
                        | ErrorClass::DbFull
                )
            )
        };
        ExitCode::from(if self.targets.iter().all(down) { UNAVAILABLE } else { SOME_FAILED })
    }

    fn print(&self) {
        let whole = self.targets.len() <= WHOLE_TABLE;
        let fine = |line: &&Line| whole || !matches!(line.outcome, Outcome::Stored | Outcome::Unchanged);
        let lines: Vec<&Line> = self.targets.iter().filter(fine).take(WHOLE_TABLE).collect();
        if !lines.is_empty() {
            let mut table = Table::new();
            table.load_style(UTF8_FULL_CONDENSED);
            table.set_header(["Tenant", "Report", "Period", "Outcome", "Refreshed", "New", "Changed", "Same"]);
            for number in 5..8 {
                if let Some(column) = table.column_mut(number) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            for line in &lines {
                table.add_row([
                    line.tenant_name.clone(),
                    line.report.to_owned(),
                    line.period.to_owned(),
                    line.error_class
                        .map_or_else(|| line.outcome.to_string(), |class| format!("{} ({class})", line.outcome)),
                    line.refresh_date.map_or_else(|| "-".to_owned(), |date| date.to_string()),
                    line.rows_inserted.to_string(),
                    line.rows_updated.to_string(),
                    line.rows_unchanged.to_string(),
                ]);
            }
            println!("{table}");
        }
        let totals = &self.totals;
        println!(
            "{} targets: {} stored, {} unchanged, {} empty, {} rejected, {} failed; rows: {} new, {} changed, {} as before",
            totals.targets,
            totals.stored,
            totals.unchanged,
            totals.empty,
            totals.rejected,
            totals.failed,
            totals.rows_inserted,
            totals.rows_updated,
            totals.rows_unchanged
        );
        self.print_advice();
    }

    /// Each kind of trouble once: what was said, and what to do.
    fn print_advice(&self) {
        let mut told: Vec<ErrorClass> = Vec::new();
        for line in &self.targets {
            if let (Some(class), Some(message)) = (line.error_class, &line.message)
                && !told.contains(&class)
            {
                told.push(class);
                println!("\n{class}: {message}\n  -> {}", class.advice());
            }
        }
    }
}
