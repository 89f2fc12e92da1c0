//! Starting, waiting, stopping, and a database that is away, read-only or of another version.

use std::time::Duration;

use graph_sim::{Fault, FaultKind, Host, Period, Sim};
use nix::sys::signal::Signal;

use crate::rig::{
    Daemon, OwnServer, PATIENCE, Setup, TestDb, assert_complete, assert_verified, column, count, eventually, sim,
    statement,
};

/// What Docker and Kubernetes leave a program, with room to spare.
const STOP_LIMIT: Duration = Duration::from_secs(25);
/// With nothing in flight.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// After a fault has ended, work begins again within a minute.
const RECOVERY_LIMIT: Duration = Duration::from_mins(1);
/// Due every other second.
const OFTEN: &str = "*/2 * * * * *";

async fn snapshots(db: &TestDb) -> i64 {
    count(&db.pool, "SELECT count(*) FROM m365_store.snapshot").await
}

/// Waits until the first pass is written.
async fn first_pass(daemon: &Daemon, db: &TestDb) {
    daemon.answers("/readyz", 200, PATIENCE).await;
    eventually("a pass", PATIENCE, async || (snapshots(db).await == 4).then_some(())).await;
}

/// Waits until a host was asked for something.
async fn asked(sim: &Sim, host: Host) {
    let what = format!("a request to {host:?}");
    eventually(&what, PATIENCE, async || (sim.calls(host) > 0).then_some(())).await;
}

