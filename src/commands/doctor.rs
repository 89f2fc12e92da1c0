//! `doctor`: is everything in place? Nothing is stored.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    SOME_FAILED,
    service::{Database, Sources},
};
use crate::{
    clock::Clock,
    config::{Settings, SignIn, Tenant},
    daemon::credentials::WARNING,
    graph::{Fetched, Graph, Trace, credential_end},
    outcome::ErrorClass,
    report::{Period, parse},
    store::{self, SchemaState},
};

/// More tenants than this are not signed in one by one.
const MOST_TENANTS: usize = 20;

/// Good, bad, or good with a warning: then there is advice.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    ok: bool,
    detail: String,
    error_class: Option<ErrorClass>,
    advice: Option<&'static str>,
}

impl Check {
    fn good(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), ok: true, detail: detail.into(), error_class: None, advice: None }
    }

    fn warning(what: impl Into<String>, detail: impl Into<String>, advice: &'static str) -> Self {
        Self { advice: Some(advice), ..Self::good(what, detail) }
    }

    fn bad(what: impl Into<String>, class: ErrorClass, detail: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok: false,
            detail: detail.into(),
            error_class: Some(class),
            advice: Some(class.advice()),
        }
    }
}

/// Checks the way from the settings to the tables, and says what to do where it is blocked.
pub async fn doctor(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let sources = Sources::new(settings)?;
    let graph = Graph::new(&settings.graph, Clock::System)?;
    let mut checks = vec![Check::good(
        "configuration",
        format!("complete; tenants: {}, targets: {}", sources.tenants.len(), sources.targets.len()),
    )];
    checks.extend(database(settings).await);
    let now = Clock::System.now();
    for tenant in sources.tenants.iter().take(MOST_TENANTS) {
        let credential = credential(tenant, now);
        // One that cannot be used is not sent; the day somebody wrote down may only be out of date.
        let is_sent = credential.ok || matches!(tenant.sign_in, SignIn::ClientSecret { .. });
        checks.push(credential);
        if is_sent {
            checks.push(access(&graph, &sources, tenant).await);
        }
    }
    let others = sources.tenants.iter().skip(MOST_TENANTS).map(|tenant| credential(tenant, now));
    checks.extend(others.filter(|check| check.advice.is_some()));
    if sources.tenants.len() > MOST_TENANTS {
        checks.push(Check::good("other tenants", format!("only the first {MOST_TENANTS} were signed in")));
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "checks": checks }))?);
    } else {
        for check in &checks {
            let mark = match (check.ok, check.advice) {
                (false, _) => "FAIL",
                (true, Some(_)) => "warn",
                (true, None) => "ok  ",
            };
            println!("{mark} {}: {}", check.what, check.detail);
            if let Some(advice) = check.advice {
                println!("     -> {advice}");
            }
        }
    }
    Ok(if checks.iter().all(|check| check.ok) { ExitCode::SUCCESS } else { ExitCode::from(SOME_FAILED) })
}

async fn database(settings: &Settings) -> Vec<Check> {
    let database = match Database::open(settings).await {
        Ok(database) => database,
        Err(error) => return vec![Check::bad("database", ErrorClass::DbUnavailable, format!("{error:#}"))],
    };
    let state = store::schema_state(&database.url).await;
    let check = match state {
        Ok(SchemaState::Current { version }) => Check::good("database", format!("reachable, schema version {version}")),
        Ok(SchemaState::Behind { pending }) if settings.database.migrate => {
            Check::good("database", format!("reachable; {pending} migrations will be applied at the next start"))
        }
        Ok(SchemaState::Behind { pending }) => {
            Check::bad("database", ErrorClass::SchemaMismatch, format!("{pending} migrations are pending"))
        }
        Ok(SchemaState::TooNew { version, .. }) => Check::bad(
            "database",
            ErrorClass::SchemaMismatch,
            format!("schema version {version} is too new for this program"),
        ),
        Err(error) => Check::bad("database", error.class(), error.to_string()),
    };
    database.close().await;
    vec![check]
}

/// Whether a credential can be used, and for how long.
fn credential(tenant: &Tenant, now: DateTime<Utc>) -> Check {
    let name = format!("credential of {}", tenant.name);
    let end = match credential_end(tenant) {
        Err(error) => return Check::bad(name, error.class(), error.to_string()),
        Ok(end) => end,
    };
    match (end, &tenant.sign_in) {
        (None, SignIn::WorkloadIdentity(_)) => Check::good(name, "a token that somebody else renews"),
        (None, _) => Check::good(name, "nobody wrote down when the secret ends (client_secret_expires)"),
        (Some(end), _) if end <= now => {
            Check::bad(name, ErrorClass::AuthInvalidClient, format!("it ended on {}", end.date_naive()))
        }
        (Some(end), _) if end <= now + WARNING => Check::warning(
            name,
            format!("it ends on {}, in {} days", end.date_naive(), (end - now).num_days()),
            "renew it before sign-in fails: add the new one under Entra ID > App registrations > Certificates & secrets, \
             then replace the file",
        ),
        (Some(end), _) => Check::good(name, format!("good until {}", end.date_naive())),
    }
}

/// Signs in, asks for the first report's shortest period, and reads it.
async fn access(graph: &Graph, sources: &Sources, tenant: &Tenant) -> Check {
    let name = format!("tenant {}", tenant.name);
    let Some(report) = sources.reports.first() else { return Check::good(name, "no report is switched on") };
    let period = report.periods.last().copied().unwrap_or(Period::D7);
    let mut trace = Trace::new(Uuid::now_v7());
    match graph.fetch(tenant, &report.function, period, &mut trace).await {
        Err(error) => Check::bad(name, error.class(), error.to_string()),
        Ok(Fetched::NoData) => Check::good(name, "signed in and permitted; Microsoft has no rows for it yet"),
        Ok(Fetched::Body(body)) => match parse(report.definition, period, &body, Clock::System.now().date_naive()) {
            Err(rejection) => Check::bad(name, rejection.class, rejection.reason),
            Ok(None) => Check::good(name, "signed in and permitted; Microsoft has no rows for it yet"),
            Ok(Some(snapshot)) => Check::good(
                name,
                format!(
                    "signed in and permitted; {period} of {} reads well: {} days, refreshed {}",
                    report.definition.name,
                    snapshot.rows.len(),
                    snapshot.refresh_date
                ),
            ),
        },
    }
}
