//! `bi/superset` against the contract: it names what there is, with its comments, and its SQL runs as the reader.
//! Whether Superset takes it, and shows what was served, is what `make test-bi` tries.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::bi::{read, run, scene, yaml};

const FOLDER: &str = "bi/superset";

/// The files of one of its folders, by their UUID.
fn files(folder: &str) -> BTreeMap<String, Value> {
    let folder = format!("{FOLDER}/{folder}");
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).expect("the folder is there");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string().expect("text");
    let file = |name| yaml(&format!("{folder}/{name}"));
    entries.map(|entry| file(name(entry))).map(|file| (text(&file, "uuid").to_owned(), file)).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value:#}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no {key} in {value:#}"))
}

/// Name, type and comment of each column.
fn columns(dataset: &Value) -> Vec<(String, String, String)> {
    let of = |column: &Value| {
        (
            text(column, "column_name").to_owned(),
            text(column, "type").to_lowercase(),
            text(column, "description").to_owned(),
        )
    };
    list(dataset, "columns").iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_datasets_are_the_views_and_their_metrics_run() {
    let (scene, mut connection) = scene().await;
    let database = yaml(&format!("{FOLDER}/databases/m365_ledger.yaml"));
    // What Superset's own exports have in place of a password; importing them, it asks for the real one.
    let masked = format!(":{}@", "X".repeat(10));
    assert!(text(&database, "sqlalchemy_uri").contains(&masked), "the password is asked for, not shipped");
    let datasets = files("datasets/m365_ledger");
    assert_eq!(datasets.len(), 7);
    for dataset in datasets.values() {
        let name = text(dataset, "table_name");
        assert_eq!(text(dataset, "database_uuid"), text(&database, "uuid"), "{name}");
        assert_eq!(text(dataset, "schema"), "m365_v1", "{name}");
        let sql = dataset["sql"].as_str();
        let view = if sql.is_some() { "active_users_daily" } else { name };
        let mut expected: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, atttypmod), col_description(attrelid, attnum) FROM pg_attribute
             WHERE attrelid = ('m365_v1.' || $1)::regclass ORDER BY attnum",
        )
        .bind(view)
        .fetch_all(&scene.db.pool)
        .await
        .expect("there is such a view");
        let mut columns = columns(dataset);
        if sql.is_some() {
            assert_eq!(columns.remove(0).0, "as_of", "{name}");
        } else {
            let comment: String = sqlx::query_scalar("SELECT obj_description(('m365_v1.' || $1)::regclass)")
                .bind(view)
                .fetch_one(&scene.db.pool)
                .await
                .expect("it has a comment");
            assert_eq!(text(dataset, "description"), comment, "{name}");
        }
        // Names, types and comments; a column that came later is missing here.
        expected.retain(|column| !columns.contains(column));
        assert_eq!(expected, [], "{name}");

        let from =
            sql.map_or_else(|| format!("m365_v1.{name}"), |sql| format!("({sql} WHERE c.date = current_date) v"));
        for metric in list(dataset, "metrics") {
            assert!(!text(metric, "description").is_empty(), "{metric}");
            let rows = run(&mut connection, &format!("SELECT {} FROM {from}", text(metric, "expression"))).await;
            assert_eq!(rows.len(), 1, "{metric}");
        }
    }
}

#[test]
fn its_charts_and_its_dashboard_refer_to_what_it_holds() {
    assert_eq!(text(&yaml(&format!("{FOLDER}/metadata.yaml")), "type"), "Dashboard");
    let datasets = files("datasets/m365_ledger");
    let charts = files("charts");
    for chart in charts.values() {
        let dataset = &datasets[text(chart, "dataset_uuid")];
        let names = |kind: &str, name: &str| -> Vec<String> {
            list(dataset, kind).iter().map(|one| text(one, name).to_owned()).collect()
        };
        let (columns, metrics) = (names("columns", "column_name"), names("metrics", "metric_name"));
        let params = &chart["params"];
        let used = |key: &str| params[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        for column in used("all_columns").chain(used("groupby")).chain(params["x_axis"].as_str()) {
            assert!(columns.iter().any(|name| name == column), "{chart:#}: no column {column}");
        }
        for metric in used("metrics") {
            assert!(metrics.iter().any(|name| name == metric), "{chart:#}: no metric {metric}");
        }
        assert!(!text(chart, "description").is_empty());
    }

    let dashboard = yaml(&format!("{FOLDER}/dashboards/active_users.yaml"));
    let position = dashboard["position"].as_object().expect("a layout");
    let mut placed: Vec<&str> = position.values().filter_map(|part| part["meta"]["uuid"].as_str()).collect();
    placed.sort_unstable();
    assert_eq!(placed, charts.keys().map(String::as_str).collect::<Vec<_>>(), "each chart once");
    for filter in list(&dashboard["metadata"], "native_filter_configuration") {
        for target in list(filter, "targets").iter().filter(|target| target["column"].is_object()) {
            let dataset = &datasets[text(target, "datasetUuid")];
            let column = text(&target["column"], "name");
            assert!(columns(dataset).iter().any(|(name, ..)| name == column), "no column {column}");
        }
    }
    // What bi/README.md says of it.
    assert!(read("bi/README.md").contains(text(&dashboard, "dashboard_title")));
}
