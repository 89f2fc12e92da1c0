//! What can be asked over HTTP: probes, metrics, the status as JSON and as pages. Only reads, and holds no secret; yet it
//! tells names of tenants and their numbers of users, so it belongs on loopback or a private network, or behind a password.

mod auth;
mod chart;
mod data;
mod download;
mod health;
mod page;
pub mod probe;
mod routes;
mod site;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::{net::TcpListener, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use auth::Guard;
pub use health::Health;

use crate::{clock::Clock, store::status::TargetStatus, telemetry::metrics::Metrics};

/// How long open connections may hold up the end of the server.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How often histograms are summed up, and the targets read, when nobody asks.
const UPKEEP: Duration = Duration::from_mins(1);

/// When each target is due next: written by the scheduler, shown to people. Clones share one map.
#[derive(Debug, Clone, Default)]
pub struct NextDue(Arc<RwLock<Known>>);

/// By tenant, report and period in days.
type Known = HashMap<(Uuid, &'static str, i16), DateTime<Utc>>;

impl NextDue {
    /// A target is due at `at`.
    pub fn set(&self, tenant: Uuid, report: &'static str, period_days: i16, at: DateTime<Utc>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert((tenant, report, period_days), at);
    }

    /// Forgets what was known and takes over `all`.
    pub fn replace(&self, all: impl IntoIterator<Item = ((Uuid, &'static str, i16), DateTime<Utc>)>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all.into_iter().collect();
    }

    /// When a target is due, if the scheduler has said so.
    pub fn get(&self, tenant: Uuid, report: &str, period_days: i16) -> Option<DateTime<Utc>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&(tenant, report, period_days)).copied()
    }

    /// An open slot's next try, otherwise what the schedule says.
    fn of(&self, target: &TargetStatus) -> Option<DateTime<Utc>> {
        target.next_try_at.or_else(|| self.get(target.tenant_id, &target.report, target.report_period))
    }
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Where the ledger is.
    pub pool: PgPool,
    /// What time it is, for "3 hours ago".
    pub clock: Clock,
    /// What the probes answer.
    pub health: Arc<Health>,
    /// What has been counted.
    pub metrics: Metrics,
    /// When targets are due.
    pub next_due: NextDue,
    /// Cancelled when the program is about to stop: it is then no longer ready.
    pub draining: CancellationToken,
    guard: Arc<Guard>,
    data: Arc<data::Data>,
}

impl AppState {
    /// `draining` is the soft token of the lifecycle.
    pub fn new(pool: PgPool, clock: Clock, health: Arc<Health>, metrics: Metrics, draining: CancellationToken) -> Self {
        let (next_due, guard, data) = (NextDue::default(), Arc::default(), Arc::default());
        Self { pool, clock, health, metrics, next_due, draining, guard, data }
    }

    /// Lets in only whom `guard` does; without it, everybody.
    #[must_use]
    pub fn guarded(self, guard: Guard) -> Self {
        Self { guard: Arc::new(guard), ..self }
    }
}

/// Answers requests until `stop` is cancelled. That should be the hard token, or come after the last work is done: during
/// a soft stop the probes still have something to say.
pub async fn serve(listener: TcpListener, state: AppState, stop: CancellationToken) -> io::Result<()> {
    let kept = state.clone();
    let server = axum::serve(listener, routes::router(state)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let upkeep = async {
        let mut minute = tokio::time::interval(UPKEEP);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            minute.tick().await;
            kept.metrics.upkeep();
            // So that the first look at very many targets does not wait for all of them to be read.
            if kept.health.started().is_ok() {
                kept.data.targets(&kept.pool).await;
            }
        }
    };
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        ended = server => ended,
        () = upkeep => Ok(()),
        () = too_long => Ok(()),
    }
}
