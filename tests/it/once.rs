//! One pass over one tenant: what is stored, what a second pass leaves alone, and how a pass is narrowed.

use std::{collections::BTreeSet, fmt::Write as _};

use chrono::NaiveDate;
use graph_sim::{Config, Host, Period, Sim, TENANT_ID};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{ALL_ROWS, Program, REPORT, Scene, Served, TestDb, line};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_alone_is_enough_for_all_four_periods() {
    let Scene { sim, db, program } = Scene::new().await;
    let run = program.run(&["once", "--json"]).await.expect_code(0);
    let document = run.json();

    let served = Served::of(&sim, TENANT_ID);
    served.assert_stored(&db, TENANT_ID).await;
    assert_eq!(db.sizes().await, [307, 180, 0, 4]);
    assert!(db.current(TENANT_ID).await.values().all(|((_, period), _)| *period == 180));

    // A blank is NULL and never 0: the stand-in has both kinds of cells in these columns.
    let blanks = served.bodies.values().flat_map(|rows| rows.values()).filter(|row| row[4].is_none()).count();
    assert!(blanks > 0 && blanks < ALL_ROWS);
    let stored = "SELECT count(*) FROM m365_store.office365_active_user_counts WHERE skype_for_business IS NULL AND extra IS NULL";
    assert_eq!(usize::try_from(db.count(stored).await), Ok(blanks));

    assert_eq!(keys(&document), ["targets", "totals"].into());
    assert_eq!(
        document["totals"],
        json!({
            "targets": 4, "stored": 4, "unchanged": 0, "empty": 0, "rejected": 0, "failed": 0,
            "rows_inserted": 307, "rows_updated": 0, "rows_unchanged": 0,
        })
    );
    assert_eq!(document["targets"].as_array().map(Vec::len), Some(4));
    for period in Period::ALL {
        let expected = json!({
            "tenant": TENANT_ID, "tenant_name": "Contoso", "report": REPORT, "period": period.to_string(),
            "outcome": "stored", "error_class": null, "message": null, "refresh_date": sim.refresh_date(),
            "rows_inserted": period.days(), "rows_updated": 0, "rows_unchanged": 0,
        });
        assert_eq!(line(&document, &period.to_string()), &expected);
    }
    assert!(run.stderr.lines().count() > 0, "logs go to stderr");

    let verdict = program.verify().await;
    assert_eq!((&verdict["snapshots"], &verdict["facts"], &verdict["current"]), (&json!(4), &json!(307), &json!(180)));

    // One sign-in, one call and one download for each period, and the token stays with Graph.
    assert_eq!([sim.calls(Host::Login), sim.calls(Host::Graph), sim.calls(Host::Download)], [1, 4, 4]);
    assert_eq!(sim.authorization_leaks(), 0);
}

