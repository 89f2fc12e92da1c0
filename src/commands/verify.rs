//! `verify`: what is stored against the ledger.

use std::process::ExitCode;

use super::{SOME_FAILED, service::Database};
use crate::{
    config::Settings,
    store::{
        self, StoreError,
        verify::{Finding, Verdict},
    },
};

/// How many findings of a kind are printed for people; JSON has them all.
const SHOWN: usize = 20;

/// Checks every invariant and prints what breaks one.
pub async fn verify(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let database = Database::open(settings).await?;
    store::ensure_current(&database.url, database.may_migrate(settings)).await?;
    let verdict = store::verify::verify(&database.pool).await.map_err(StoreError::during("verifying"))?;
    database.close().await;
    if json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print(&verdict);
    }
    Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(SOME_FAILED) })
}

fn print(verdict: &Verdict) {
    let list = |title: &str, findings: &[Finding]| {
        if !findings.is_empty() {
            println!("{title}:");
        }
        for finding in findings.iter().take(SHOWN) {
            println!("  {} {}", finding.invariant, finding.what);
        }
        if findings.len() > SHOWN {
            println!("  and {} more; --json lists them all", findings.len() - SHOWN);
        }
    };
    list("violations", &verdict.violations);
    list("notes", &verdict.notes);
    println!(
        "{} snapshots, {} facts, {} current rows checked: {}",
        verdict.snapshots,
        verdict.facts,
        verdict.current,
        match verdict.violations.len() {
            0 => "nothing is lost, mixed or doubled".to_owned(),
            n => format!("{n} violations"),
        }
    );
}
