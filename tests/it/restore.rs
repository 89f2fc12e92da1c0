//! What docs/operations.md and docs/runbook.md tell a person to do with the database, done as they say.

use std::{fs, path::Path, process::Stdio};

use chrono::{Days, NaiveDate};
use graph_sim::{Config, Period, TENANT_ID};
use m365_ledger::{clock::Clock, config::environment};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use crate::support::{Program, Scene, Served, TestDb};

/// Runs one of PostgreSQL's client programs.
async fn client(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", environment().remove("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The backup that docs/operations.md shows, of one database into another.
async fn dump_and_restore(from: &TestDb, to: &TestDb, program: &Program) {
    let command = "pg_dump -Fc -n m365_store -n m365_v1 -f m365-ledger.dump \"$DATABASE_URL\"";
    assert!(document("operations.md").contains(command), "the documented backup is the tested one");
    let dump = program.home.path().join("m365-ledger.dump");
    let dump = dump.to_str().expect("the path is text");
    client("pg_dump", &["-Fc", "-n", "m365_store", "-n", "m365_v1", "-f", dump, &from.url]).await;
    client("pg_restore", &["--exit-on-error", "--no-owner", "-d", &to.url, dump]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_a_hundred_days_old_heals_in_one_pass() {
    let today = Clock::System.now().date_naive();
    let then = today - Days::new(102);
    let Scene { sim, db, program } = Scene::with(Config::one_tenant().without_throttle().refresh_date(then)).await;
    program.once(&[]).await;
    let mut served = Served::of(&sim, TENANT_ID);

    let restored = TestDb::create().await;
    dump_and_restore(&db, &restored, &program).await;
    served.assert_stored(&restored, TENANT_ID).await;

    // The old database lived on, and is lost with what it had got since.
    sim.advance_days(50);
    program.once(&[]).await;
    drop(db);

    sim.advance_days(50);
    assert_eq!(sim.refresh_date(), then + Days::new(100));
    let program = program.database(&restored.url);
    program.verify().await;
    program.once(&[]).await;
    served.note(&sim, TENANT_ID, &Period::ALL);
    served.assert_stored(&restored, TENANT_ID).await;

    let dates: Vec<NaiveDate> = restored.current(TENANT_ID).await.into_keys().collect();
    let all: Vec<NaiveDate> = (then - Days::new(179)).iter_days().take(180 + 100).collect();
    assert_eq!(dates, all, "no report date is missing");
    assert_eq!(restored.count("SELECT count(*) FROM m365_v1.coverage_gaps").await, 0);
    assert_eq!(restored.count("SELECT count(*) FROM m365_v1.freshness WHERE state <> 'ok'").await, 0);
    program.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_can_be_deleted_and_the_others_stay() {
    let Scene { sim, db, program } = Scene::with(Config::many(2).without_throttle()).await;
    let other = sim.config().tenants[1].clone();
    program.once(&[]).await;
    let second = program
        .with("TENANT__ID", other.id.to_string())
        .with("TENANT__NAME", "Fabrikam")
        .with("TENANT__CLIENT_ID", &other.client_id)
        .with("TENANT__CLIENT_SECRET", &other.client_secret);
    second.once(&[]).await;
    let kept = db.facts(other.id).await;
    assert!(!kept.is_empty() && !db.facts(TENANT_ID).await.is_empty());

    let runbook = document("runbook.md");
    let (_, section) = runbook.split_once("## Delete a tenant").expect("the runbook has the section");
    let (_, sql) = section.split_once("```sql\n").expect("and its SQL");
    let (sql, _) = sql.split_once("```").expect("which ends");
    let sql = sql.replace("00000000-0000-0000-0000-000000000000", &TENANT_ID.to_string());
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db.pool).await.expect("the SQL of the runbook works");

    let everything = "SELECT coalesce(sum((xpath('/row/c/text()', query_to_xml(
             format('SELECT count(*) AS c FROM %s WHERE tenant_id = ''5eed0001-c0de-4365-8000-000000000000''', attrelid::regclass),
             false, true, '')))[1]::text::bigint), 0)::bigint
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'm365_store'::regnamespace AND relkind = 'r' AND attname = 'tenant_id'";
    assert_eq!(db.count(everything).await, 0, "nothing is left of it");
    assert_eq!(db.facts(other.id).await, kept);
    let verdict = second.verify().await;
    assert_eq!(verdict["violations"], json!([]));
}
