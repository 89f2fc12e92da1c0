//! What most commands need: the database, and what is to be fetched.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    cli::OnceArgs,
    clock::Clock,
    config::{ConfigError, Report, Settings, Tenant},
    daemon::{scheduler::Scheduler, worker::Worker},
    graph::Graph,
    ingest::{Ingest, Patience},
    plan::Timetable,
    report::{Period, Target},
    store::{
        self, Committer, StoreError,
        local::{LocalServer, Options},
        targets::{self, Wanted},
    },
};

/// How long the last group may take to be written at the end.
const LAST_COMMIT: Duration = Duration::from_secs(3);

/// The database: the configured one, or a server of our own.
pub struct Database {
    /// Connections.
    pub pool: PgPool,
    /// Where it is.
    pub url: SecretString,
    /// The server, if it is our own.
    pub local: Option<LocalServer>,
}

impl Database {
    /// Starts our own server if no database is configured. Nothing is connected yet.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let (url, local) = if let Some(url) = settings.database.url()? {
            let url = url.read().map_err(|cause| ConfigError::Secret { setting: "database.url".to_owned(), cause })?;
            (url, None)
        } else {
            let server = LocalServer::start(&settings.database.data_dir, Options::default()).await?;
            (server.url(), Some(server))
        };
        let pool = store::connect(&url, &settings.database)?;
        Ok(Self { pool, url, local })
    }

    /// Whether a command that only reads may bring the schema up to date: in a server of our own nobody else would, and a
    /// new one has none yet.
    pub const fn may_migrate(&self, settings: &Settings) -> bool {
        self.local.is_some() && settings.database.migrate
    }

    /// Closes the connections, and stops the server if it is our own.
    pub async fn close(self) {
        let _ = tokio::time::timeout(LAST_COMMIT, self.pool.close()).await;
        if let Some(server) = self.local
            && let Err(error) = server.stop().await
        {
            tracing::warn!(error = %error, "the local PostgreSQL could not be stopped");
        }
    }
}

/// What is configured to be fetched, and when.
pub struct Sources {
    /// The tenants.
    pub tenants: Vec<Tenant>,
    /// The reports.
    pub reports: Vec<Report>,
    /// Every tenant x report x period.
    pub targets: Vec<Target>,
    /// The schedules.
    pub timetable: Timetable,
    cloud: &'static str,
}

