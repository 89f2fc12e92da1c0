//! Other columns, other ways of getting the same body, and bodies without rows.

use chrono::NaiveDate;
use graph_sim::{Fault, FaultKind, HeaderGeneration, Host, Period, TENANT_ID};
use serde_json::json;

use crate::support::{ALL_ROWS, Scene, Served, body};

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_absent_is_null() {
    let Scene { sim, db, program } = Scene::new().await;
    sim.set_header(HeaderGeneration::WithoutTeams);
    program.once(&[]).await;
    let served = Served::of(&sim, TENANT_ID);
    assert!(served.bodies.values().flat_map(|rows| rows.values()).all(|figures| figures[6].is_none()));
    served.assert_stored(&db, TENANT_ID).await;
    assert_eq!(db.count("SELECT count(teams) FROM m365_v1.active_users_daily").await, 0);
    program.verify().await;

    // The column appears: the same refresh with more figures is a re-issue.
    sim.set_header(HeaderGeneration::Today);
    let document = program.once(&[]).await;
    assert_eq!(document["totals"]["rows_updated"], json!(ALL_ROWS));
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_nobody_knows_is_kept_under_its_name() {
    let Scene { sim, db, program } = Scene::new().await;
    sim.set_header(HeaderGeneration::Extra("Viva Engage".to_owned()));
    program.once(&[]).await;
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;

    // The stand-in gives it a fifth of Teams.
    let expected: Vec<(NaiveDate, Option<i64>)> = body(&sim, TENANT_ID, Period::D180)
        .into_iter()
        .map(|(date, figures)| (date, figures[6].map(|teams| teams / 5)))
        .collect();
    let long: Vec<(NaiveDate, Option<i64>)> = sqlx::query_as(
        "SELECT report_date, active_users FROM m365_v1.active_users_daily_long
         WHERE product = 'Viva Engage' ORDER BY report_date",
    )
    .fetch_all(&db.pool)
    .await
    .expect("the view can be read");
    assert_eq!(long, expected);
    let kept: Vec<(NaiveDate, Option<i64>)> = sqlx::query_as(
        "SELECT report_date, (extra ->> 'Viva Engage')::bigint FROM m365_store.office365_active_user_counts
         WHERE report_period = 180 ORDER BY report_date",
    )
    .fetch_all(&db.pool)
    .await
    .expect("the facts can be read");
    assert_eq!(kept, expected);
    let known: i64 = db.count("SELECT count(*) FROM m365_v1.products WHERE product = 'Viva Engage'").await;
    assert_eq!(known, 1);
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT source_columns FROM m365_store.snapshot WHERE report_period = 7")
            .fetch_one(&db.pool)
            .await
            .expect("the ledger can be read");
    assert!(columns.contains(&"Viva Engage".to_owned()), "{columns:?}");
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_the_rows_does_not_matter() {
    let Scene { sim, db, program } = Scene::new().await;
    program.once(&[]).await;
    sim.set_newest_first(!sim.config().newest_first);
    assert_eq!(program.once(&[]).await["totals"]["unchanged"], json!(4));
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_called_can_be_the_older_one() {
    let Scene { sim, db, program } =
        Scene::new().await.set("REPORTS__OFFICE365_ACTIVE_USER_COUNTS__FUNCTION", "Office365ActiveUserCounts");
    program.once(&[]).await;
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
    let mut paths: Vec<String> = sim
        .requests()
        .into_iter()
        .filter(|request| request.host == Host::Graph)
        .map(|request| request.path.replace("%27", "'"))
        .collect();
    paths.sort();
    let mut expected =
        Period::ALL.map(|period| format!("/v1.0/reports/Office365ActiveUserCounts(period='{period}')")).to_vec();
    expected.sort();
    assert_eq!(paths, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_may_come_from_graph_itself() {
    let Scene { sim, db, program } = Scene::new().await;
    sim.inject(Fault::always(Host::Graph, FaultKind::DirectCsv));
    program.once(&[]).await;
    assert_eq!(sim.calls(Host::Download), 0);
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_may_be_compressed() {
    let Scene { sim, db, program } = Scene::new().await;
    sim.inject(Fault::always(Host::Download, FaultKind::Gzip));
    program.once(&[]).await;
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_are_no_failure_and_no_success_either() {
    let Scene { sim, db, program } = Scene::new().await;
    let csv = sim.csv(TENANT_ID, Period::D7);
    let header = csv.split(|byte| *byte == b'\n').next().expect("a header").to_vec();
    let ways = [
        ("204", Host::Graph, FaultKind::Status(204, String::new())),
        ("header only", Host::Download, FaultKind::body([header, b"\n".to_vec()].concat())),
        ("zero bytes", Host::Download, FaultKind::body("")),
    ];
    for (what, host, kind) in &ways {
        sim.inject(Fault::always(*host, kind.clone()));
        let document = program.once(&[]).await;
        sim.clear_faults();
        assert_eq!(document["totals"]["empty"], json!(4), "{what}");
        for line in document["targets"].as_array().expect("targets") {
            assert_eq!((&line["outcome"], &line["error_class"]), (&json!("empty"), &json!("empty_report")), "{what}");
            assert_eq!(line["refresh_date"], json!(null), "{what}");
        }
        assert_eq!(db.sizes().await, [0; 4], "{what}");
        assert_eq!(db.count("SELECT count(*) FROM m365_v1.freshness WHERE state = 'never'").await, 4, "{what}");
    }

    // After a success they neither touch what is held nor count as fresh.
    program.once(&[]).await;
    let success = "SELECT extract(epoch FROM max(last_success_at))::bigint FROM m365_v1.freshness";
    let before = db.count(success).await;
    for (what, host, kind) in ways {
        sim.inject(Fault::always(host, kind));
        program.once(&[]).await;
        sim.clear_faults();
        Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
        assert_eq!(db.count(success).await, before, "{what}");
        let shown = "SELECT count(*) FROM m365_v1.freshness WHERE last_outcome = 'empty'";
        assert_eq!(db.count(shown).await, 4, "{what}");
    }
    assert_eq!(db.count("SELECT count(*) FROM m365_store.quarantine").await, 0);
    program.verify().await;
}
