//! `docs/questions.md`: its answers are what its SQL gives, on a history that the program itself has fetched.

use std::{fmt::Write as _, fs, path::Path};

use chrono::NaiveDate;
use graph_sim::{Config, Sim};
use m365_ledger::config::environment;
use sqlx::{
    AssertSqlSafe, Column as _, Executor as _, PgConnection, Row as _, TypeInfo as _, ValueRef as _,
    postgres::{PgRow, PgValueFormat},
};

use crate::support::{Program, TestDb};

const PAGE: &str = "docs/questions.md";
const RENEW: &str = "RENEW_ANSWERS=1 scripts/test-db.sh run cargo test --all-features --test it questions::";
const NAMES: [&str; 3] = ["Contoso", "Fabrikam", "Tailspin"];

fn date(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

/// The stand-in on this refresh date, where Tailspin has so many users, and the program set up for it.
fn world(refresh: &str, tailspin: u64, db: &TestDb) -> (Sim, Program) {
    let mut config = Config::many(3).refresh_date(date(refresh)).without_throttle();
    config.tenants[2].users = tailspin;
    let sim = Sim::start(config).expect("the stand-in starts");
    let mut toml = String::new();
    for (name, tenant) in NAMES.iter().zip(&sim.config().tenants) {
        writeln!(
            toml,
            "[[tenants]]\nid = \"{}\"\nname = \"{name}\"\nclient_id = \"{}\"\nclient_secret = \"{}\"",
            tenant.id, tenant.client_id, tenant.client_secret
        )
        .expect("text");
    }
    let program = Program::towards(&sim).database(&db.url);
    program.file("tenants.toml", &toml);
    (sim, program)
}

/// What the page says of its data, lived through.
async fn history() -> TestDb {
    let db = TestDb::create().await;
    let fetch = async |program: &Program, code| {
        program.run(&["once", "--config", "tenants.toml"]).await.expect_code(code);
    };
    let (_sim, program) = world("2025-02-28", 2_460, &db);
    fetch(&program, 0).await;

    // The next body reaches back to 5 March. In between Tailspin lost people.
    let (sim, program) = world("2025-08-31", 2_200, &db);
    let [contoso, fabrikam] = [0, 1].map(|number| sim.config().tenants[number].id);
    sim.remove_date(contoso, date("2025-09-20"));
    fetch(&program, 0).await;
    for day in 20..=29 {
        sim.set_refresh_date(date(&format!("2025-10-{day}")));
        fetch(&program, 0).await;
    }
    sim.set_consent(fabrikam, false);
    for day in 30..=31 {
        sim.set_refresh_date(date(&format!("2025-10-{day}")));
        fetch(&program, 1).await;
    }
    sim.reissue(contoso);
    fetch(&program, 1).await;
    db
}

/// A row as text; what is not null, as PostgreSQL writes it.
fn cells(row: &PgRow) -> Vec<String> {
    let cell = |number: usize| {
        let value = row.try_get_raw(number).expect("the column is there");
        assert_eq!(value.format(), PgValueFormat::Text);
        if value.is_null() {
            return "-".to_owned();
        }
        let text = value.as_str().expect("it is text");
        match (row.column(number).type_info().name(), text) {
            ("BOOL", "t") => "yes".to_owned(),
            ("BOOL", _) => "no".to_owned(),
            _ => text.to_owned(),
        }
    };
    (0..row.len()).map(cell).collect()
}

/// A table as psql draws it.
fn table(rows: &[PgRow]) -> String {
    let Some(first) = rows.first() else { return "(no rows)\n".to_owned() };
    let names: Vec<String> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    let is_number =
        |number: usize| ["INT2", "INT4", "INT8", "NUMERIC"].contains(&first.column(number).type_info().name());
    let lines: Vec<Vec<String>> = std::iter::once(names).chain(rows.iter().map(cells)).collect();
    let widths: Vec<usize> =
        (0..first.len()).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let padded = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if is_number(column) { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") }
        });
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("|").trim_end());
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            let _ = writeln!(text, "{}", rule.join("+"));
        }
    }
    text
}

async fn answer(connection: &mut PgConnection, sql: &str) -> String {
    // The simple protocol, for values in their text form.
    let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    table(&rows.unwrap_or_else(|error| panic!("{error}\n{sql}")))
}

/// The page with every ```` ```text ```` block behind a ```` ```sql ```` block replaced by what the SQL gives, and how many.
async fn answered(page: &str, connection: &mut PgConnection) -> (String, usize) {
    let mut written = String::new();
    let mut rest = page;
    let mut answers = 0;
    while let Some((before, block)) = rest.split_once("```sql\n") {
        let (sql, after) = block.split_once("```\n").expect("the block of SQL ends");
        let (_, after) = after
            .strip_prefix("\n```text\n")
            .and_then(|answer| answer.split_once("```\n"))
            .unwrap_or_else(|| panic!("no ```text block follows\n{sql}"));
        let answer = answer(connection, sql).await;
        let _ = write!(written, "{before}```sql\n{sql}```\n\n```text\n{answer}```\n");
        rest = after;
        answers += 1;
    }
    (written + rest, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_are_what_the_sql_gives() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).expect("the page is there");
    assert_eq!(page.matches("\n## ").count(), 10, "ten questions");
    let db = history().await;
    let mut connection = db.pool.acquire().await.expect("a connection");
    connection.execute("SET ROLE m365_reader").await.expect("the reader");
    let (answered, answers) = answered(&page, &mut connection).await;
    assert!(answers >= 10, "{answers}");
    if environment().contains_key("RENEW_ANSWERS") {
        fs::write(&path, answered).expect("the page can be written");
        return;
    }
    for (number, (is, should)) in page.lines().zip(answered.lines()).enumerate() {
        assert_eq!(is, should, "{PAGE}:{}: the SQL gives something else; if that is right:\n  {RENEW}\n", number + 1);
    }
    assert_eq!(page.len(), answered.len(), "{PAGE}: lines are missing or too many at the end");
}
