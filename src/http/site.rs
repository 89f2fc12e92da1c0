//! The pages and downloads.

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tracing::error;
use uuid::Uuid;

use super::{
    AppState, download,
    page::{Browse, ICON, Listing, Notice, Overview, Range, TenantPage},
};
use crate::store::status::TargetStatus;

/// What is asked for in the address of a tenant's page.
#[derive(Debug, Default, Deserialize)]
pub struct Look {
    #[serde(default)]
    days: Range,
}

/// All tenants, or the one there is.
pub async fn home(State(state): State<AppState>, Query(browse): Query<Browse>) -> Response {
    let now = state.clock.now();
    let reading = state.data.targets(&state.pool).await;
    let as_of = reading.as_of(now);
    let Some(targets) = reading.fresh() else { return unreadable(now) };
    if browse.is_plain()
        && let Some(only) = only_tenant(&targets)
    {
        return one(&state, only, Range::default(), true).await;
    }
    let listing = Listing::new(&targets, &browse);
    let shown: Vec<Uuid> = listing.shown(&browse).iter().map(|summary| summary.targets[0].tenant_id).collect();
    let glimpses = state.data.glimpses(&state.pool, &shown, now.date_naive()).await;
    let page = Overview::new(&listing, &browse, &glimpses, &state.next_due, (as_of, now));
    laid_out(StatusCode::OK, &page)
}

/// The list that the overview shows part of.
pub async fn tenants_csv(State(state): State<AppState>, Query(browse): Query<Browse>) -> Response {
    match state.data.targets(&state.pool).await.fresh() {
        Some(targets) => download::tenants(&Listing::new(&targets, &browse).found, &state.next_due),
        None => unreadable(state.clock.now()),
    }
}

/// One tenant.
pub async fn tenant(State(state): State<AppState>, Path(id): Path<String>, Query(look): Query<Look>) -> Response {
    match id.parse() {
        Ok(id) => one(&state, id, look.days, false).await,
        Err(_) => unknown(state.clock.now()),
    }
}

/// What the chart of one tenant shows.
pub async fn active_users_csv(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(look): Query<Look>,
) -> Response {
    let now = state.clock.now();
    let Ok(id) = id.parse() else { return unknown(now) };
    match state.data.days(&state.pool, id, look.days.days()).await {
        Some(Some((name, days))) => download::active_users(id, &name, &days, look.days),
        Some(None) => unknown(now),
        None => unreadable(now),
    }
}

/// The picture on the browser's tab.
pub async fn icon() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "image/svg+xml")], ICON)
}

async fn one(state: &AppState, id: Uuid, range: Range, alone: bool) -> Response {
    let now = state.clock.now();
    match state.data.tenant(&state.pool, id, range.days()).await {
        Some(Some(data)) => laid_out(StatusCode::OK, &TenantPage::new(id, &data, range, alone, &state.next_due, now)),
        Some(None) => unknown(now),
        None => unreadable(now),
    }
}

fn only_tenant(targets: &[TargetStatus]) -> Option<Uuid> {
    let first = targets.first()?.tenant_id;
    targets.iter().all(|target| target.tenant_id == first).then_some(first)
}

fn unknown(now: DateTime<Utc>) -> Response {
    laid_out(StatusCode::NOT_FOUND, &Notice::unknown_tenant(now))
}

fn unreadable(now: DateTime<Utc>) -> Response {
    laid_out(StatusCode::SERVICE_UNAVAILABLE, &Notice::unreadable(now))
}

fn laid_out(code: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (code, Html(html)).into_response(),
        Err(fault) => {
            error!(error = &fault as &dyn std::error::Error, "the page cannot be laid out");
            (StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be laid out\n").into_response()
        }
    }
}
