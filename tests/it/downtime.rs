//! What comes after a time in which nothing ran. In this process, under a clock that the test moves.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use graph_sim::{Config, Host, Period, Sim, TENANT_ID};
use m365_ledger::{
    clock::Clock,
    config::{Settings, load_from},
    daemon::{scheduler::Scheduler, worker::Worker},
    graph::Graph,
    ingest::{Ingest, Patience},
    plan::Timetable,
    report::Target,
    store::{
        self, Committer,
        targets::{self, Wanted},
    },
};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::support::{ALL_ROWS, Served, TestDb};

/// The service without its pages and wake-ups.
struct Simulation {
    sim: Sim,
    db: TestDb,
    clock: Clock,
    scheduler: Scheduler,
    worker: Arc<Worker>,
    begin: DateTime<Utc>,
    // What was served, as of each look.
    served: Served,
}

impl Simulation {
    async fn begin() -> Self {
        // Somebody else may have chosen a provider: any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let begin: DateTime<Utc> = "2026-01-15T09:00:00Z".parse().expect("a time");
        let refresh = (begin - TimeDelta::days(2)).date_naive();
        let sim = Sim::start(Config::one_tenant().without_throttle().refresh_date(refresh)).expect("it starts");
        let db = TestDb::create().await;
        let clock = Clock::simulated(begin);
        let settings = settings(&sim);
        let url = SecretString::from(db.url.clone());
        let pool = store::connect(&url, &settings.database).expect("a pool");
        store::ensure_current(&url, true).await.expect("the schema");
        let (scheduler, worker) = staff(&settings, &pool, &clock).await;
        Self { sim, db, clock, scheduler, worker, begin, served: Served::default() }
    }

    async fn look(&mut self) {
        self.scheduler.catch_up(&self.worker).await.expect("the database is there");
        self.served.note(&self.sim, TENANT_ID, &Period::ALL);
        self.served.assert_stored(&self.db, TENANT_ID).await;
    }

    fn pass(&self, days: i64) {
        self.clock.advance(TimeDelta::days(days));
        self.sim.advance_days(days);
    }

    /// By period: how many slots there are, and the largest number of missed instants.
    async fn slots_since(&self, at: DateTime<Utc>) -> BTreeMap<i16, (i64, i32)> {
        let rows: Vec<(i16, i64, i32)> = sqlx::query_as(
            "SELECT report_period, count(*), max(missed) FROM m365_store.slot
             WHERE due_at > $1 AND outcome IN ('stored', 'unchanged') GROUP BY report_period",
        )
        .bind(at)
        .fetch_all(&self.db.pool)
        .await
        .expect("slots can be read");
        rows.into_iter().map(|(period, slots, missed)| (period, (slots, missed))).collect()
    }

    async fn gaps(&self) -> Vec<(NaiveDate, NaiveDate, i32)> {
        sqlx::query_as("SELECT gap_start, gap_end, days FROM m365_v1.coverage_gaps WHERE tenant_id = $1")
            .bind(TENANT_ID.to_string())
            .fetch_all(&self.db.pool)
            .await
            .expect("the view can be read")
    }

    async fn assert_sound(&self) {
        let verdict = store::verify::verify(&self.db.pool).await.expect("it can be verified");
        assert!(verdict.is_sound(), "{:?}", verdict.violations);
    }
}

fn settings(sim: &Sim) -> Settings {
    let variables = [
        ("GRAPH__BASE_URL", sim.graph_url()),
        ("GRAPH__LOGIN_URL", sim.login_url()),
        ("GRAPH__DOWNLOAD_HOSTS", "127.0.0.1".to_owned()),
        ("GRAPH__ALLOW_INSECURE_LOOPBACK", "true".to_owned()),
        ("TENANT__ID", TENANT_ID.to_string()),
        ("TENANT__CLIENT_ID", graph_sim::CLIENT_ID.to_owned()),
        ("TENANT__CLIENT_SECRET", graph_sim::CLIENT_SECRET.to_owned()),
    ];
    let variables = variables.into_iter().map(|(name, value)| (format!("M365_LEDGER__{name}"), value)).collect();
    load_from(None, variables).expect("settings").settings
}

