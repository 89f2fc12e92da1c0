//! Many tenants in one file.

use std::fmt::Write as _;

use graph_sim::{Config, Host, Sim};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Program, Served, TestDb};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tenants_are_stored_each_with_its_own_figures() {
    let sim = Sim::start(Config::many(1_000).without_throttle()).expect("the stand-in starts");
    let db = TestDb::create().await;
    let program = Program::towards(&sim).database(&db.url).with("LOG__FILTER", "warn");
    let mut toml = String::new();
    for (n, tenant) in sim.config().tenants.iter().enumerate() {
        writeln!(
            toml,
            "[[tenants]]\nid = \"{}\"\nname = \"Tenant {n}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"",
            tenant.id, tenant.client_id, tenant.client_secret
        )
        .expect("text");
    }
    let file = program.file("tenants.toml", &toml).display().to_string();
    let document = program.once(&["--config", &file]).await;
    let totals = &document["totals"];
    assert_eq!(
        (&totals["targets"], &totals["stored"], &totals["rows_inserted"]),
        (&json!(4_000), &json!(4_000), &json!(307_000))
    );
    assert_eq!(db.sizes().await, [307_000, 180_000, 0, 4_000]);
    for n in [0, 1, 2, 36, 37, 499, 500, 731, 998, 999] {
        let tenant = sim.config().tenants[n].id;
        Served::of(&sim, tenant).assert_stored(&db, tenant).await;
    }
    // And of all of them one sum, which swapped or shared figures would not leave right.
    let mut expected = 0;
    for tenant in &sim.config().tenants {
        let rows = sim.expected_rows(tenant.id, graph_sim::Period::D30);
        let weight = i64::try_from(tenant.id.as_u128() % 1_009).expect("small");
        expected += weight * rows.iter().filter_map(|(_, figures)| figures[6]).sum::<i64>();
    }
    let sums: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT tenant_id, sum(teams)::bigint FROM m365_store.office365_active_user_counts
         WHERE report_period = 30 GROUP BY tenant_id",
    )
    .fetch_all(&db.pool)
    .await
    .expect("the facts can be read");
    let weighed = sums.iter().map(|(id, sum)| i64::try_from(id.as_u128() % 1_009).expect("small") * sum).sum::<i64>();
    assert_eq!(weighed, expected);
    assert_eq!([sim.calls(Host::Login), sim.calls(Host::Graph), sim.calls(Host::Download)], [1_000, 4_000, 4_000]);
    assert_eq!(program.verify().await["facts"], json!(307_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_harms_its_own_tenant_only() {
    let mut config = Config::many(20).without_throttle();
    // One application for all of them, as a service provider has it.
    let (client_id, client_secret) = (config.tenants[0].client_id.clone(), config.tenants[0].client_secret.clone());
    for tenant in &mut config.tenants {
        tenant.client_id.clone_from(&client_id);
        tenant.client_secret.clone_from(&client_secret);
    }
    let ids: Vec<Uuid> = config.tenants.iter().map(|tenant| tenant.id).collect();
    let sim = Sim::start(config).expect("the stand-in starts");
    let db = TestDb::create().await;
    let program = Program::towards(&sim).database(&db.url);
    let secret_file = program.file("secret", &format!("{client_secret}\n"));
    let mut toml =
        format!("[tenant]\nclient_id = \"{client_id}\"\nclient_secret_file = \"{}\"\n", secret_file.display());
    for (n, id) in ids.iter().enumerate() {
        writeln!(toml, "[[tenants]]\nid = \"{id}\"\nname = \"Tenant {n}\"").expect("text");
        if n == 7 {
            toml += "client_secret = \"canary-wrong\"\n";
        }
    }
    let file = program.file("tenants.toml", &toml).display().to_string();
    let run = program.run(&["once", "--config", &file, "--json"]).await.expect_code(1);
    let document = run.json();
    assert_eq!((&document["totals"]["stored"], &document["totals"]["failed"]), (&json!(76), &json!(4)));
    for line in document["targets"].as_array().expect("targets") {
        if line["tenant"] == json!(ids[7]) {
            assert_eq!((&line["outcome"], &line["error_class"]), (&json!("failed"), &json!("auth_invalid_client")));
            let message = line["message"].as_str().expect("a message");
            assert!(message.contains("AADSTS7000215") && message.contains("secret"), "{message}");
            assert!(!run.stdout.contains("canary-wrong") && !run.stderr.contains("canary-wrong"));
        } else {
            assert_eq!(line["outcome"], json!("stored"));
        }
    }
    for (n, id) in ids.iter().enumerate() {
        if n == 7 {
            assert!(db.facts(*id).await.is_empty());
        } else {
            Served::of(&sim, *id).assert_stored(&db, *id).await;
        }
    }
    program.verify().await;

    // For people: the trouble once, and what to do about it.
    let run = program.run(&["once", "--config", &file, "--tenant", "Tenant 7"]).await.expect_code(1);
    for text in ["auth_invalid_client", "AADSTS7000215", "Certificates & secrets"] {
        assert!(run.stdout.contains(text), "no `{text}` in:\n{}", run.stdout);
    }
}
