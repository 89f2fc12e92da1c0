//! `run`: the service.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::service::{Database, Sources, Staffed};
use crate::{
    clock::Clock,
    config::Settings,
    daemon::{
        credentials,
        lifecycle::{Ended, Lifecycle},
        scheduler::Upcoming,
        systemd,
    },
    graph::Graph,
    http::{self, AppState, Guard, Health, NextDue},
    ingest::Patience,
    outcome::ErrorClass,
    report::Target,
    store::{self, StoreError, targets},
    telemetry::metrics::{self, Metrics},
};

/// The longest pause between two looks for a database that is down.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Runs until told to stop.
pub async fn run(mut settings: Settings, no_migrate: bool) -> anyhow::Result<ExitCode> {
    settings.database.migrate &= !no_migrate;
    let sources = Sources::new(&settings)?;
    let clock = Clock::System;
    let graph = Graph::new(&settings.graph, clock.clone())?;
    let life = Lifecycle::install()?;
    let database = Database::open(&settings).await?;
    if let Some(server) = &database.local {
        tracing::info!("no database is configured, using the local one: {}", server.psql_hint());
    }
    let ended = serve(&settings, &sources, graph, &database, &clock, life).await;
    database.close().await;
    ended.map(ExitCode::from)
}

/// The service on an open database: pages and probes first, so that a database that is down is seen and not a restart
/// loop; then, once the schema fits, the work.
pub(super) async fn serve(
    settings: &Settings,
    sources: &Sources,
    graph: Graph,
    database: &Database,
    clock: &Clock,
    life: Lifecycle,
) -> anyhow::Result<Ended> {
    let health = Arc::new(Health::default());
    let pages = Pages::open(settings, database, clock, &health, &life).await?;
    let (soft, hard) = (life.soft(), life.hard());
    tokio::spawn(systemd::accompany(health.clone(), life.soft()));
    tokio::spawn(credentials::watch(sources.tenants.clone(), clock.clone(), life.soft()));
    let Some(version) = wait_for_schema(settings, sources, database, clock, &health, &soft).await? else {
        life.shutdown();
        return Ok(life.finished().await);
    };
    metrics::schema_version(version);
    health.schema_ok();
    let patience = Patience::new(&settings.schedule, None);
    let staff = Staffed::sign_on(settings, sources, graph, &database.pool, clock, patience, soft.clone()).await?;
    let scheduler = sources.scheduler(settings, &database.pool, clock);
    tracing::info!(
        tenants = sources.tenants.len(),
        targets = sources.targets.len(),
        listen = %settings.http.listen,
        version = env!("CARGO_PKG_VERSION"),
        "m365-ledger is running"
    );
    systemd::ready();
    let worker = staff.worker.clone();
    let next_due = pages.next_due.clone();
    life.spawn_vital("scheduler", async move {
        let looked = |upcoming: Option<&Upcoming>| {
            health.database_ok();
            if let Some(upcoming) = upcoming {
                let key = |target: &Target| (target.tenant_id, target.report.name, target.period.days());
                next_due.replace(upcoming.iter().map(|(target, at)| (key(target), *at)));
            }
        };
        match hard.run_until_cancelled(scheduler.run(&worker, &soft, || health.beat(), looked)).await {
            Some(Err(error)) => tracing::error!(error = %error, "the wake-up could not be set up"),
            Some(Ok(())) => {}
            None => tracing::warn!("work in flight was dropped; its slots are given back"),
        }
    });
    let ended = life.finished().await;
    staff.sign_off().await;
    pages.close().await;
    tracing::info!("m365-ledger has stopped");
    Ok(ended)
}

/// The HTTP server; it lives a little longer than the work.
struct Pages {
    next_due: NextDue,
    server: tokio::task::JoinHandle<()>,
}

impl Pages {
    async fn open(
        settings: &Settings,
        database: &Database,
        clock: &Clock,
        health: &Arc<Health>,
        life: &Lifecycle,
    ) -> anyhow::Result<Self> {
        let listen = settings.http.listen;
        let guard = Guard::new(&settings.http)?;
        if guard.is_open() && !listen.ip().is_loopback() {
            tracing::warn!(
                %listen,
                "whoever reaches this address can read names of tenants and their numbers of users: set http.password and \
                 http.token, or see to it that nobody else reaches it"
            );
        }
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (http.listen): is another m365-ledger running?"))?;
        let metrics = Metrics::install()?;
        let state =
            AppState::new(database.pool.clone(), clock.clone(), health.clone(), metrics, life.soft()).guarded(guard);
        let (next_due, stop) = (state.next_due.clone(), life.hard());
        let server = life.spawn_to_the_end("http", async move {
            if let Err(error) = http::serve(listener, state, stop).await {
                tracing::error!(error = %error, "the status page and the probes are gone");
            }
        });
        Ok(Self { next_due, server })
    }

    /// To be called when the work has ended, which also tells the server to.
    async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.server).await;
    }
}

/// Waits for Postgres as long as it takes. A schema that does not fit is not waited for. `None`: asked to stop.
async fn wait_for_schema(
    settings: &Settings,
    sources: &Sources,
    database: &Database,
    clock: &Clock,
    health: &Health,
    stop: &CancellationToken,
) -> Result<Option<i64>, StoreError> {
    let mut pause = Duration::from_secs(1);
    loop {
        health.beat();
        let ready = async {
            let version = store::ensure_current(&database.url, settings.database.migrate).await?;
            sources.register(&database.pool, clock).await?;
            warn_of_others(sources, &database.pool).await?;
            Ok(version)
        };
        match stop.run_until_cancelled(ready).await {
            None => return Ok(None),
            Some(Ok(version)) => return Ok(Some(version)),
            Some(Err(error)) if is_passing(&error) => {
                let class = error.class();
                tracing::warn!(error_class = %class, advice = class.advice(), "waiting for Postgres: {error}");
            }
            Some(Err(error)) => return Err(error),
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(None);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_passing(error: &StoreError) -> bool {
    !matches!(error, StoreError::Url(_) | StoreError::Schema(_))
        && !matches!(error.class(), ErrorClass::SchemaMismatch | ErrorClass::Internal)
}

/// Another service may fetch them. If none does, they will be reported as stale for ever, and somebody must say that they
/// are not expected any more: one service cannot know.
async fn warn_of_others(sources: &Sources, pool: &PgPool) -> Result<(), StoreError> {
    let others = targets::others_expected(pool, &sources.tenants).await?;
    if others > 0 {
        tracing::warn!(
            tenants = others,
            "the ledger expects tenants that are not in these settings: they become stale unless another service fetches \
             them; the runbook says under \"Pause\" how to expect them no more"
        );
    }
    Ok(())
}
