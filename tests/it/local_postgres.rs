//! Without a database: the program's own PostgreSQL.

use std::{path::Path, time::Duration};

use graph_sim::{Config, Host, Sim};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{ALL_ROWS, Program, eventually, open_folder, processes_of};

/// Removes a server that a failed test would leave behind.
struct Leftovers<'a>(&'a Path);

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        let file = std::fs::read_to_string(self.0.join("cluster/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = file.lines().next().and_then(|line| line.trim().parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGQUIT);
        }
    }
}

async fn assert_no_server(data: &Path) {
    eventually("no PostgreSQL is left behind", async || processes_of(data).is_empty()).await;
    assert!(!data.join("cluster/postmaster.pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_used_and_stopped() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).expect("the stand-in starts");
    let folder = open_folder();
    let data = folder.path().join("data");
    let leftovers = Leftovers(&data);
    let program = Program::for_one_tenant(&sim).with("DATABASE__DATA_DIR", data.display().to_string());

    assert_eq!(program.once(&[]).await["totals"]["rows_inserted"], json!(ALL_ROWS));
    assert_no_server(&data).await;

    let status = program.run(&["status", "--json"]).await.expect_code(0).json();
    let targets = status["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 4);
    for target in targets {
        assert_eq!((&target["state"], &target["snapshots"]), (&json!("ok"), &json!(1)));
        assert_eq!(target["newest_refresh_date"], json!(sim.refresh_date()));
    }
    let shown = program.run(&["status"]).await.expect_code(0);
    assert!(shown.stdout.contains("psql"), "it says how to look inside: {}", shown.stdout);

    assert_eq!(program.once(&[]).await["totals"]["rows_unchanged"], json!(ALL_ROWS));
    assert_eq!(program.verify().await["facts"], json!(ALL_ROWS));
    assert_no_server(&data).await;
    drop(leftovers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_kill_takes_it_over() {
    let slow = Config::one_tenant().without_throttle().latency(Duration::from_millis(250));
    let sim = Sim::start(slow).expect("the stand-in starts");
    let folder = open_folder();
    let data = folder.path().join("data");
    let leftovers = Leftovers(&data);
    let program = Program::for_one_tenant(&sim).with("DATABASE__DATA_DIR", data.display().to_string());

    let killed = program.spawn(&["once"]);
    eventually("it is in the middle of its work", async || sim.calls(Host::Graph) >= 2).await;
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.code().await, None);

    let document = program.once(&[]).await;
    let totals = &document["totals"];
    assert_eq!(totals["failed"], json!(0));
    let verdict = program.verify().await;
    assert_eq!((&verdict["snapshots"], &verdict["facts"], &verdict["current"]), (&json!(4), &json!(307), &json!(180)));
    assert_no_server(&data).await;
    drop(leftovers);
}
