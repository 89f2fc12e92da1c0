//! `status`: what is held, and how fresh it is.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal, stdout},
    process::ExitCode,
    time::Duration,
};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use sqlx::PgPool;

use super::{
    service::Database,
    sparkline::{sparkline, weekly_averages},
};
use crate::{
    clock::Clock,
    config::Settings,
    report::Period,
    store::{
        self, StoreError,
        status::{self, Day, Gap, PRODUCTS, Standing, TargetStatus},
    },
};

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Document {
    targets: Vec<TargetStatus>,
    gaps: Vec<Gap>,
}

/// The trends that are shown: of so many tenants, over so many weeks.
const TENANTS: usize = 10;
const WEEKS: i32 = 26;

/// Prints how every target stands, which days are missing and where the figures go; again and again if asked to.
pub async fn status(settings: &Settings, json: bool, watch: Option<u16>) -> anyhow::Result<ExitCode> {
    let database = Database::open(settings).await?;
    let done = shown(&database, settings, json, watch).await;
    database.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn shown(database: &Database, settings: &Settings, json: bool, watch: Option<u16>) -> anyhow::Result<()> {
    store::ensure_current(&database.url, database.may_migrate(settings)).await?;
    let Some(seconds) = watch else {
        return show(database, json).await;
    };
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    loop {
        if stdout().is_terminal() {
            // Everything away, and to the upper left.
            print!("\x1b[2J\x1b[H");
        }
        println!("{} UTC, every {seconds} s; Ctrl-C ends it\n", Clock::System.now().format("%F %T"));
        show(database, json).await?;
        tokio::select! {
            _ = &mut stop => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => println!(),
        }
    }
}

async fn show(database: &Database, json: bool) -> anyhow::Result<()> {
    let failed = StoreError::during("reading the status");
    let targets = status::targets(&database.pool).await.map_err(&failed)?;
    let gaps = status::gaps(&database.pool).await.map_err(&failed)?;
    let document = Document { targets, gaps };
    if json {
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    print(&document);
    trends(&database.pool, &document.targets).await.map_err(&failed)?;
    if let Some(server) = &database.local {
        println!("\nto look into the database while `run` keeps it up: {}", server.psql_hint());
    }
    Ok(())
}

/// The weekly average of each product, as marks.
async fn trends(pool: &PgPool, targets: &[TargetStatus]) -> Result<(), sqlx::Error> {
    let mut tenants: Vec<_> = targets.iter().map(|target| (&target.tenant_name, target.tenant_id)).collect();
    tenants.dedup();
    for (name, tenant_id) in tenants.iter().take(TENANTS) {
        let days = status::days(pool, *tenant_id, WEEKS * 7).await?;
        print!("{}", trend(name, &days));
    }
    if tenants.len() > TENANTS {
        println!(
            "\nand {} more tenants; the status page and m365_v1.active_users_weekly have them all",
            tenants.len() - TENANTS
        );
    }
    Ok(())
}

/// Nothing as long as no week is whole.
fn trend(name: &str, days: &[Day]) -> String {
    let (Some(first), Some(last)) = (days.first(), days.last()) else { return String::new() };
    // A day that is not held is as blank as one without a figure.
    let mut by_date = BTreeMap::new();
    by_date.extend(days.iter().map(|day| (day.report_date, day.figures())));
    let held: Vec<_> = first.report_date.iter_days().take_while(|date| *date <= last.report_date).collect();
    let mut text = format!("\n{name}: average day of each of the {} weeks to {}\n", held.len() / 7, last.report_date);
    for (number, (_, product)) in PRODUCTS.iter().enumerate() {
        let values: Vec<_> = held.iter().map(|date| by_date.get(date).and_then(|figures| figures[number])).collect();
        let weeks = weekly_averages(&values);
        let Some(newest) = weeks.last() else { return String::new() };
        let newest = newest.map_or_else(|| "-".to_owned(), |users| users.to_string());
        let _ = writeln!(text, "  {product:<11} {} {newest}", sparkline(&weeks));
    }
    text
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
            target.standing().words().to_owned(),
            target.newest_refresh_date.map_or_else(dash, |date| date.to_string()),
            target.days_behind.map_or_else(dash, |days| days.to_string()),
            target.last_success_at.map_or_else(dash, |at| at.format("%F %R").to_string()),
            last,
        ]);
    }
    println!("{table}");
    print!("{}", advice(&document.targets));
    for gap in &document.gaps {
        println!(
            "missing: {} {}: {} to {} ({} days); Microsoft gave no figures for them",
            gap.tenant_name, gap.report, gap.gap_start, gap.gap_end, gap.days
        );
    }
}

/// What to do about the targets that are not up to date.
fn advice(targets: &[TargetStatus]) -> String {
    let mut text = String::new();
    for tenant in targets.chunk_by(|a, b| a.tenant_id == b.tenant_id) {
        let not_well = tenant.iter().filter(|target| target.standing() != Standing::UpToDate);
        for reason in status::reasons(not_well) {
            if let Some(advice) = reason.advice {
                let _ = writeln!(text, "{} {}: {advice}", tenant[0].tenant_name, reason.periods.join(", "));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::{Days, NaiveDate};

    use super::*;

    #[test]
    fn a_trend_counts_days_that_are_not_held() {
        let day = |number: u64| Day {
            report_date: NaiveDate::from_ymd_opt(2026, 1, 1).unwrap() + Days::new(number),
            office_365: Some(if number < 7 { 80 } else { 10 }),
            exchange: None,
            onedrive: None,
            sharepoint: None,
            skype_for_business: None,
            yammer: None,
            teams: Some(7),
            is_final: true,
        };
        // Two weeks, the 3rd of January and the whole second week but its end missing.
        let days: Vec<Day> = [0, 1, 3, 4, 5, 6, 13].map(day).into();
        let text = trend("Contoso", &days);
        assert!(text.starts_with("\nContoso: average day of each of the 2 weeks to 2026-01-14\n"), "{text}");
        assert!(text.contains("\n  Office 365  █▁ 10\n"), "{text}");
        assert!(text.contains("\n  Exchange       -\n") && text.ends_with("  Teams       ██ 7\n"), "{text}");
        assert_eq!(trend("Contoso", &days[..3]), "", "no whole week");
        assert_eq!(trend("Contoso", &[]), "");
    }
}
