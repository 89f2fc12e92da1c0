//! The levers over HTTP, and the program around them.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use graph_sim::{Fault, FaultKind, Host, Period, TENANT_ID};
use serde_json::{Value, json};

use crate::client::{date, fetch, http, start};

#[tokio::test]
async fn the_levers_work_over_http() {
    let sim = start();
    let lever = |path: &str| format!("{}/_sim/{path}", sim.graph_url());
    let post = async |path: &str| http(None).post(lever(path)).send().await.unwrap().status();
    assert_eq!(post("advance?days=3").await, 200);
    assert_eq!(sim.refresh_date(), date("2026-10-04"));
    assert_eq!(post("refresh?date=2026-09-01").await, 200);
    assert_eq!(post(&format!("refresh?date=2026-08-01&tenant={TENANT_ID}&period=D180")).await, 200);
    assert_eq!(sim.refresh_date_for(TENANT_ID, Period::D180), date("2026-08-01"));
    assert_eq!(post(&format!("reissue?tenant={TENANT_ID}")).await, 200);
    assert_eq!(post("reissue").await, 400);
    assert_eq!(post("nonsense").await, 404);

    let fault = json!({ "host": "Graph", "period": "D30", "count": { "Times": 1 }, "kind": { "Delay": 20 } });
    let response = http(None).post(lever("fault")).json(&fault).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let delay = FaultKind::Delay(std::time::Duration::from_millis(20));
    assert_eq!(sim.faults(), [Fault::once(Host::Graph, delay).period(Period::D30)]);
    assert_eq!(http(None).delete(lever("faults")).send().await.unwrap().status(), 200);
    assert!(sim.faults().is_empty());

    fetch(&sim, Period::D7).await;
    assert_eq!(post("reset-throttle").await, 200);
    let state: Value = http(None).get(lever("state")).send().await.unwrap().json().await.unwrap();
    assert_eq!(state["refresh_date"], "2026-09-01");
    assert_eq!(state["calls"], json!({ "login": 1, "graph": 1, "download": 1 }));
    assert_eq!(state["tenants"][0]["revision"], 1);
    let log: Value = http(None).get(lever("requests")).send().await.unwrap().json().await.unwrap();
    assert_eq!(log[1]["host"], "Graph");
    assert_eq!(log[1]["status"], 302);
    let path = format!("rows?tenant={TENANT_ID}&period=D7");
    let rows: Value = http(None).get(lever(&path)).send().await.unwrap().json().await.unwrap();
    assert_eq!(rows, json!(sim.expected_rows(TENANT_ID, Period::D7)));
}

#[test]
fn every_fault_survives_json() {
    for kind in [
        FaultKind::unavailable(),
        FaultKind::Throttle(None),
        FaultKind::html("<p>"),
        FaultKind::Hang,
        FaultKind::CloseDelimited(Some(3)),
        FaultKind::GzipBomb(1),
    ] {
        let fault = Fault::always(Host::Login, kind).tenant(TENANT_ID);
        let text = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault, "{text}");
    }
}

#[tokio::test]
async fn the_program_says_how_to_reach_it_and_ends_when_told() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_graph-sim"))
        .args(["--tenants", "2", "--refresh-date", "2026-10-01", "--config-file", "/dev/stderr"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().take(7).map(Result::unwrap).collect();
    let value = |name: &str| {
        let prefix = format!("M365_LEDGER__{name}=");
        lines.iter().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("{name}: {lines:?}"))
    };
    assert_eq!(value("GRAPH__DOWNLOAD_HOSTS"), "127.0.0.1");
    assert_eq!(value("GRAPH__ALLOW_INSECURE_LOOPBACK"), "true");
    assert_eq!(value("TENANT__ID"), TENANT_ID.to_string());
    assert!(value("GRAPH__LOGIN_URL").starts_with("http://127.0.0.1:"));
    let url = format!("{}/_sim/state", value("GRAPH__BASE_URL"));
    let state: Value = http(None).get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(state["refresh_date"], "2026-10-01");
    assert_eq!(state["tenants"].as_array().unwrap().len(), 2);

    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let settings = String::from_utf8(output.stderr).unwrap();
    assert!(settings.starts_with("[graph]\nbase_url = \"http://127.0.0.1:"), "{settings}");
    assert_eq!(settings.matches("[[tenants]]").count(), 2);
}
