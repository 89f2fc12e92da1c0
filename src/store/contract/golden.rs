//! The contract against `tests/golden/m365_v1.txt`: objects, columns in their order, types and comments.

use std::{collections::BTreeMap, fs, path::Path};

use sqlx::PgPool;

use crate::config::environment;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/m365_v1.txt");
const RENEW: &str = "RENEW_GOLDEN=1 scripts/test-db.sh run cargo test --lib the_contract_is_the_golden_file";

/// One object a paragraph: a line for itself, one for each column, indented.
async fn described(pool: &PgPool) -> String {
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT line FROM (
             SELECT c.relname AS object, a.attnum,
                    coalesce(E'\t' || a.attname || E'\t' || format_type(a.atttypid, a.atttypmod), 'view ' || c.relname)
                    || E'\t' || coalesce(col_description(c.oid, a.attnum), obj_description(c.oid, 'pg_class'), '') AS line
             FROM pg_class c
             CROSS JOIN LATERAL (
                 SELECT 0 AS attnum, NULL::name AS attname, NULL::oid AS atttypid, NULL::integer AS atttypmod
                 UNION ALL
                 SELECT attnum, attname, atttypid, atttypmod FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
             ) a
             WHERE c.relnamespace = 'm365_v1'::regnamespace
             UNION ALL
             SELECT p.proname, n.line, n.text
             FROM pg_proc p
             CROSS JOIN LATERAL (VALUES
                 (0, 'function ' || p.proname || E'\t' || coalesce(obj_description(p.oid, 'pg_proc'), '')),
                 (1, E'\targuments\t' || pg_get_function_arguments(p.oid)),
                 (2, E'\tresult\t' || pg_get_function_result(p.oid))
             ) AS n (line, text)
             WHERE p.pronamespace = 'm365_v1'::regnamespace
         ) l ORDER BY object COLLATE \"C\", attnum",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    lines.join("\n") + "\n"
}

/// Lines by object, without the comments.
fn objects(text: &str) -> BTreeMap<&str, Vec<String>> {
    let mut objects: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut object = "";
    for line in text.lines() {
        let mut parts = line.split('\t');
        match parts.next() {
            Some("") => {
                let column: Vec<&str> = parts.take(2).collect();
                objects.entry(object).or_default().push(column.join(" "));
            }
            name => {
                object = name.unwrap_or_default();
                objects.entry(object).or_default();
            }
        }
    }
    objects
}

/// What a dashboard that was built on `old` would miss in `new`.
fn broken(old: &str, new: &str) -> Vec<String> {
    let new = objects(new);
    let mut broken = Vec::new();
    for (object, columns) in objects(old) {
        let Some(now) = new.get(object) else {
            broken.push(format!("{object} is gone"));
            continue;
        };
        for (number, column) in columns.iter().enumerate() {
            if now.get(number) != Some(column) {
                let instead = now.get(number).map_or("nothing", String::as_str);
                broken.push(format!("{object}: column {} was `{column}`, is `{instead}`", number + 1));
            }
        }
    }
    broken
}

#[sqlx::test]
async fn the_contract_is_the_golden_file(pool: PgPool) {
    let is = described(&pool).await;
    let was = fs::read_to_string(GOLDEN).unwrap_or_default();
    let broken = broken(&was, &is);
    assert!(
        broken.is_empty(),
        "m365_v1 is a promise to dashboards: views and columns are only ever added, columns at the end. Anything else is \
         m365_v2 beside it.\n{}",
        broken.join("\n")
    );
    if environment().contains_key("RENEW_GOLDEN") {
        fs::create_dir_all(Path::new(GOLDEN).parent().unwrap()).unwrap();
        fs::write(GOLDEN, &is).unwrap();
        return;
    }
    let differing: Vec<String> = was
        .lines()
        .filter(|line| !is.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .chain(is.lines().filter(|line| !was.lines().any(|other| other == *line)).map(|line| format!("+ {line}")))
        .collect();
    assert!(
        is == was,
        "m365_v1 is not what tests/golden/m365_v1.txt says. If what was added or said better is meant, renew it with\n  \
         {RENEW}\nand commit it with the migration, docs/data-model.md and CHANGELOG.md.\n{}",
        differing.join("\n")
    );
}

#[test]
fn only_additions_at_the_end_keep_the_contract() {
    let old = "view a\tWords.\n\tone\ttext\tWords.\n\ttwo\tdate\tWords.\nview b\tWords.\n\tone\ttext\tWords.\n";
    for (new, wrong) in [
        (old.replace("Words", "Better words"), None),
        (old.replace("view b", "\tthree\ttext\tWords.\nview b"), None),
        (format!("{old}view c\tWords.\n"), None),
        (old.replace("\ttwo\tdate", "\ttwo\ttext"), Some("view a: column 2 was `two date`, is `two text`")),
        (old.replace("view b", "view c"), Some("view b is gone")),
        (old.replace("\tone\ttext\tWords.\n\ttwo", "\ttwo"), Some("view a: column 1 was `one text`, is `two date`")),
    ] {
        assert_eq!(broken(old, &new).first().map(String::as_str), wrong, "{new}");
    }
}
