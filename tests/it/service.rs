//! `run`: the service, its pages and its probes.

use std::net::SocketAddr;

use graph_sim::TENANT_ID;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{REPORT, Scene, Served, eventually, free_address, get};

/// The value of one series.
fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, given) = series.split_once('{').unwrap_or((series, ""));
        let fits = labels.iter().all(|(label, value)| given.contains(&format!("{label}=\"{value}\"")));
        (found == name && fits).then(|| value.parse().expect("a number"))
    })
}

async fn page(address: SocketAddr, path: &str) -> (u16, String) {
    get(address, path).await.unwrap_or_else(|| panic!("{path} is not answered"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_fetches_shows_and_stops() {
    let address = free_address();
    let Scene { sim, db, program } = Scene::new().await.set("HTTP__LISTEN", &address.to_string());
    // Due once a year, so that no instant falls into the test.
    let program = program.with("SCHEDULE__JITTER", "0s").with("SCHEDULE__CRON", "0 0 1 7 *");
    let service = program.spawn(&["run"]);
    eventually("it is ready", async || get(address, "/readyz").await.is_some_and(|(code, _)| code == 200)).await;
    eventually("the first pass is done", async || {
        db.count("SELECT count(*) FROM m365_store.slot WHERE outcome = 'stored'").await == 4
    })
    .await;
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
    assert_eq!(db.count("SELECT count(*) FROM m365_store.slot WHERE origin = 'schedule'").await, 4);

    for path in ["/livez", "/startupz", "/readyz"] {
        assert_eq!(page(address, path).await.0, 200, "{path}");
    }
    assert_eq!(page(address, "/nowhere").await.0, 404);

    // The receipts are counted a moment after the commit.
    let stored = |text: &str, period| {
        let labels = [("report", REPORT), ("period", period), ("outcome", "stored"), ("error_class", "none")];
        metric(text, "m365_ledger_attempts_total", &labels)
    };
    eventually("the attempts are counted", async || {
        let text = page(address, "/metrics").await.1;
        ["D7", "D30", "D90", "D180"].iter().all(|period| stored(&text, period) == Some(1.0))
            && metric(&text, "m365_ledger_rows_total", &[("op", "inserted")]) == Some(307.0)
    })
    .await;
    eventually("the targets are shown as ok", async || {
        metric(&page(address, "/metrics").await.1, "m365_ledger_targets", &[("state", "ok")]) == Some(4.0)
    })
    .await;
    let text = page(address, "/metrics").await.1;
    let rows = |op| metric(&text, "m365_ledger_rows_total", &[("report", REPORT), ("op", op)]);
    assert_eq!((rows("inserted"), rows("updated"), rows("unchanged")), (Some(307.0), Some(0.0), Some(0.0)));
    let newest = m365_ledger::store::MIGRATOR.iter().last().map(|migration| migration.version.to_string());
    assert_eq!(metric(&text, "m365_ledger_schema_version", &[]).map(|version| version.to_string()), newest);
    assert_eq!(metric(&text, "m365_ledger_fenced_writes_total", &[]), Some(0.0));
    for stage in ["token", "graph", "download", "parse", "store"] {
        let count = metric(&text, "m365_ledger_stage_duration_seconds_count", &[("stage", stage)]);
        assert!(count >= Some(1.0), "{stage}: {count:?}");
    }
    let newest = metric(
        &text,
        "m365_ledger_newest_refresh_date_timestamp_seconds",
        &[("tenant", &TENANT_ID.to_string()), ("period", "D180")],
    )
    .or_else(|| metric(&text, "m365_ledger_newest_refresh_date_timestamp_seconds", &[("period", "D180")]));
    let midnight = sim.refresh_date().and_time(chrono::NaiveTime::MIN).and_utc();
    let difference = newest.map(|at| (at - f64::from(u32::try_from(midnight.timestamp()).expect("a while"))).abs());
    assert!(difference.is_some_and(|seconds| seconds < 0.5), "{newest:?} is not {midnight}");

    let (code, html) = page(address, "/").await;
    assert_eq!(code, 200);
    assert!(html.contains("Contoso") && html.contains(&sim.refresh_date().to_string()), "{html}");
    let (code, status) = page(address, "/status").await;
    let status: Value = serde_json::from_str(&status).expect("one JSON document");
    assert_eq!((code, &status["ready"], &status["draining"]), (200, &json!(true), &json!(false)));
    let targets = status["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 4);
    for target in targets {
        assert_eq!((&target["tenant_name"], &target["state"]), (&json!("Contoso"), &json!("ok")));
        assert_eq!(target["newest_refresh_date"], json!(sim.refresh_date()));
        assert!(target["next_due_at"].is_string(), "{target}");
    }

    program.run(&["healthcheck"]).await.expect_code(0);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.code().await, Some(0));
    program.run(&["healthcheck"]).await.expect_code(1);
    assert_eq!(db.count("SELECT count(*) FROM m365_store.worker").await, 0, "it signed off");
    assert_eq!(db.count("SELECT count(*) FROM m365_store.slot WHERE outcome IS NULL").await, 0);
    program.verify().await;

    // A restart finds nothing due: the slots are there already.
    sim.clear_log();
    let service = program.spawn(&["run"]);
    eventually("it is ready again", async || get(address, "/readyz").await.is_some_and(|(code, _)| code == 200)).await;
    service.signal(Signal::SIGINT);
    assert_eq!(service.code().await, Some(0));
    assert_eq!(db.count("SELECT count(*) FROM m365_store.slot").await, 4);
    assert!(sim.requests().is_empty());
}