async fn open_claims(db: &TestDb) -> i64 {
    count(&db.pool, "SELECT count(*) FROM m365_store.slot WHERE outcome IS NULL AND worker_id IS NOT NULL").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_it_stops_at_once() {
    let db = TestDb::new("idle").await;
    let sim = sim();
    let setup = Setup::new(&db.url, &sim);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = setup.daemon();
        first_pass(&daemon, &db).await;
        daemon.signal(signal);
        let (code, took) = daemon.ended(IDLE_LIMIT).await;
        assert_eq!(code, Some(0), "{signal} {took:?}: {}", daemon.output());
    }
    assert_eq!(count(&db.pool, "SELECT count(*) FROM m365_store.worker").await, 0, "it signs off");
    assert_complete(&db.pool, &sim, &[sim.config().tenants[0].id], &Period::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_finished_or_dropped_in_time() {
    let db = TestDb::new("inflight").await;
    let sim = sim();
    let setup = Setup::new(&db.url, &sim);

    // Slow: finished, and nothing more begun.
    sim.inject(Fault::always(Host::Download, FaultKind::Delay(Duration::from_secs(2))));
    let mut daemon = setup.daemon();
    asked(&sim, Host::Download).await;
    daemon.signal(Signal::SIGTERM);
    daemon.answers("/readyz", 503, IDLE_LIMIT).await;
    let (code, _) = daemon.ended(STOP_LIMIT).await;
    assert_eq!((code, snapshots(&db).await), (Some(0), 1), "{}", daemon.output());
    assert_eq!(open_claims(&db).await, 0, "claims are given back");

    // Hanging: dropped when the grace is over.
    sim.clear_faults();
    sim.inject(Fault::always(Host::Download, FaultKind::Hang));
    sim.clear_log();
    let mut daemon = setup.daemon();
    asked(&sim, Host::Download).await;
    daemon.signal(Signal::SIGTERM);
    let (code, took) = daemon.ended(STOP_LIMIT).await;
    assert_eq!(code, Some(0), "{took:?}: {}", daemon.output());
    assert_eq!(open_claims(&db).await, 0, "claims are given back");

    sim.clear_faults();
    let mut daemon = setup.daemon();
    first_pass(&daemon, &db).await;
    daemon.stop().await;
    assert_complete(&db.pool, &sim, &[sim.config().tenants[0].id], &Period::ALL).await;
    assert_verified(&setup, "after two stops").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_the_next_try_does_not_hold_the_stop() {
    let db = TestDb::new("backoff").await;
    let sim = sim();
    sim.inject(Fault::always(Host::Graph, FaultKind::unavailable()));
    let setup = Setup::new(&db.url, &sim).set("SCHEDULE__BACKOFF", "60s");
    let mut daemon = setup.daemon();
    daemon.answers("/readyz", 200, PATIENCE).await;
    let tried = "SELECT count(*) FROM m365_store.attempt WHERE error_class = 'graph_5xx'";
    eventually("all tried", PATIENCE, async || (count(&db.pool, tried).await == 4).then_some(())).await;
    daemon.signal(Signal::SIGTERM);
    let (code, _) = daemon.ended(IDLE_LIMIT).await;
    assert_eq!(code, Some(0), "{}", daemon.output());

    // `once` waits too, and is a person's: it says what it did not do.
    let mut once = setup.command(&["once", "--json"]).spawn().expect("it starts");
    eventually("all tried again", PATIENCE, async || (count(&db.pool, tried).await == 8).then_some(())).await;
    let pid = i32::try_from(once.id().expect("it runs")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    let status = tokio::time::timeout(IDLE_LIMIT, once.wait()).await.expect("it ends").expect("a status");
    assert!(matches!(status.code(), Some(1 | 69)), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let sim = sim();
    sim.inject(Fault::always(Host::Graph, FaultKind::Hang));
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let db = TestDb::new("second").await;
        let mut daemon = Setup::new(&db.url, &sim).daemon();
        sim.clear_log();
        asked(&sim, Host::Graph).await;
        daemon.signal(Signal::SIGTERM);
        eventually("the stop has begun", IDLE_LIMIT, async || daemon.output().contains("stopping").then_some(())).await;
        daemon.signal(signal);
        let (ended, took) = daemon.ended(IDLE_LIMIT).await;
        assert_eq!(ended, Some(code), "{took:?}: {}", daemon.output());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_a_database_that_is_not_there_yet() {
    let mut server = OwnServer::start().await;
    let sim = sim();
    let setup = Setup::new(&server.url, &sim);
    server.down().await;

    let mut daemon = setup.daemon();
    daemon.answers("/livez", 200, PATIENCE).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    daemon.answers("/livez", 200, IDLE_LIMIT).await;
    daemon.answers("/readyz", 503, IDLE_LIMIT).await;
    daemon.answers("/startupz", 503, IDLE_LIMIT).await;
    daemon.stop().await;
    setup.clone().set("DATABASE__CONNECT_TIMEOUT", "1s").run(&["once"]).await.ends(69);

    let mut daemon = setup.daemon();
    daemon.answers("/readyz", 503, PATIENCE).await;
    assert_eq!((sim.calls(Host::Login), sim.calls(Host::Graph)), (0, 0), "a database that is down costs no calls");
    server.up().await;
    daemon.answers("/readyz", 200, RECOVERY_LIMIT).await;
    let pool = sqlx::PgPool::connect(&server.url).await.expect("connects");
    let sql = "SELECT count(*) FROM m365_store.snapshot";
    eventually("a pass", RECOVERY_LIMIT, async || (count(&pool, sql).await == 4).then_some(())).await;

    // And when it goes away later.
    server.down().await;
    daemon.answers("/readyz", 503, RECOVERY_LIMIT).await;
    assert!(daemon.is_running());
    daemon.answers("/livez", 200, IDLE_LIMIT).await;
    let calls = sim.calls(Host::Graph);
    assert_eq!(calls, 4);
    server.up().await;
    daemon.answers("/readyz", 200, RECOVERY_LIMIT).await;
    daemon.stop().await;
    assert_complete(&pool, &sim, &[sim.config().tenants[0].id], &Period::ALL).await;
    pool.close().await;
}

/// Waits until the service has written what Microsoft serves now.
async fn catches_up(daemon: &Daemon, db: &TestDb, sim: &Sim) {
    let newest =
        format!("SELECT count(*) FROM m365_store.snapshot WHERE report_refresh_date = '{}'", sim.refresh_date());
    let what = format!("the newest refresh is stored: {}", daemon.output());
    eventually(&what, RECOVERY_LIMIT, async || (count(&db.pool, &newest).await == 4).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_is_named_and_waited_for() {
    let server = OwnServer::start().await;
    let db = TestDb::on(&server.url, "readonly").await;
    let sim = sim();
    let setup = Setup::new(&db.url, &sim).set("SCHEDULE__CRON", OFTEN).set("DATABASE__CONNECT_TIMEOUT", "5s");
    let mut daemon = setup.daemon();
    first_pass(&daemon, &db).await;
    let named = async |daemon: &Daemon, times: usize| {
        let seen = || daemon.output().matches("\"error_class\":\"db_readonly\"").count() >= times;
        eventually("db_readonly is logged", PATIENCE, async || seen().then_some(())).await;
    };

    // A standby, or a full disk at a provider: every session is read-only, and later is not.
    statement(&server.url, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    statement(&server.url, "SELECT pg_reload_conf()").await;
    named(&daemon, 1).await;
    let once = setup.run(&["once"]).await.ends(69);
    assert!(once.stderr.contains("read-only"), "{once:?}");
    let calls = sim.calls(Host::Graph);
    sim.advance_days(1);
    statement(&server.url, "ALTER SYSTEM RESET default_transaction_read_only").await;
    statement(&server.url, "SELECT pg_reload_conf()").await;
    catches_up(&daemon, &db, &sim).await;
    assert!(sim.calls(Host::Graph) >= calls + 4);

    // As after a failover: the sessions that are there stay read-only, only new ones are not.
    let seen = daemon.output().matches("\"error_class\":\"db_readonly\"").count();
    let only = |on: &str| format!("ALTER DATABASE {} SET default_transaction_read_only = {on}", db.name());
    statement(&server.url, &only("on")).await;
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name = 'm365-ledger'";
    statement(&db.url, others).await;
    named(&daemon, seen + 1).await;
    sim.advance_days(1);
    statement(&server.url, &only("off")).await;
    catches_up(&daemon, &db, &sim).await;

    daemon.stop().await;
    assert_complete(&db.pool, &sim, &[sim.config().tenants[0].id], &Period::ALL).await;
    assert_verified(&setup, "after two read-only spells").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_another_version_is_run_on_unless_it_is_breaking() {
    let db = TestDb::new("schema").await;
    let sim = sim();
    let setup = Setup::new(&db.url, &sim);
    setup.run(&["once"]).await.ends(0);
    let newer = |breaking: bool| {
        format!(
            "DELETE FROM m365_store.schema_change WHERE version = 9999;
             INSERT INTO m365_store.schema_change (version, breaking, description)
             VALUES (9999, {breaking}, 'columns of another kind')"
        )
    };
    let written = "SELECT concat_ws(' ', (SELECT count(*) FROM m365_store.slot),
                   (SELECT count(*) FROM m365_store.attempt), (SELECT count(*) FROM m365_store.snapshot),
                   (SELECT max(started_at) FROM m365_store.worker), (SELECT max(due_at) FROM m365_store.slot))";

    statement(&db.url, &newer(true)).await;
    let (before, calls) = (column(&db.pool, written).await, sim.requests().len());
    sim.advance_days(1);
    for command in [&["once"][..], &["run"], &["backfill"], &["migrate"]] {
        let ran = setup.clone().set("HTTP__LISTEN", "127.0.0.1:0").run(command).await.ends(78);
        assert!(ran.stderr.contains("newer m365-ledger (schema 9999"), "{ran:?}");
    }
    assert_eq!(column(&db.pool, written).await, before, "nothing is written");
    assert_eq!(sim.requests().len(), calls, "nobody is called");

    statement(&db.url, &newer(false)).await;
    setup.run(&["once"]).await.ends(0);
    assert_complete(&db.pool, &sim, &[sim.config().tenants[0].id], &Period::ALL).await;

    // Behind, and not allowed to migrate.
    let empty = TestDb::new("behind").await;
    let setup = Setup::new(&empty.url, &sim).set("DATABASE__MIGRATE", "false");
    let ran = setup.run(&["once"]).await.ends(78);
    assert!(ran.stderr.contains("m365-ledger migrate"), "{ran:?}");
    assert_eq!(count(&empty.pool, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'm365%'").await, 0);
}