async fn staff(settings: &Settings, pool: &PgPool, clock: &Clock) -> (Scheduler, Arc<Worker>) {
    let tenants = settings.tenants().expect("one tenant");
    let reports = settings.reports().expect("one report");
    let targets: Vec<Target> = reports
        .iter()
        .flat_map(|report| {
            report.periods.iter().map(|&period| Target { tenant_id: TENANT_ID, report: report.definition, period })
        })
        .collect();
    let timetable = Timetable::new(&settings.schedule).expect("the default schedule");
    let wanted: Vec<Wanted> = targets.iter().map(|&target| Wanted { target, interval_seconds: 6 * 3_600 }).collect();
    targets::register_tenants(pool, &tenants, "global", clock.now()).await.expect("registered");
    targets::register_targets(pool, &wanted).await.expect("registered");

    let graph = Graph::new(&settings.graph, clock.clone()).expect("the stand-in's hosts are allowed");
    let (committer, _) = Committer::start(pool, clock);
    let patience = Patience::new(&settings.schedule, None);
    let ingest = Ingest::new(graph, committer, clock.clone(), tenants, &reports, patience);
    let worker = Worker::new(pool.clone(), ingest, clock.clone(), settings.schedule.lease, 4, CancellationToken::new());
    worker.sign_on().await.expect("signed on");
    let scheduler = Scheduler {
        pool: pool.clone(),
        clock: clock.clone(),
        timetable,
        targets,
        calls_per_10_minutes: settings.graph.calls_per_10_minutes.get(),
        retention: settings.retention.clone(),
    };
    (scheduler, Arc::new(worker))
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_days_are_caught_up_in_one_pass() {
    let mut simulation = Simulation::begin().await;
    simulation.look().await;
    let first = simulation.sim.refresh_date();
    simulation.sim.clear_log();

    simulation.pass(8);
    simulation.look().await;
    let expected: BTreeMap<i16, (i64, i32)> = [7, 30, 90, 180].map(|period| (period, (1, 31))).into();
    assert_eq!(simulation.slots_since(simulation.begin).await, expected);
    assert_eq!(simulation.sim.calls(Host::Graph), 4, "one call for each period");
    assert_eq!(simulation.gaps().await, []);
    let dates: Vec<NaiveDate> = simulation.db.current(TENANT_ID).await.into_keys().collect();
    let all: Vec<NaiveDate> = (first - Days::new(179)).iter_days().take(180 + 8).collect();
    assert_eq!(dates, all);
    assert_eq!(simulation.db.sizes().await[0], 2 * i64::try_from(ALL_ROWS).expect("small"));

    // Looking once more, at the same moment, finds nothing to do.
    simulation.look().await;
    assert_eq!(simulation.sim.calls(Host::Graph), 4);
    simulation.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_seventy_days_leave_no_gap() {
    let mut simulation = Simulation::begin().await;
    simulation.look().await;
    simulation.pass(170);
    simulation.look().await;
    assert_eq!(simulation.gaps().await, []);
    assert_eq!(simulation.db.sizes().await[1], 350);
    simulation.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_hundred_days_the_gap_is_named_to_the_day() {
    let mut simulation = Simulation::begin().await;
    simulation.look().await;
    let first = simulation.sim.refresh_date();
    simulation.pass(200);
    simulation.look().await;
    assert_eq!(simulation.gaps().await, [(first + Days::new(1), first + Days::new(20), 20)]);
    assert_eq!(simulation.db.sizes().await[1], 360);
    simulation.assert_sound().await;
    // Life goes on, and the hole stays a hole.
    simulation.pass(1);
    simulation.look().await;
    assert_eq!(simulation.gaps().await.len(), 1);
    assert_eq!(simulation.db.sizes().await[1], 361);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_days_of_looks_lose_nothing_and_double_nothing() {
    let mut simulation = Simulation::begin().await;
    for day in 0..60 {
        // Every eleventh day the look comes after two days, and every seventh with other numbers.
        simulation.pass(if day % 11 == 10 { 2 } else { 1 });
        if day % 7 == 6 {
            simulation.look().await;
            simulation.sim.reissue(TENANT_ID);
            simulation.clock.advance(TimeDelta::hours(6));
        }
        simulation.scheduler.catch_up(&simulation.worker).await.expect("the database is there");
        simulation.served.note(&simulation.sim, TENANT_ID, &Period::ALL);
    }
    simulation.served.assert_stored(&simulation.db, TENANT_ID).await;
    assert_eq!(simulation.gaps().await, []);
    assert_eq!(simulation.db.count("SELECT count(*) FROM m365_store.slot WHERE outcome IS NULL").await, 0);
    simulation.assert_sound().await;
}