/// Tenant, day, `office_365`, `yammer`, `is_final`.
type Daily = (String, NaiveDate, Option<i64>, Option<i64>, bool);

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_shows_the_same_figures() {
    let Scene { sim, db, program } = Scene::new().await;
    program.once(&[]).await;
    let daily: Vec<Daily> = sqlx::query_as(
        "SELECT tenant_id, report_date, office_365, yammer, is_final FROM m365_v1.active_users_daily ORDER BY report_date",
    )
    .fetch_all(&db.pool)
    .await
    .expect("the view can be read");
    let refresh = sim.refresh_date();
    let expected: Vec<_> = sim
        .expected_rows(TENANT_ID, Period::D180)
        .into_iter()
        .map(|(date, figures)| (TENANT_ID.to_string(), date, figures[0], figures[5], (refresh - date).num_days() >= 3))
        .collect();
    assert_eq!(daily, expected);
    assert_eq!(db.count("SELECT count(*) FROM m365_v1.active_users_daily_long").await, 180 * 7);
    assert_eq!(db.count("SELECT count(*) FROM m365_v1.active_users_snapshots").await, 307);
    assert_eq!(db.count("SELECT count(*) FROM m365_v1.freshness WHERE state = 'ok'").await, 4);
    assert_eq!(db.count("SELECT count(*) FROM m365_v1.period_disagreements").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM m365_v1.coverage_gaps").await, 0);
}

const DATA: [&str; 4] = [
    "office365_active_user_counts",
    "office365_active_user_counts_current",
    "office365_active_user_counts_superseded",
    "snapshot",
];

/// Where every row version of the data lies and which transaction wrote it.
async fn versions(pool: &PgPool) -> Vec<(String, String, String)> {
    let sql = DATA.map(|table| format!("SELECT '{table}', ctid::text, xmin::text FROM m365_store.{table}"));
    let sql = sqlx::AssertSqlSafe(format!("{} ORDER BY 1, 2", sql.join(" UNION ALL ")));
    sqlx::query_as(sql).fetch_all(pool).await.expect("row versions can be read")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pass_writes_no_row_of_the_data() {
    let Scene { sim, db, program } = Scene::new().await;
    program.once(&[]).await;
    let before = versions(&db.pool).await;
    assert_eq!(before.len(), 307 + 180 + 4);

    let document = program.once(&[]).await;
    let totals = &document["totals"];
    assert_eq!((&totals["stored"], &totals["unchanged"]), (&json!(0), &json!(4)));
    let rows = (&totals["rows_inserted"], &totals["rows_updated"], &totals["rows_unchanged"]);
    assert_eq!(rows, (&json!(0), &json!(0), &json!(307)));
    assert_eq!(versions(&db.pool).await, before);
    Served::of(&sim, TENANT_ID).assert_stored(&db, TENANT_ID).await;

    // The program's connections have ended, and flushed their counters as they did.
    let touched: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, n_dead_tup, n_tup_upd, n_tup_del FROM pg_stat_user_tables
         WHERE schemaname = 'm365_store' AND relname = ANY ($1) AND n_dead_tup + n_tup_upd + n_tup_del > 0",
    )
    .bind(DATA.map(str::to_owned).to_vec())
    .fetch_all(&db.pool)
    .await
    .expect("statistics can be read");
    assert_eq!(touched, []);
    assert_eq!(db.count("SELECT count(*) FROM m365_store.attempt WHERE outcome = 'unchanged'").await, 4);
    assert_eq!(db.count("SELECT count(*) FROM m365_store.slot WHERE outcome IS NULL").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM m365_store.worker").await, 0, "it signed off");
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_can_be_narrowed() {
    let sim = Sim::start(Config::many(3).without_throttle()).expect("the stand-in starts");
    let db = TestDb::create().await;
    let program = Program::towards(&sim).database(&db.url);
    let names = ["Adatum", "Fabrikam", "Tailspin Toys"];
    let mut toml = String::new();
    for (tenant, name) in sim.config().tenants.iter().zip(names) {
        writeln!(
            toml,
            "[[tenants]]\nid = \"{}\"\nname = \"{name}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"",
            tenant.id, tenant.client_id, tenant.client_secret
        )
        .expect("text");
    }
    let file = program.file("tenants.toml", &toml).display().to_string();
    let ids: Vec<Uuid> = sim.config().tenants.iter().map(|tenant| tenant.id).collect();
    let second = ids[1].to_string();
    let fetched = |document: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let lines = document["targets"].as_array().expect("targets");
        lines.iter().map(|line| (text(&line["tenant_name"]), text(&line["period"]))).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, period)| ((*name).to_owned(), (*period).to_owned())).collect()
    };

    let document = program.once(&["--config", &file, "--tenant", "tailspin toys", "--period", "D7"]).await;
    assert_eq!(fetched(&document), pairs(&[("Tailspin Toys", "D7")]));
    let document = program
        .once(&["--config", &file, "--tenant", &second, "--report", REPORT, "--period", "D30", "--period", "D7"])
        .await;
    assert_eq!(fetched(&document), pairs(&[("Fabrikam", "D30"), ("Fabrikam", "D7")]));
    let document =
        program.once(&["--config", &file, "--tenant", "Adatum", "--tenant", "Fabrikam", "--period", "D90"]).await;
    assert_eq!(fetched(&document), pairs(&[("Adatum", "D90"), ("Fabrikam", "D90")]));
    assert_eq!(db.sizes().await[0], 7 + 37 + 180);
    assert_eq!(sim.calls(Host::Graph), 5, "nothing else was asked for");

    let backfill = program.run(&["backfill", "--config", &file, "--json"]).await.expect_code(0).json();
    assert_eq!(fetched(&backfill), names.map(|name| (name.to_owned(), "D180".to_owned())));
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(db.facts(*id).await[&(sim.refresh_date(), 180)].len(), 180, "tenant {n}");
    }

    sim.clear_log();
    for (flags, code, named) in [
        (["--tenant", "Northwind"], 78, "Northwind"),
        (["--tenant", "5eed0001-c0de-4365-8000-00000000ffff"], 78, "5eed0001-c0de-4365-8000-00000000ffff"),
        (["--report", "mailbox_usage"], 78, "mailbox_usage"),
        (["--period", "D8"], 2, "D8"),
    ] {
        let run = program.run(&[&["once", "--config", &file], &flags[..]].concat()).await.expect_code(code);
        run.expect_stderr(&[named]);
    }
    let only_d7 = program.with("REPORTS__OFFICE365_ACTIVE_USER_COUNTS__PERIODS", "D7");
    let run = only_d7.run(&["once", "--config", &file, "--period", "D30", "--period", "D7"]).await.expect_code(78);
    run.expect_stderr(&["D30"]);
    assert!(sim.requests().is_empty(), "a mistake costs no call");
}
