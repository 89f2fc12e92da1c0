//! Several processes on one database do the work of one.

use std::time::Duration;

use graph_sim::{Fault, FaultKind, Host, Period};
use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::rig::{
    PATIENCE, Setup, TestDb, assert_complete, assert_verified, column, count, eventually, graph_calls, sim, sim_of,
    statement,
};

const DONE: &str = "SELECT count(*) FROM m365_store.slot WHERE outcome IN ('stored', 'unchanged')";
const OPEN: &str = "SELECT count(*) FROM m365_store.slot WHERE outcome IS NULL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_do_the_work_of_one() {
    let db = TestDb::new("replicas").await;
    let sim = sim_of(20);
    let tenants: Vec<_> = sim.config().tenants.iter().map(|tenant| tenant.id).collect();
    let setup = Setup::new(&db.url, &sim).tenants(&sim.config().tenants);

    // All start at the same moment, on an empty database.
    let mut daemons = [setup.daemon(), setup.daemon(), setup.daemon()];
    for daemon in &daemons {
        daemon.answers("/readyz", 200, PATIENCE).await;
    }
    eventually("a pass", PATIENCE, async || (count(&db.pool, DONE).await == 80).then_some(())).await;
    let migrations = column(&db.pool, "SELECT version::text FROM m365_store.applied_migration ORDER BY version").await;
    let known: Vec<_> = m365_ledger::store::MIGRATOR.iter().map(|migration| migration.version.to_string()).collect();
    assert_eq!(migrations, known, "each once");
    let entered = column(&db.pool, "SELECT version::text FROM m365_store.schema_change ORDER BY version").await;
    assert_eq!(entered, known);
    for &tenant in &tenants {
        assert_eq!(graph_calls(&sim, tenant), 4, "{tenant}");
    }
    assert_complete(&db.pool, &sim, &tenants, &Period::ALL).await;

    // A person does not wait for them, and they do not mind.
    sim.advance_days(1);
    let once = setup.run(&["once", "--json"]).await.ends(0).json();
    assert_eq!(once["totals"]["stored"], 80, "{once}");
    for &tenant in &tenants {
        assert_eq!(graph_calls(&sim, tenant), 8, "{tenant}");
    }
    for daemon in &mut daemons {
        daemon.stop().await;
    }

    // And round after round.
    let setup = setup.set("SCHEDULE__CRON", "*/5 * * * * *");
    let mut daemons = [setup.daemon(), setup.daemon(), setup.daemon()];
    let rounds = async || (count(&db.pool, DONE).await >= 80 * 4).then_some(());
    eventually("two more rounds", PATIENCE, rounds).await;
    for daemon in &mut daemons {
        daemon.stop().await;
    }
    let calls: usize = tenants.iter().map(|&tenant| graph_calls(&sim, tenant)).sum();
    let calls = i64::try_from(calls).expect("few");
    assert_eq!(count(&db.pool, "SELECT count(*) FROM m365_store.attempt").await, calls, "no call without its attempt");
    assert_eq!(count(&db.pool, DONE).await, calls, "no slot twice");
    let twice = "SELECT count(*) FROM (SELECT FROM m365_store.attempt
                 GROUP BY tenant_id, report, report_period, due_at HAVING count(*) > 1) AS again";
    assert_eq!(count(&db.pool, twice).await, 0);
    assert_complete(&db.pool, &sim, &tenants, &Period::ALL).await;
    assert_verified(&setup, "three replicas").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_holder_cannot_write_over_the_one_that_took_over() {
    let db = TestDb::new("frozen").await;
    let sim = sim();
    let tenant = sim.config().tenants[0].id;
    let setup = Setup::new(&db.url, &sim).set("SCHEDULE__LEASE", "2s");
    sim.inject(Fault::once(Host::Download, FaultKind::Delay(Duration::from_secs(2))));
    let stale = sim.refresh_date();

    let mut frozen = setup.daemon();
    eventually("a download", PATIENCE, async || (sim.calls(Host::Download) > 0).then_some(())).await;
    frozen.signal(Signal::SIGSTOP);
    // What it has asked for is of today; what the next one gets is of tomorrow.
    sim.advance_days(1);
    let mut other = setup.daemon();
    eventually("another took over", PATIENCE, async || (count(&db.pool, DONE).await == 4).then_some(())).await;
    assert_complete(&db.pool, &sim, &[tenant], &Period::ALL).await;
    let abandoned = "SELECT count(*) FROM m365_store.attempt WHERE outcome = 'abandoned'";
    assert_eq!(count(&db.pool, abandoned).await, 4, "what the frozen one held");

    frozen.signal(Signal::SIGCONT);
    let refused = || frozen.output().matches("\"error_class\":\"fenced\"").count();
    eventually("its writes are refused", PATIENCE, async || (refused() >= 1).then_some(())).await;
    frozen.stop().await;
    other.stop().await;
    let old = format!("SELECT count(*) FROM m365_store.snapshot WHERE report_refresh_date = '{stale}'");
    assert_eq!(count(&db.pool, &old).await, 0, "nothing stale is written");
    assert_eq!(count(&db.pool, DONE).await, 4);
    assert_eq!(count(&db.pool, OPEN).await, 0);
    assert_complete(&db.pool, &sim, &[tenant], &Period::ALL).await;
    assert_verified(&setup, "after the thaw").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_taken_out_of_the_settings_is_named_until_nobody_expects_it() {
    const WARNING: &str = "expects tenants that are not in these settings";
    const EXPECTED: &str = "SELECT count(DISTINCT tenant_id) FROM m365_v1.freshness";
    let db = TestDb::new("taken_out").await;
    let sim = sim_of(2);
    let [first, second] = &sim.config().tenants[..] else { panic!("two tenants") };
    let both = Setup::new(&db.url, &sim).tenants(&sim.config().tenants);
    let mut service = both.daemon();
    service.answers("/readyz", 200, PATIENCE).await;
    assert!(!service.output().contains(WARNING), "{}", service.output());
    service.stop().await;

    // It is still expected: a service with other settings may be fetching it.
    let one = Setup::new(&db.url, &sim).tenant(first);
    let mut service = one.daemon();
    service.answers("/readyz", 200, PATIENCE).await;
    assert!(service.output().contains(WARNING), "{}", service.output());
    assert_eq!(count(&db.pool, EXPECTED).await, 2);
    service.stop().await;

    let runbook = include_str!("../../docs/runbook.md");
    let (_, block) = runbook.split_once("UPDATE m365_store.target").expect("the statement for it");
    let (rest, _) = block.split_once(';').expect("its end");
    let sql = format!("UPDATE m365_store.target{}", rest.replace(&Uuid::nil().to_string(), &second.id.to_string()));
    statement(&db.url, &sql).await;
    assert_eq!(count(&db.pool, EXPECTED).await, 1);
    let mut service = one.daemon();
    service.answers("/readyz", 200, PATIENCE).await;
    assert!(!service.output().contains(WARNING), "{}", service.output());
    service.stop().await;

    let mut service = both.daemon();
    service.answers("/readyz", 200, PATIENCE).await;
    assert_eq!(count(&db.pool, EXPECTED).await, 2, "back in the settings, expected again");
    service.stop().await;
}
