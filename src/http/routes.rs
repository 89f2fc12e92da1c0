//! The endpoints.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{AppState, auth, data, page, site};
use crate::{
    report::Period,
    store::status::{AttemptLine, Gap, TargetStatus},
    telemetry::{scrub, targets},
};

/// No answer may take longer.
const HANDLER_LIMIT: Duration = Duration::from_secs(9);

/// Requests have no body.
const BODY_LIMIT: usize = 1024;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The longest list of gaps in `/status`.
const MOST_GAPS: usize = 1_000;

/// All endpoints. Other methods than GET and HEAD are answered with 405. The probes are open to everybody: they tell
/// nothing of what is held, and what asks them has no secrets.
pub fn router(state: AppState) -> Router {
    let probes =
        Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/startupz", get(startupz));
    Router::new()
        .route("/", get(site::home))
        .route("/tenants.csv", get(site::tenants_csv))
        .route("/tenants/{id}", get(site::tenant))
        .route("/tenants/{id}/active-users.csv", get(site::active_users_csv))
        .route("/icon.svg", get(site::icon))
        .route("/status", get(status_json))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page\n") })
        .layer(middleware::from_fn_with_state(state.clone(), auth::let_in))
        .merge(probes)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(guard))
        .with_state(state)
}

/// A deadline for every answer, and headers that keep browsers from doing more than showing it.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(HANDLER_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "this took too long\n").into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&page::CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn livez(State(state): State<AppState>) -> (StatusCode, String) {
    probe(state.health.live(), "alive")
}

async fn startupz(State(state): State<AppState>) -> (StatusCode, String) {
    probe(state.health.started(), "started")
}

async fn readyz(State(state): State<AppState>) -> (StatusCode, String) {
    if state.draining.is_cancelled() {
        return probe(Err("stopping"), "");
    }
    if state.health.started().is_ok() && state.health.database_unsure() && data::ping(&state.pool).await {
        state.health.database_ok();
    }
    probe(state.health.ready(), "ready")
}

fn probe(health: Result<(), &'static str>, well: &'static str) -> (StatusCode, String) {
    match health {
        Ok(()) => (StatusCode::OK, format!("{well}\n")),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// What this process counted, and how every target stands. While Postgres is away the targets are as they were last
/// known: they are timestamps, and those do not age.
async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    let reading = state.data.targets(&state.pool).await;
    let mut text = state.metrics.render();
    if let Some(known) = reading.last_known {
        let names: Vec<_> = known
            .iter()
            .map(|target| {
                let period = Period::from_days(target.report_period)
                    .map_or_else(|| target.report_period.to_string(), |period| period.to_string());
                (target.tenant_id.to_string(), period)
            })
            .collect();
        let shown: Vec<_> = known
            .iter()
            .zip(&names)
            .map(|(target, (tenant, period))| targets::Target {
                tenant,
                report: &target.report,
                period,
                state: &target.state,
                last_success: target.last_success_at,
                last_attempt: target.last_attempt_at,
                next_due: state.next_due.of(target),
                newest_refresh_date: target.newest_refresh_date,
            })
            .collect();
        text.push_str(&targets::render(&shown));
    }
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text)
}

/// What `/status` answers.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    as_of: DateTime<Utc>,
    live: bool,
    ready: bool,
    draining: bool,
    targets: Vec<TargetLine>,
    recent_attempts: Vec<AttemptLine>,
    /// The first thousand; null when it took too long to find them.
    coverage_gaps: Option<Vec<Gap>>,
    /// How many there are.
    coverage_gaps_total: Option<usize>,
}

#[derive(Debug, Serialize)]
struct TargetLine {
    #[serde(flatten)]
    target: TargetStatus,
    next_due_at: Option<DateTime<Utc>>,
}

/// What is answered when the ledger cannot be read.
#[derive(Debug, Serialize)]
struct Unreadable {
    version: &'static str,
    as_of: DateTime<Utc>,
    error: &'static str,
}

async fn status_json(State(state): State<AppState>) -> Response {
    let (version, as_of) = (env!("CARGO_PKG_VERSION"), state.clock.now());
    let Some(targets) = state.data.targets(&state.pool).await.fresh() else {
        return unreadable(version, as_of);
    };
    let Some(recent) = state.data.recent(&state.pool).await.fresh() else {
        return unreadable(version, as_of);
    };
    let lines = targets.iter().map(|target| {
        let mut line = TargetLine { target: target.clone(), next_due_at: state.next_due.of(target) };
        clean(&mut line.target.last_error_message);
        line
    });
    let mut recent_attempts = recent.attempts.clone();
    for attempt in &mut recent_attempts {
        clean(&mut attempt.error_message);
    }
    let draining = state.draining.is_cancelled();
    Json(Status {
        version,
        as_of,
        live: state.health.live().is_ok(),
        ready: !draining && state.health.ready().is_ok(),
        draining,
        targets: lines.collect(),
        recent_attempts,
        coverage_gaps: recent.gaps.as_ref().map(|gaps| gaps.iter().take(MOST_GAPS).cloned().collect()),
        coverage_gaps_total: recent.gaps.as_ref().map(Vec::len),
    })
    .into_response()
}

fn clean(message: &mut Option<String>) {
    if let Some(text) = message {
        *text = scrub(text).into_owned();
    }
}

fn unreadable(version: &'static str, as_of: DateTime<Utc>) -> Response {
    let body = Json(Unreadable { version, as_of, error: "the database does not answer" });
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
