//! Processes and servers that are killed at any moment. What is stored is right all the time, and the next pass is whole.

use std::time::{Duration, Instant};

use chrono::{Days, NaiveDate};
use graph_sim::{Config, Fault, FaultKind, Host, Period, Sim};
use m365_ledger::{clock::Clock, config::environment};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::rig::{
    OwnServer, PATIENCE, Setup, TestDb, assert_complete, assert_verified, column, count, eventually, sim_of,
};

const KILLS: u32 = 50;
const RESTARTS: u32 = 10;

/// Printed, and taken from `IT_SEED` to see the same again.
fn seeded(what: &str) -> StdRng {
    let seed = environment().remove("IT_SEED").and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Clock::System.now().timestamp_micros().unsigned_abs());
    println!("{what}: IT_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A stand-in whose refresh date can move for a hundred days and still lies in the past.
fn sim_of_the_past(tenants: u32) -> Sim {
    let start: NaiveDate = Clock::System.now().date_naive() - Days::new(120);
    Sim::start(Config::many(tenants).without_throttle().refresh_date(start)).expect("ports are free")
}

/// Something new to store: a day later, or other figures of the same day.
fn news(sim: &Sim, random: &mut StdRng) {
    if random.random_bool(0.3) {
        for tenant in &sim.config().tenants {
            sim.reissue(tenant.id);
        }
    } else {
        sim.advance_days(1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_leave_nothing_half_done() {
    let mut random = seeded("kills");
    let db = TestDb::new("kills").await;
    let sim = sim_of_the_past(2);
    let tenants: Vec<_> = sim.config().tenants.iter().map(|tenant| tenant.id).collect();
    let setup = Setup::new(&db.url, &sim).tenants(&sim.config().tenants);
    let (mut killed, mut stored) = (0, 0);
    for kill in 1..=KILLS {
        // The first ones hit the start and the migration, the others any moment between the first call and the end.
        let calls = sim.calls(Host::Graph) + if kill <= 5 { 0 } else { random.random_range(0..=8) };
        let mut once = setup.command(&["once"]).spawn().expect("it starts");
        eventually("so many calls", PATIENCE, async || {
            (sim.calls(Host::Graph) >= calls || !matches!(once.try_wait(), Ok(None))).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(5..if kill <= 5 { 400 } else { 100 }))).await;
        killed += u32::from(matches!(once.try_wait(), Ok(None)));
        once.kill().await.expect("it ends");
        news(&sim, &mut random);
        if kill % 10 == 0 {
            // Also where no kill let a pass through to its end.
            setup.run(&["migrate"]).await.ends(0);
            assert_verified(&setup, &format!("after {kill} kills")).await;
            stored = count(&db.pool, "SELECT count(*) FROM m365_store.snapshot").await;
        }
    }
    println!("{killed} of {KILLS} were hit while they ran; {stored} snapshots came through");
    assert!(killed >= KILLS / 4, "{killed} kills hit anything");
    setup.run(&["once"]).await.ends(0);
    assert_complete(&db.pool, &sim, &tenants, &Period::ALL).await;
    assert_verified(&setup, "after the clean pass").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_service_takes_over_what_a_killed_one_held() {
    let db = TestDb::new("takeover").await;
    let sim = sim_of(3);
    let tenants: Vec<_> = sim.config().tenants.iter().map(|tenant| tenant.id).collect();
    let setup = Setup::new(&db.url, &sim).tenants(&sim.config().tenants).set("SCHEDULE__LEASE", "2s");
    sim.inject(Fault::always(Host::Download, FaultKind::Delay(Duration::from_secs(3))));
    let abandoned = "SELECT count(*) FROM m365_store.attempt WHERE outcome = 'abandoned'";
    let mut daemon = setup.daemon();
    for kill in 1..=2 {
        let downloads = sim.calls(Host::Download);
        eventually("work in flight", PATIENCE, async || (sim.calls(Host::Download) > downloads).then_some(())).await;
        daemon.kill().await;
        let (before, died) = (count(&db.pool, abandoned).await, Instant::now());
        daemon = daemon.again();
        eventually("a takeover", PATIENCE, async || (count(&db.pool, abandoned).await > before).then_some(())).await;
        // The lease, the wake-up after it, and a machine that has much to do.
        let took = died.elapsed();
        println!("takeover after kill {kill}: {took:?}");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
    sim.clear_faults();
    let done = "SELECT count(*) FROM m365_store.slot WHERE outcome = 'stored'";
    eventually("the pass", PATIENCE, async || (count(&db.pool, done).await == 12).then_some(())).await;
    daemon.stop().await;
    assert_complete(&db.pool, &sim, &tenants, &Period::ALL).await;
    assert_verified(&setup, "after two kills of the service").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_crashes_of_postgres_lose_nothing() {
    let mut random = seeded("crashes");
    let mut server = OwnServer::start().await;
    let db = TestDb::on(&server.url, "crashes").await;
    let sim = sim_of_the_past(2);
    let tenants: Vec<_> = sim.config().tenants.iter().map(|tenant| tenant.id).collect();
    let setup = Setup::new(&db.url, &sim).tenants(&sim.config().tenants);
    let mut daemon = setup.clone().set("SCHEDULE__CRON", "*/3 * * * * *").set("SCHEDULE__LEASE", "5s").daemon();
    daemon.answers("/readyz", 200, PATIENCE).await;
    for round in 1..=RESTARTS / 2 {
        news(&sim, &mut random);
        let once = tokio::spawn({
            let setup = setup.clone();
            async move { setup.run(&["once"]).await }
        });
        tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
        server.crash_and_restart().await;
        // It tries again two seconds later, and so does the next crash.
        tokio::time::sleep(Duration::from_millis(random.random_range(1_000..2_000))).await;
        server.crash_and_restart().await;
        let once = once.await.expect("it ends");
        assert!(matches!(once.code, Some(0 | 1 | 69)), "round {round}: {once:#?}");
        assert_verified(&setup, &format!("after round {round}")).await;
        assert!(daemon.is_running(), "round {round}: {}", daemon.output());
    }
    // The service goes on by itself.
    sim.advance_days(1);
    let refresh = sim.refresh_date();
    let newest = format!("SELECT count(*) FROM m365_store.snapshot WHERE report_refresh_date = '{refresh}'");
    let recovered = async || {
        let newest: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(newest.clone())).fetch_one(&db.pool).await.ok()?;
        (newest == 8).then_some(())
    };
    let started = Instant::now();
    eventually("the service stores the next refresh", Duration::from_mins(1), recovered).await;
    println!("the service was back after {:?}", started.elapsed());
    daemon.stop().await;
    setup.run(&["once"]).await.ends(0);
    assert_complete(&db.pool, &sim, &tenants, &Period::ALL).await;
    let panics = column(&db.pool, "SELECT error_message FROM m365_store.attempt WHERE error_class = 'internal'").await;
    assert_eq!(panics, [""; 0]);
    assert_verified(&setup, "at the end").await;
}
