//! The oracle: does what is stored still say what was fetched? Reads everything, changes nothing.
//!
//! All of it happens in one read-only transaction with one view of the data, so that a daemon at work causes no false
//! findings; and tenant by tenant, so that memory holds one tenant's ledger and one snapshot's rows, however much there
//! is.
//!
//! Not checked here: I3 (keys are unique: primary keys see to it), and those invariants that only a test can see (I5, I9,
//! I10).

mod facts;
#[cfg(test)]
mod tests;
mod work;

use chrono::NaiveDate;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use self::facts::Scope;
use crate::report::catalogue::REPORTS;

/// More findings than this are only counted: nobody reads them one by one.
const MOST_FINDINGS: usize = 1_000;

/// What [`verify`] found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Broken promises: each one is damage, or a fault of this program.
    pub violations: Vec<Finding>,
    /// What a person may want to know, and what can be normal: gaps after an outage, work left lying.
    pub notes: Vec<Finding>,
    /// Violations and notes beyond the first thousand of each.
    pub omitted: u64,
    /// Ledger rows looked at.
    pub snapshots: u64,
    /// Facts looked at.
    pub facts: u64,
    /// Current rows looked at.
    pub current: u64,
}

impl Verdict {
    /// Whether nothing is broken. Notes do not count.
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    fn violation(&mut self, finding: Finding) {
        keep(&mut self.violations, &mut self.omitted, finding);
    }

    fn note(&mut self, finding: Finding) {
        keep(&mut self.notes, &mut self.omitted, finding);
    }
}

fn keep(findings: &mut Vec<Finding>, omitted: &mut u64, finding: Finding) {
    if findings.len() < MOST_FINDINGS { findings.push(finding) } else { *omitted += 1 }
}

/// One thing that [`verify`] found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Finding {
    /// The invariant, such as `I1`; `docs/data-model.md` lists them.
    pub invariant: &'static str,
    /// A sentence for people.
    pub what: String,
    /// The tenant.
    pub tenant_id: Option<Uuid>,
    /// The report.
    pub report: Option<String>,
    /// The period in days.
    pub period: Option<i16>,
    /// The refresh date.
    pub refresh_date: Option<NaiveDate>,
    /// The report date; the first one when there are several.
    pub report_date: Option<NaiveDate>,
    /// How many rows, days or slots it is about.
    pub count: i64,
}

/// Recomputes from the facts everything that can be, for every tenant and report. May take minutes on a large store.
pub async fn verify(pool: &PgPool) -> Result<Verdict, sqlx::Error> {
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query!("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    let mut verdict = Verdict::default();
    for &report in REPORTS {
        for tenant_id in facts::tenants(&mut tx, report).await? {
            let scope = Scope { tenant_id, report };
            let broken = verdict.violations.len();
            facts::check_ledger(&mut tx, scope, &mut verdict).await?;
            facts::check_current(&mut tx, scope, &mut verdict).await?;
            facts::check_revisions(&mut tx, scope, &mut verdict).await?;
            // What follows from damaged facts is no finding of its own.
            if verdict.violations.len() == broken {
                facts::check_derived(&mut tx, scope, &mut verdict).await?;
            }
        }
    }
    work::check_newest_refreshes(&mut tx, &mut verdict).await?;
    work::check_unnamed_tenants(&mut tx, &mut verdict).await?;
    work::note_abandoned_slots(&mut tx, &mut verdict).await?;
    work::note_gaps(&mut tx, &mut verdict).await?;
    work::note_forgotten_slots(&mut tx, &mut verdict).await?;
    tx.rollback().await?;
    Ok(verdict)
}
