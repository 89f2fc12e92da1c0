//! Microsoft asks to wait, and is not asked before.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use graph_sim::{Config, Fault, FaultKind, Host, Period, Request, Sim, TENANT_ID};
use serde_json::json;

use crate::support::{Scene, Served};

/// The log is stamped a little after the stand-in counted the call.
const TOLERANCE: TimeDelta = TimeDelta::milliseconds(100);

fn graph_calls(sim: &Sim) -> Vec<Request> {
    sim.requests().into_iter().filter(|request| request.host == Host::Graph).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_is_waited_for() {
    let window = Duration::from_secs(3);
    let Scene { sim, db, program } = Scene::with(Config::one_tenant().throttle(3, window)).await;
    let document = program.once(&[]).await;
    assert_eq!(document["totals"]["stored"], json!(4));
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;

    let calls = graph_calls(&sim);
    let status: Vec<u16> = calls.iter().map(|call| call.status).collect();
    assert_eq!(status, [302, 302, 302, 429, 302], "one refusal, and one call when the wait is over");
    // The refused call counts too: the window has room when the second call leaves it.
    let earliest = calls[1].at + TimeDelta::from_std(window).expect("short") - TOLERANCE;
    assert!(calls[4].at >= earliest, "{} is before {earliest}", calls[4].at);
    assert_eq!(
        db.count("SELECT count(*) FROM m365_store.attempt WHERE error_class = 'throttled' AND retry_at IS NOT NULL")
            .await,
        1
    );
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_holds_for_all_periods_of_the_tenant_and_for_the_next_run() {
    let Scene { sim, db, program } = Scene::new().await;
    sim.inject(Fault::once(Host::Graph, FaultKind::Throttle(Some("2".to_owned()))).period(Period::D90));
    program.once(&[]).await;
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
    let calls = graph_calls(&sim);
    let refused = calls.iter().position(|call| call.status == 429).expect("one was refused");
    assert_eq!(calls.len(), 5);
    for call in &calls[refused + 1..] {
        assert!(call.at >= calls[refused].at + TimeDelta::seconds(2) - TOLERANCE, "{call:?} came too early");
    }
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_of_a_month_ends_the_run_and_is_kept() {
    let Scene { sim, db, program } = Scene::new().await;
    sim.inject(Fault::once(Host::Graph, FaultKind::Throttle(Some("2592000".to_owned()))));
    let document = program.run(&["once", "--json"]).await.expect_code(1).json();
    assert_eq!(document["totals"]["failed"], json!(4));
    assert_eq!(graph_calls(&sim).len(), 1, "the other periods were not tried");
    for line in document["targets"].as_array().expect("targets") {
        assert_eq!((&line["outcome"], &line["error_class"]), (&json!("failed"), &json!("throttled")));
    }
    let until: DateTime<Utc> = sqlx::query_scalar("SELECT max(retry_at) FROM m365_store.attempt")
        .fetch_one(&db.pool)
        .await
        .expect("the wish is kept");
    let days = (until - graph_calls(&sim)[0].at).num_hours();
    assert!((30 * 24 - 1..=30 * 24).contains(&days), "{days}");

    // Microsoft would answer again, but it asked not to be called.
    sim.clear_log();
    let document = program.run(&["once", "--json"]).await.expect_code(1).json();
    assert!(sim.requests().is_empty());
    let day = until.format("%F").to_string();
    for line in document["targets"].as_array().expect("targets") {
        assert_eq!(line["error_class"], json!("throttled"));
        let message = line["message"].as_str().expect("a message");
        assert!(message.contains(&day), "{message} does not say until {day}");
    }
    let run = program.run(&["once"]).await.expect_code(1);
    assert!(run.stdout.contains(&day), "{}", run.stdout);
    assert_eq!(db.count("SELECT count(*) FROM m365_store.slot WHERE outcome IS NULL").await, 0);
    assert_eq!(db.sizes().await, [0; 4]);
    program.verify().await;
}
