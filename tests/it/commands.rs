//! The other commands: what they print and how they exit.

use graph_sim::{Config, Host, Sim, TENANT_ID};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Program, Scene, TestDb, eventually, free_address};

const COMMANDS: [&[&str]; 14] = [
    &["run"],
    &["once"],
    &["backfill"],
    &["status"],
    &["export"],
    &["verify"],
    &["doctor"],
    &["migrate"],
    &["healthcheck"],
    &["config"],
    &["config", "show"],
    &["config", "check"],
    &["demo"],
    &[],
];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_explains_itself_and_refuses_what_it_does_not_know() {
    let program = Program::bare();
    for command in COMMANDS {
        let help = program.run(&[command, &["--help"]].concat()).await.expect_code(0);
        for text in ["Usage: m365-ledger", "Examples:\n  m365-ledger"] {
            assert!(help.stdout.contains(text), "{command:?}: no `{text}` in:\n{}", help.stdout);
        }
        let run = program.run(&[command, &["--frobnicate"]].concat()).await.expect_code(2);
        run.expect_stderr(&["--frobnicate"]);
    }
    program.run(&["frobnicate"]).await.expect_code(2).expect_stderr(&["frobnicate"]);
    program.run(&[]).await.expect_code(2).expect_stderr(&["Usage: m365-ledger"]);
    let version = program.run(&["--version"]).await.expect_code(0);
    assert_eq!(version.stdout.trim(), concat!("m365-ledger ", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_is_held() {
    let Scene { sim, db, program } = Scene::new().await;
    program.run(&["migrate"]).await.expect_code(0);
    let empty = program.run(&["status", "--json"]).await.expect_code(0).json();
    assert_eq!(empty, json!({ "targets": [], "gaps": [] }));
    let run = program.run(&["status"]).await.expect_code(0);
    assert!(run.stdout.contains("m365-ledger once"), "{}", run.stdout);

    program.once(&[]).await;
    let status = program.run(&["status", "--json"]).await.expect_code(0).json();
    let targets = status["targets"].as_array().expect("targets");
    let mut periods: Vec<i64> = targets.iter().filter_map(|target| target["report_period"].as_i64()).collect();
    periods.sort_unstable();
    assert_eq!(periods, [7, 30, 90, 180]);
    for target in targets {
        assert_eq!(target["tenant_id"], json!(TENANT_ID));
        assert_eq!((&target["state"], &target["last_outcome"]), (&json!("ok"), &json!("stored")));
        assert_eq!((&target["snapshots"], &target["interval_seconds"]), (&json!(1), &json!(21_600)));
        assert_eq!(target["newest_refresh_date"], json!(sim.refresh_date()));
        assert_eq!(target["last_error_class"], Value::Null);
    }
    let run = program.run(&["status"]).await.expect_code(0);
    assert!(run.stdout.contains("Contoso") && run.stdout.contains("D180"), "{}", run.stdout);
    let trend = format!("Contoso: average day of each of the 25 weeks to {}\n  Office 365  ", sim.refresh_date());
    assert!(run.stdout.contains(&trend), "no `{trend}` in:\n{}", run.stdout);

    // A day that Microsoft leaves out is a gap.
    let gone = sim.refresh_date() - chrono::Days::new(2);
    sim.remove_date(TENANT_ID, gone);
    program.once(&[]).await;
    let status = program.run(&["status", "--json"]).await.expect_code(0).json();
    assert_eq!(status["gaps"][0]["gap_start"], json!(gone));
    assert_eq!((&status["gaps"][0]["gap_end"], &status["gaps"][0]["days"]), (&json!(gone), &json!(1)));
    assert_eq!(db.sizes().await[1], 179);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_shown_anew_until_it_is_stopped() {
    let Scene { sim: _sim, db: _db, program } = Scene::new().await;
    program.once(&[]).await;
    program.run(&["status", "--watch", "0"]).await.expect_code(2);
    program.run(&["status", "--watch", "--json"]).await.expect_code(2);
    let watching = program.spawn(&["status", "--watch", "1"]);
    eventually("it is shown three times", async || watching.log().matches("UTC, every 1 s").count() >= 3).await;
    assert!(watching.log().matches("D180").count() >= 2, "{}", watching.log());
    watching.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(watching.code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_was_changed_by_hand() {
    let Scene { sim: _sim, db, program } = Scene::new().await;
    program.once(&[]).await;
    let clean = program.verify().await;
    assert_eq!(clean["notes"], json!([]));
    let run = program.run(&["verify"]).await.expect_code(0);
    assert!(run.stdout.contains("4 snapshots, 307 facts, 180 current rows checked: nothing is lost"), "{}", run.stdout);

    sqlx::query(
        "UPDATE m365_store.office365_active_user_counts SET teams = teams + 1
         WHERE report_period = 30 AND report_date = (SELECT max(report_date) FROM m365_store.office365_active_user_counts)",
    )
    .execute(&db.pool)
    .await
    .expect("damaged");
    let verdict = program.run(&["verify", "--json"]).await.expect_code(1).json();
    let violations = verdict["violations"].as_array().expect("violations");
    assert_eq!(violations.len(), 1, "{verdict:#}");
    assert_eq!((&violations[0]["invariant"], &violations[0]["period"]), (&json!("I1"), &json!(30)));
}

fn check<'a>(document: &'a Value, what: &str) -> &'a Value {
    let checks = document["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("no {what} in {document:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_is_wrong_and_what_to_do() {
    let Scene { sim, db, program } = Scene::new().await;
    let document = program.run(&["doctor", "--json"]).await.expect_code(0).json();
    for what in ["configuration", "database", "tenant Contoso"] {
        assert_eq!(check(&document, what)["ok"], json!(true), "{document:#}");
    }
    assert_eq!(db.count("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'm365%'").await, 0, "it stores nothing");

    sim.set_consent(TENANT_ID, false);
    let document = program.run(&["doctor", "--json"]).await.expect_code(1).json();
    let tenant = check(&document, "tenant Contoso");
    assert_eq!((&tenant["ok"], &tenant["error_class"]), (&json!(false), &json!("auth_forbidden")));
    assert!(tenant["advice"].as_str().is_some_and(|advice| advice.contains("Reports.Read.All")), "{tenant:#}");
    let run = program.run(&["doctor"]).await.expect_code(1);
    assert!(run.stdout.contains("FAIL tenant Contoso") && run.stdout.contains("Reports.Read.All"), "{}", run.stdout);
    sim.set_consent(TENANT_ID, true);

    sim.set_secret_expired(TENANT_ID, true);
    let document = program.run(&["doctor", "--json"]).await.expect_code(1).json();
    let tenant = check(&document, "tenant Contoso");
    assert_eq!(tenant["error_class"], json!("auth_invalid_client"));
    assert!(tenant["detail"].as_str().is_some_and(|detail| detail.contains("expired")), "{tenant:#}");
    sim.set_secret_expired(TENANT_ID, false);

    let lost = format!("postgres://nobody@{}/nothing", free_address());
    let program = program.database(&lost).with("DATABASE__CONNECT_TIMEOUT", "1s");
    let document = program.run(&["doctor", "--json"]).await.expect_code(1).json();
    assert_eq!(check(&document, "database")["error_class"], json!("db_unavailable"));
    assert_eq!(check(&document, "tenant Contoso")["ok"], json!(true), "one fault does not hide the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_applied_once_and_on_request() {
    let Scene { sim, db, program } = Scene::new().await;
    let run = program.run(&["once", "--no-migrate"]).await.expect_code(78);
    run.expect_stderr(&["m365-ledger migrate"]);
    for command in [&["status"][..], &["verify"]] {
        program.run(command).await.expect_code(78).expect_stderr(&["m365-ledger migrate"]);
    }
    assert_eq!(db.count("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'm365%'").await, 0);
    assert!(sim.requests().is_empty());

    let run = program.run(&["migrate"]).await.expect_code(0);
    assert!(run.stdout.contains("migrations applied"), "{}", run.stdout);
    let run = program.run(&["migrate"]).await.expect_code(0);
    assert!(run.stdout.contains("up to date"), "{}", run.stdout);
    program.once(&["--no-migrate"]).await;
    assert_eq!(db.sizes().await, [307, 180, 0, 4]);

    // What a newer program may have done: a change this one does not mind, and one it does.
    sqlx::query("INSERT INTO m365_store.schema_change (version, breaking, description) VALUES (900, false, 'more')")
        .execute(&db.pool)
        .await
        .expect("a newer schema");
    program.once(&[]).await;
    sqlx::query("INSERT INTO m365_store.schema_change (version, breaking, description) VALUES (901, true, 'other')")
        .execute(&db.pool)
        .await
        .expect("a much newer schema");
    sim.clear_log();
    program.run(&["once"]).await.expect_code(78).expect_stderr(&["901", "newer"]);
    assert!(sim.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_in_force_can_be_seen_and_checked() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).expect("the stand-in starts");
    let program = Program::for_one_tenant(&sim).database("postgres://ledger:canary-db@db.example.com/m365");
    let file = program.file("c.toml", "[schedule]\ncron = \"0 3 * * *\"\n").display().to_string();
    let run = program.run(&["config", "show", "--config", &file]).await.expect_code(0);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let line = |name: &str| {
        let start = format!("{name} = ");
        *lines.iter().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {name}:\n{}", run.stdout))
    };
    assert_eq!(line("database.url"), "database.url = ***  # environment");
    assert_eq!(line("tenant.client_secret"), "tenant.client_secret = ***  # environment");
    assert_eq!(line("graph.cloud"), "graph.cloud = \"global\"  # default");
    assert!(line("schedule.cron").contains("0 3 * * *") && line("schedule.cron").contains("c.toml"), "{lines:?}");
    assert!(!run.stdout.contains("canary-db") && !run.stdout.contains(graph_sim::CLIENT_SECRET), "{}", run.stdout);

    let run = program.run(&["config", "check"]).await.expect_code(0);
    assert!(run.stdout.contains("tenants: 1, targets: 4"), "{}", run.stdout);

    // Each mistake is named, with the setting, and costs neither a call nor a connection.
    let mistakes: [(&str, &str, &[&str]); 8] = [
        ("GRAPH__CLOUD", "mars", &["graph.cloud"]),
        ("GRPAH__CLOUD", "global", &["grpah"]),
        ("TENANT__ID", "contoso", &["tenant.id"]),
        ("TENANT__CLIENT_SECRET_FILE", "/nowhere", &["tenant.client_secret", "client_secret_file"]),
        ("DATABASE__URL_FILE", "/nowhere", &["database.url", "url_file"]),
        ("SCHEDULE__CRON", "every day", &["schedule.cron"]),
        ("GRAPH__BASE_URL", "http://graph.example.com", &["graph.base_url"]),
        ("REPORTS__MAILBOX_USAGE__ENABLED", "true", &["mailbox_usage"]),
    ];
    for (name, value, named) in mistakes {
        let wrong = Program::for_one_tenant(&sim)
            .with("DATABASE__URL", "postgres://ledger:canary-db@db.example.com/m365")
            .with(name, value);
        for command in [&["config", "check"][..], &["once"]] {
            let run = wrong.run(command).await.expect_code(78);
            run.expect_stderr(named);
            assert!(!run.stderr.contains("canary-db"), "{}", run.stderr);
        }
    }
    program.run(&["once", "--config", "missing.toml"]).await.expect_code(78).expect_stderr(&["missing.toml"]);
    assert!(sim.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tenant_it_says_which_variables_to_set() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).expect("the stand-in starts");
    let db = TestDb::create().await;
    let program = Program::towards(&sim).database(&db.url);
    for command in ["once", "run", "backfill", "doctor"] {
        program.run(&[command]).await.expect_code(78).expect_stderr(&[
            "no tenant is configured",
            "M365_LEDGER__TENANT__ID",
            "CLIENT_ID",
            "CLIENT_SECRET",
        ]);
    }
    program.run(&["config", "check"]).await.expect_code(0);
    let half = program.with("TENANT__ID", TENANT_ID.to_string());
    half.run(&["once"]).await.expect_code(78).expect_stderr(&["M365_LEDGER__TENANT__CLIENT_ID"]);
    let most = half.with("TENANT__CLIENT_ID", graph_sim::CLIENT_ID);
    most.run(&["once"]).await.expect_code(78).expect_stderr(&["M365_LEDGER__TENANT__CLIENT_SECRET"]);
    assert!(sim.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_may_be_in_a_file() {
    let Scene { sim, db, program } = Scene::new().await;
    let secret = program.file("secret", &format!("{}\n", graph_sim::CLIENT_SECRET));
    let url = program.file("url", &format!("{}\n", db.url));
    let filed = Program::for_one_tenant(&sim)
        .without("TENANT__CLIENT_SECRET")
        .with("TENANT__CLIENT_SECRET_FILE", secret.display().to_string())
        .with("DATABASE__URL_FILE", url.display().to_string());
    filed.once(&[]).await;
    assert_eq!(db.sizes().await, [307, 180, 0, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_said_at_once_and_costs_no_call() {
    let sim = Sim::start(Config::one_tenant().without_throttle()).expect("the stand-in starts");
    let address = free_address();
    let program = Program::for_one_tenant(&sim).database(&format!("postgres://ledger:canary-db@{address}/m365"));
    for command in [&["once"][..], &["backfill"], &["status"], &["verify"], &["migrate"]] {
        let run = program.run(command).await.expect_code(69);
        assert!(run.took < PATIENCE / 9, "{command:?} took {:?}", run.took);
        assert!(!run.stderr.contains("canary-db"), "{}", run.stderr);
        run.expect_stderr(&["no connection to Postgres", "Connection refused"]);
        assert_eq!(run.stderr.matches("refused").count(), 1, "said once: {}", run.stderr);
    }
    assert_eq!([sim.calls(Host::Login), sim.calls(Host::Graph), sim.calls(Host::Download)], [0; 3]);
}