impl Sources {
    /// Reads them from the settings; there must be something to fetch.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let tenants = settings.tenants()?;
        let reports = settings.reports()?;
        let targets: Vec<Target> = tenants
            .iter()
            .flat_map(|tenant| {
                reports.iter().flat_map(|report| {
                    report.periods.iter().map(|&period| Target {
                        tenant_id: tenant.id,
                        report: report.definition,
                        period,
                    })
                })
            })
            .collect();
        if tenants.is_empty() {
            let cure = "no tenant is configured: set tenant.id, tenant.client_id and a credential, for example as \
                        M365_LEDGER__TENANT__ID, M365_LEDGER__TENANT__CLIENT_ID and M365_LEDGER__TENANT__CERTIFICATE_FILE \
                        or M365_LEDGER__TENANT__CLIENT_SECRET_FILE; \
                        `m365-ledger demo` needs none";
            return Err(ConfigError::Invalid(cure.to_owned()).into());
        }
        if targets.is_empty() {
            return Err(ConfigError::Invalid("every report is switched off (reports.<name>.enabled)".to_owned()).into());
        }
        let timetable = Timetable::new(&settings.schedule)?;
        Ok(Self { tenants, reports, targets, timetable, cloud: settings.graph.cloud.as_str() })
    }

    /// The targets that flags ask for.
    pub fn narrowed(&self, args: &OnceArgs) -> anyhow::Result<Vec<Target>> {
        let named = |tenant: &Tenant, name: &String| {
            tenant.name.eq_ignore_ascii_case(name) || tenant.id.to_string().eq_ignore_ascii_case(name)
        };
        for name in &args.tenant {
            let known = self.tenants.iter().any(|tenant| named(tenant, name));
            let some = self.tenants.iter().take(10).map(|tenant| tenant.name.as_str()).collect::<Vec<_>>().join(", ");
            let unknown = format!("--tenant {name}: no such tenant is configured; there are {some}");
            anyhow::ensure!(known, ConfigError::Invalid(unknown));
        }
        for name in &args.report {
            let known = self.reports.iter().any(|report| report.definition.name == name);
            anyhow::ensure!(
                known,
                ConfigError::Invalid(format!(
                    "--report {name}: no such report is switched on (reports.<name>.enabled)"
                ))
            );
        }
        for period in &args.period {
            let known = self.targets.iter().any(|target| target.period == *period);
            anyhow::ensure!(known, ConfigError::Invalid(format!("--period {period}: no report is configured for it")));
        }
        let wanted: Vec<Uuid> = self
            .tenants
            .iter()
            .filter(|tenant| args.tenant.is_empty() || args.tenant.iter().any(|name| named(tenant, name)))
            .map(|tenant| tenant.id)
            .collect();
        let targets: Vec<Target> = self
            .targets
            .iter()
            .filter(|target| wanted.contains(&target.tenant_id))
            .filter(|target| args.report.is_empty() || args.report.iter().any(|name| name == target.report.name))
            .filter(|target| args.period.is_empty() || args.period.contains(&target.period))
            .copied()
            .collect();
        anyhow::ensure!(
            !targets.is_empty(),
            ConfigError::Invalid("nothing is left to fetch: the periods asked for are not configured".to_owned())
        );
        Ok(targets)
    }

    /// The daemon's loop over these targets.
    pub fn scheduler(&self, settings: &Settings, pool: &PgPool, clock: &Clock) -> Scheduler {
        Scheduler {
            pool: pool.clone(),
            clock: clock.clone(),
            timetable: self.timetable.clone(),
            targets: self.targets.clone(),
            calls_per_10_minutes: settings.graph.calls_per_10_minutes.get(),
            retention: settings.retention.clone(),
        }
    }

    /// Writes tenants and targets down.
    pub async fn register(&self, pool: &PgPool, clock: &Clock) -> Result<(), StoreError> {
        let now = clock.now();
        // Walks a year of instants: once for each period, not for each of thousands of targets.
        let intervals = Period::LONGEST_FIRST.map(|period| {
            let seconds = self.timetable.interval(period, now).num_seconds();
            (period, i32::try_from(seconds).unwrap_or(i32::MAX))
        });
        let intervals = HashMap::from(intervals);
        let wanted: Vec<Wanted> =
            self.targets.iter().map(|&target| Wanted { target, interval_seconds: intervals[&target.period] }).collect();
        targets::register_program(pool, now).await?;
        targets::register_tenants(pool, &self.tenants, self.cloud, now).await?;
        targets::register_targets(pool, &wanted).await
    }
}

/// A worker with its lease kept alive and its committer running.
pub struct Staffed {
    /// The worker.
    pub worker: Arc<Worker>,
    committer: JoinHandle<()>,
    lease: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Staffed {
    /// Signs a worker on.
    pub async fn sign_on(
        settings: &Settings,
        sources: &Sources,
        graph: Graph,
        pool: &PgPool,
        clock: &Clock,
        patience: Patience,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let (committer, task) = Committer::start(pool, clock);
        let ingest = Ingest::new(graph, committer, clock.clone(), sources.tenants.clone(), &sources.reports, patience);
        let parallel = settings.graph.parallel_tenants.get();
        let worker = Worker::new(pool.clone(), ingest, clock.clone(), settings.schedule.lease, parallel, stop);
        let worker = Arc::new(worker);
        worker.sign_on().await.context("signing on")?;
        let lease = CancellationToken::new();
        let keeper = tokio::spawn({
            let (worker, end) = (worker.clone(), lease.clone());
            async move { worker.keep_alive(end).await }
        });
        Ok(Self { worker, committer: task, lease, keeper })
    }

    /// Signs off: claims are given back, and what was handed to the committer is written.
    pub async fn sign_off(self) {
        self.lease.cancel();
        let _ = self.keeper.await;
        if let Err(error) = self.worker.sign_off().await {
            tracing::warn!(error = %error, "could not sign off; claims end with their lease");
        }
        // The committer ends when nobody can hand it anything any more.
        drop(self.worker);
        let _ = tokio::time::timeout(LAST_COMMIT, self.committer).await;
    }
}
