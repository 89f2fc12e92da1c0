//! The endpoints.

use std::{sync::Arc, time::Duration};

use askama::Template;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::error;

use super::{AppState, data, page};
use crate::{
    report::Period,
    store::status::{AttemptLine, Gap, TargetStatus},
    telemetry::{scrub, targets},
};

/// No answer may take longer; a page waits for the database twice at the most.
const HANDLER_LIMIT: Duration = Duration::from_secs(8);

/// Requests have no body.
const BODY_LIMIT: usize = 1024;

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All endpoints. Other methods than GET and HEAD are answered with 405.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/status", get(status_json))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page\n") })
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
                next_due: next_due(&state, target),
                newest_refresh_date: target.newest_refresh_date,
            })
            .collect();
        text.push_str(&targets::render(&shown));
    }
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], text)
}

/// An open slot's next try, otherwise what the schedule says.
fn next_due(state: &AppState, target: &TargetStatus) -> Option<DateTime<Utc>> {
    target.next_try_at.or_else(|| state.next_due.get(target.tenant_id, &target.report, target.report_period))
}

async fn status_page(State(state): State<AppState>) -> Response {
    let now = state.clock.now();
    let page = match state.data.targets(&state.pool).await.fresh() {
        Some(targets) => {
            let tenant = targets.first().map(|target| target.tenant_id);
            let details = state.data.details(&state.pool, tenant).await.fresh();
            (StatusCode::OK, page::Page::new(&targets, details.as_deref(), &state.next_due, now))
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, page::Page::unreadable(now)),
    };
    match page.1.render() {
        Ok(html) => (page.0, Html(html)).into_response(),
        Err(fault) => {
            error!(error = &fault as &dyn std::error::Error, "the status page cannot be laid out");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be laid out\n").into_response()
        }
    }
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
    coverage_gaps: Vec<Gap>,
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
    let tenant = targets.first().map(|target| target.tenant_id);
    let Some(details) = state.data.details(&state.pool, tenant).await.fresh() else {
        return unreadable(version, as_of);
    };
    let details = Arc::unwrap_or_clone(details);
    let lines = targets.iter().map(|target| {
        let mut line = TargetLine { target: target.clone(), next_due_at: next_due(&state, target) };
        clean(&mut line.target.last_error_message);
        line
    });
    let mut recent_attempts = details.attempts;
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
        coverage_gaps: details.gaps,
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
