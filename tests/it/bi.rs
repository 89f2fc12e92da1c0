//! What `bi/` and the documentation hand out: its SQL runs, as the reader, and names what there is.

use std::{collections::BTreeSet, fs, path::Path};

use graph_sim::TENANT_ID;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Column as _, Executor as _, PgConnection, Row as _, TypeInfo as _, pool::PoolConnection};

use crate::support::{Scene, TestDb};

pub fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fetched twice, with a corrected day between, and read with the rights of the reader.
pub async fn scene() -> (Scene, PoolConnection<sqlx::Postgres>) {
    let scene = Scene::new().await;
    scene.program.once(&[]).await;
    scene.sim.advance_days(1);
    scene.program.once(&[]).await;
    let mut connection = scene.db.pool.acquire().await.expect("a connection");
    connection.execute("SET ROLE m365_reader").await.expect("the reader");
    (scene, connection)
}

/// Every `view.column` of the contract, and every `view.`.
async fn contract(db: &TestDb) -> BTreeSet<String> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'm365_v1'
         UNION ALL SELECT viewname || '.' FROM pg_views WHERE schemaname = 'm365_v1'",
    )
    .fetch_all(&db.pool)
    .await
    .expect("the catalogue");
    names.into_iter().collect()
}

/// Every text under `key`, wherever it stands.
fn texts<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|value| texts(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

/// As Grafana puts values into it, with everything from a point in time on in view.
fn without_macros(sql: &str, from: &str) -> String {
    let mut sql = sql.replace("${tenant:sqlstring}", &format!("'{TENANT_ID}'"));
    while let Some(start) = sql.find("$__timeFilter(") {
        let end = start + sql[start..].find(')').expect("it is closed");
        let column = sql[start + "$__timeFilter(".len()..end].to_owned();
        let range = format!("{column} BETWEEN '{from}' AND '2100-01-01T00:00:00Z'");
        sql.replace_range(start..=end, &range);
    }
    assert!(!sql.contains('$'), "unknown macro: {sql}");
    sql
}

pub async fn run(connection: &mut PgConnection, sql: &str) -> Vec<sqlx::postgres::PgRow> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await;
    rows.unwrap_or_else(|error| panic!("{error}\n{sql}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_the_dashboard_runs() {
    let (_scene, mut connection) = scene().await;
    let dashboard: Value = serde_json::from_str(&read("bi/grafana/dashboard.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() >= 8);
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}: no description");
        assert_eq!(panel["datasource"]["uid"], "m365-ledger", "{title}");
        for target in panel["targets"].as_array().expect("targets") {
            let sql = target["rawSql"].as_str().expect("rawSql");
            let rows = run(&mut connection, &without_macros(sql, "2000-01-01T00:00:00Z")).await;
            assert!(!rows.is_empty() || title == "Missing days", "{title}: no rows");
            if target["format"] == "time_series" {
                let first = rows[0].column(0);
                assert_eq!((first.name(), first.type_info().name()), ("time", "TIMESTAMPTZ"), "{title}");
                let times: Vec<chrono::DateTime<chrono::Utc>> = rows.iter().map(|row| row.get(0)).collect();
                assert!(times.is_sorted(), "{title}: not in order of time");
                // One text column at the most, which makes the series; the others are numbers.
                let types: Vec<&str> = rows[0].columns()[1..].iter().map(|column| column.type_info().name()).collect();
                let numbers = types.iter().filter(|name| ["INT8", "NUMERIC"].contains(name)).count();
                let texts = types.iter().filter(|name| **name == "TEXT").count();
                assert!(texts <= 1 && numbers >= 1 && texts + numbers == types.len(), "{title}: {types:?}");
                let last = times[times.len() - 1];
                let rows = run(&mut connection, &without_macros(sql, &last.to_rfc3339())).await;
                assert!(!rows.is_empty(), "{title}");
                assert!(rows.iter().all(|row| row.get::<chrono::DateTime<chrono::Utc>, _>(0) == last), "{title}");
            }
        }
    }
    let mut all = Vec::new();
    texts(&dashboard, "rawSql", &mut all);
    assert_eq!(all.len(), panels.len(), "every rawSql was run");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    for variable in variables {
        let rows = run(&mut connection, variable["query"].as_str().expect("a query")).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].get::<String, _>("__value"), TENANT_ID.to_string());
    }
    let source = read("bi/grafana/provisioning/datasources/m365-ledger.yaml");
    assert!(source.contains("uid: m365-ledger"));
}

/// What stands in ```` ```sql ```` blocks, statement by statement.
fn statements(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in markdown.split("```sql\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        found.extend(block.split(";\n").filter(|sql| !sql.trim().is_empty()).map(str::to_owned));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_the_documentation_runs() {
    let (_scene, mut connection) = scene().await;
    for (file, at_least) in [("docs/queries.md", 12), ("README.md", 3), ("bi/metabase.md", 3)] {
        let statements = statements(&read(file));
        assert!(statements.len() >= at_least, "{file}: {} statements", statements.len());
        for sql in statements {
            // As Metabase puts values into it.
            let sql = sql.replace("{{tenant}}", "'Contoso'").replace("{{day}}", "DATE '2026-01-31'");
            run(&mut connection, &sql).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dbt_and_power_bi_name_what_there_is() {
    let (scene, _connection) = scene().await;
    let contract = contract(&scene.db).await;
    let sources = yaml("bi/dbt/sources.yml");
    let source = &sources["sources"][0];
    assert_eq!(source["schema"], "m365_v1");
    let mut columns = 0;
    for table in source["tables"].as_array().expect("tables") {
        let name = table["name"].as_str().expect("a name");
        let of = |key: &Value| format!("{name}.{}", key.as_str().unwrap_or_default());
        assert!(contract.contains(&of(&Value::Null)), "sources.yml: no view {name}");
        let listed = table["columns"].as_array().expect("columns").iter().map(|column| &column["name"]);
        for column in listed.chain(table.get("loaded_at_field")) {
            assert!(contract.contains(&of(column)), "sources.yml: no {}", of(column));
            columns += 1;
        }
    }
    assert!(columns >= 15, "{columns}");

    let queries = read("bi/powerbi/m365-ledger.pq");
    let views: Vec<&str> = queries.split("Item = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(views, ["active_users_daily_long", "tenants", "products", "calendar"]);
    let columns =
        queries.split("SelectColumns(View, {").nth(1).and_then(|rest| rest.split('}').next()).expect("columns");
    for column in columns.split(", ").map(|column| column.trim_matches('"')) {
        assert!(contract.contains(&format!("active_users_daily_long.{column}")), "{column}");
    }
    let file: Value = serde_json::from_str(&read("bi/powerbi/m365-ledger.pbids")).expect("it is JSON");
    assert_eq!(file["connections"][0]["details"]["protocol"], "postgresql");
    let readme = read("bi/README.md");
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(['#', ')']).next()) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("bi").join(link).exists(), "bi/README.md: {link}");
    }
}
