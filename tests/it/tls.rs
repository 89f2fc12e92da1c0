//! Trust: a certificate authority of one's own is trusted when it is named, and only then.

use graph_sim::{Config, TENANT_ID};
use serde_json::json;

use crate::support::{Scene, Served};

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_trusted_only_when_it_is_named() {
    let Scene { sim, db, program } = Scene::with(Config::one_tenant().without_throttle().tls()).await;
    assert!(sim.graph_url().starts_with("https://"));
    let run = program.run(&["once", "--json"]).await.expect_code(69);
    for line in run.json()["targets"].as_array().expect("targets") {
        assert_eq!((&line["outcome"], &line["error_class"]), (&json!("failed"), &json!("tls")));
    }
    assert_eq!(db.sizes().await, [0; 4]);
    assert!(sim.requests().is_empty(), "no secret left this machine");
    let run = program.run(&["once"]).await.expect_code(69);
    assert!(run.stdout.contains("graph.extra_ca_file"), "{}", run.stdout);

    let ca = program.file("ca.pem", sim.ca_pem().expect("it serves https"));
    let program = program.with("GRAPH__EXTRA_CA_FILE", ca.display().to_string());
    program.once(&[]).await;
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;
    program.verify().await;

    // A file that is not there is a mistake, and not passed over.
    let missing = program.with("GRAPH__EXTRA_CA_FILE", "/nowhere/ca.pem");
    missing.run(&["once"]).await.expect_code(78).expect_stderr(&["graph.extra_ca_file", "/nowhere/ca.pem"]);
}
